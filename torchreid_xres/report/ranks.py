"""The ranked lists behind an evaluation's figures: which queries do worst or best, and what is found for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.nn import functional as F

from torchreid_xres.data.base import DATASETS
from torchreid_xres.engine.features import FeatureSet
from torchreid_xres.engine.run import Run
from torchreid_xres.metrics import distance_matrix, rank_distances
from torchreid_xres.metrics.protocols import Labels, SingleShot, VehicleID
from torchreid_xres.metrics.rerank import reranked_distances

CHOICES = ("worst", "best", "random")


class RankList(NamedTuple):
    """The head of one query's ranked list.

    Attributes:
        query: index among the queries.
        gallery: (k,) indices in the gallery, nearest first.
        distances: (k,) of these.
        hits: (k,) bool: of the query's identity.
        ap: the query's average precision, 0 to 1; over the draws, where the protocol draws.
        first: rank of the first match, from 1; the median over the draws.
    """

    query: int
    gallery: np.ndarray
    distances: np.ndarray
    hits: np.ndarray
    ap: float
    first: float


def rank_lists(
    query: FeatureSet,
    gallery: FeatureSet,
    *,
    choose: str = "worst",
    count: int = 10,
    top: int = 10,
    metric: str = "cosine",
    rerank: bool = False,
    protocol: str = "market",
    draws: int = 10,
    seed: int = 0,
    random_seed: int = 0,
) -> list[RankList]:
    """Rank the gallery for the queries that do worst, or best, or for any.

    A list holds what the evaluation's does: no image of the query's identity under its own camera; of a protocol that
    draws, the images of the first draw.

    Args:
        query: the queries.
        gallery: what they are searched in, by the same model.
        choose: ``worst`` or ``best`` by average precision, then by the first match's rank, or ``random``.
        count: at most so many queries.
        top: at most so many gallery images for each.
        metric: ``cosine`` or ``euclidean``.
        rerank: re-rank the lists (k-reciprocal).
        protocol: ``market``, ``single_shot`` or ``vehicleid``.
        draws: of a protocol that draws.
        seed: of the draws.
        random_seed: of the choice ``random``.

    Returns:
        The lists, the worst (best, first) query first. Queries without a match have none.

    Raises:
        ValueError: for another choice, numbers below 1, features of two models, or if no query has a match.

    Example:
        >>> import torch
        >>> facts = {"low": [False] * 2, "rate": [1.0] * 2, "size": [[8, 4]] * 2, "dataset": "d", "model": "m"}
        >>> facts |= {"names": ["a", "b"], "weights_sha256": ""}
        >>> q = FeatureSet(torch.tensor([[1.0, 0], [0, 1]]), [5, 6], [0, 0], role="query", **facts)
        >>> g = FeatureSet(torch.tensor([[1.0, 0], [1, 0.2]]), [5, 6], [1, 1], role="gallery", **facts)
        >>> [(one.query, one.gallery.tolist(), one.hits.tolist()) for one in rank_lists(q, g, top=1)]
        [(0, [0], [True]), (1, [1], [True])]
    """
    if choose not in CHOICES:
        raise ValueError(f"queries are chosen as one of {', '.join(CHOICES)}, not {choose!r}")
    if count < 1 or top < 1:
        raise ValueError(f"at least 1 query and 1 gallery image are shown, not {count} and {top}")
    if (query.weights_sha256, query.dataset) != (gallery.weights_sha256, gallery.dataset):
        raise ValueError("queries and gallery are not of one model and data set")
    distances = np.asarray(
        (reranked_distances if rerank else distance_matrix)(query.features, gallery.features, metric)
    )
    labels = (query.pid, gallery.pid, query.camid, gallery.camid)
    result = rank_distances(distances, *labels, protocol=protocol, draws=draws, seed=seed)
    allowed = _Allowed(protocol, labels, draws, seed)
    ranks = np.atleast_2d(np.where(result.first < 0, np.nan, result.first + 1.0))
    shown = np.flatnonzero(result.valid & allowed.taken)
    first = np.nanmedian(ranks[:, shown], axis=0)
    if choose == "random":
        order = np.random.default_rng(random_seed).permutation(len(shown))
    else:
        sign = 1 if choose == "worst" else -1
        order = np.lexsort((-sign * first, sign * result.ap[shown]))
    lists = []
    for i in order[:count]:
        q = int(shown[i])
        candidates = allowed.gallery(q)
        nearest = candidates[np.argsort(distances[q, candidates], kind="stable")[:top]]
        hits = gallery.pid[nearest] == query.pid[q]
        lists.append(RankList(q, nearest, distances[q, nearest], hits, float(result.ap[q]), float(first[i])))
    return lists


class _Allowed:
    """Which gallery images a query's list may hold under a protocol, and whether it takes part in the first draw."""

    def __init__(self, protocol: str, labels: Sequence[np.ndarray], draws: int, seed: int) -> None:
        self.q_pid, self.g_pid, self.q_cam, self.g_cam = labels
        self.drawn = None
        self.taken = np.ones(len(self.q_pid), dtype=bool)
        if protocol == "single_shot":
            self.drawn = SingleShot(Labels(*labels), draws, seed)
        elif protocol == "vehicleid":
            cameras = np.zeros(len(self.q_pid)), np.ones(len(self.g_pid))
            self.drawn = VehicleID(Labels(self.q_pid, self.g_pid, *cameras), draws, seed)
        if self.drawn is not None:
            self.taken = self.drawn.match[0] >= 0

    def gallery(self, q: int) -> np.ndarray:
        """Return gallery indices, ascending."""
        own = self.g_pid == self.q_pid[q]
        if self.drawn is None:
            return np.flatnonzero(~(own & (self.g_cam == self.q_cam[q])))
        kept = self.drawn.kept[0]
        return np.sort(np.append(kept[~own[kept]], self.drawn.match[0, q]))


def normalized(features: FeatureSet) -> FeatureSet:
    """Return the same with features of length 1."""
    changed = copy.copy(features)
    object.__setattr__(changed, "features", F.normalize(features.features, dim=1))
    return changed


def run_protocol(run: Run, dataset: str) -> dict[str, Any]:
    """Return how a run ranks a data set, as keywords of :func:`rank_lists` (but for :func:`normalized`).

    Args:
        run: a trained run.
        dataset: registered name.
    """
    test = run.cfg.test
    default = DATASETS[dataset].build.metric if dataset in DATASETS else "market"
    return {
        "protocol": test.metric or ("single_shot" if run.cfg.cuhk03.use_metric_cuhk03 else default),
        "draws": test.draws,
        "seed": test.seed,
        "metric": test.dist_metric,
        "rerank": test.rerank,
    }
