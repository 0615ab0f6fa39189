"""Figures of merit: distances, and exact ranking without sorting the gallery."""

from torchreid_xres.metrics.distance import distance_matrix, distance_tiles
from torchreid_xres.metrics.rank import (
    RankResult,
    evaluate_rank,
    rank_distances,
    rank_features,
    rank_tiles,
)
from torchreid_xres.metrics.roc import Roc

__all__ = [
    "RankResult",
    "Roc",
    "distance_matrix",
    "distance_tiles",
    "evaluate_rank",
    "rank_distances",
    "rank_features",
    "rank_tiles",
]
