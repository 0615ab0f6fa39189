"""Figures of merit: distances, exact ranking without sorting the gallery, re-ranking, search in large galleries."""

from torchreid_xres.metrics.distance import distance_matrix, distance_tiles
from torchreid_xres.metrics.rank import (
    RankResult,
    evaluate_rank,
    rank_distances,
    rank_features,
    rank_tiles,
)
from torchreid_xres.metrics.rerank import re_ranking, reranked_distances
from torchreid_xres.metrics.roc import Roc
from torchreid_xres.metrics.search import GalleryIndex, merge_shards

__all__ = [
    "GalleryIndex",
    "RankResult",
    "Roc",
    "distance_matrix",
    "distance_tiles",
    "evaluate_rank",
    "merge_shards",
    "rank_distances",
    "rank_features",
    "rank_tiles",
    "re_ranking",
    "reranked_distances",
]
