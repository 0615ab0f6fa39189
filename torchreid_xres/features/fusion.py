"""Fusion of saved features: weights found apart from the test, descriptors, and rankings by reciprocal ranks."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from torchreid_xres.data.split import shuffled
from torchreid_xres.data.validation import sides
from torchreid_xres.features.features import FeatureSet, check_same_images, features_record
from torchreid_xres.metrics import RankResult, distance_matrix, distance_tiles, rank_distances, rank_tiles
from torchreid_xres.metrics.fusion import (
    SizeWeights,
    checked_weights,
    default_weights,
    fused_distances,
    fused_features,
    query_weighted_features,
    reciprocal_rank_distances,
)

logger = logging.getLogger(__name__)

OBJECTIVES = ("mAP", "rank1")
# What one weight may become while the others stay. Those near 1 come first: of weights that do equally well the first
# is kept, so that a branch is not dropped without a gain.
GRID = (1.0, 0.75, 1.5, 0.5, 2.0, 3.0, 0.25, 4.0, 6.0, 0.0)
# A size class with fewer queries says more of its queries than of its size.
MIN_QUERIES = 30


@dataclass(frozen=True)
class Search:
    """What a search of fusion weights found, and what it is worth.

    Attributes:
        weights: (J,) for all queries, or by their size.
        objective: ``mAP`` or ``rank1``.
        seed: of the split of identities.
        on: ``training`` identities, or those of the ``validation`` part.
        identities: of these those searched on.
        queries: queries made of their images.
        gallery: gallery images made of their images.
        start: per cent with the weights the search began from.
        found: per cent with ``weights``, on the same images.
        checked_start: per cent with the weights the search began from on the other identities.
        checked: per cent with ``weights`` on the other identities, which the search has not seen.
    """

    weights: tuple[float, ...] | SizeWeights
    objective: str
    seed: int
    on: str
    identities: int
    queries: int
    gallery: int
    start: float
    found: float
    checked_start: float
    checked: float


@dataclass(frozen=True, eq=False)
class Trial:
    """A small evaluation made of training images.

    Attributes:
        sizes: (Q, 2) native height and width of the queries, pixels.
        q_pids, g_pids: identities, (Q,) and (G,).
        q_camids, g_camids: cameras, (Q,) and (G,).
        distances: (Q, G) of each branch.
    """

    sizes: np.ndarray
    q_pids: np.ndarray
    g_pids: np.ndarray
    q_camids: np.ndarray
    g_camids: np.ndarray
    distances: list[Tensor]

    def part(self, rows: np.ndarray) -> Trial:
        """Return the same with some of the queries."""
        query = {name: getattr(self, name)[rows] for name in ("sizes", "q_pids", "q_camids")}
        return replace(self, **query, distances=[part[rows] for part in self.distances])

    def rank(self, weights: Sequence[float] | SizeWeights) -> RankResult:
        """Return the ranking by fused distances."""
        if isinstance(weights, SizeWeights):
            weights = weights(self.sizes)
        fused = fused_distances(self.distances, weights)
        return rank_distances(fused, self.q_pids, self.g_pids, self.q_camids, self.g_camids)


class _Row(NamedTuple):
    index: int
    name: str
    pid: int
    camid: int
    low: bool


def training_trial(
    branches: Sequence[FeatureSet], pids: Sequence[int], metric: str = "cosine", seed: int = 0, max_queries: int = 1000
) -> Trial:
    """Make queries and a gallery of training images.

    They are those of :func:`~torchreid_xres.data.validation.sides`; images low by nature that come from the same
    cameras as others are no side of their own.

    Args:
        branches: training features of the same images.
        pids: the identities whose images take part.
        metric: the branches' distance.
        seed: draws queries.
        max_queries: at most so many, drawn.

    Raises:
        ValueError: if no image has a match under another camera.
    """
    first = branches[0]
    facts = zip(first.names, first.pid.tolist(), first.camid.tolist(), first.low.tolist(), strict=True)
    wanted = set(pids)
    rows = [row for row in (_Row(i, *fact) for i, fact in enumerate(facts)) if row.pid in wanted]
    salt = f"fusion:{seed}"
    by_nature = first.low & (first.rate == 1)
    mixed = bool(np.isin(first.camid[by_nature], first.camid[~first.low]).any())
    query, gallery = sides(rows, mixed, salt, lambda row: row.name)
    if not query:
        raise ValueError(
            f"{first.dataset}: none of {len(rows)} training images of {len(wanted)} identities has a match under "
            "another camera, so no weights can be searched"
        )
    query = sorted(shuffled(query, salt, key=lambda row: row.name)[:max_queries])
    return _trial(branches, branches, [row.index for row in query], [row.index for row in gallery], metric)


def validation_trial(
    query: Sequence[FeatureSet],
    gallery: Sequence[FeatureSet],
    pids: Sequence[int],
    metric: str = "cosine",
    seed: int = 0,
    max_queries: int = 1000,
) -> Trial:
    """Rank some identities of the validation part, whose queries and gallery are made already.

    Args:
        query: features of its queries, one set for each branch.
        gallery: of its gallery.
        pids, metric, seed, max_queries: see :func:`training_trial`.
    """
    first, wanted = query[0], list(pids)
    rows = shuffled(np.flatnonzero(np.isin(first.pid, wanted)).tolist(), f"fusion:{seed}", lambda i: first.names[i])
    among = np.flatnonzero(np.isin(gallery[0].pid, wanted)).tolist()
    return _trial(query, gallery, sorted(rows[:max_queries]), among, metric)


def _trial(
    query: Sequence[FeatureSet], gallery: Sequence[FeatureSet], at: list[int], among: list[int], metric: str
) -> Trial:
    asked, held = query[0], gallery[0]
    return Trial(
        sizes=asked.size[at],
        q_pids=asked.pid[at],
        g_pids=held.pid[among],
        q_camids=asked.camid[at],
        g_camids=held.camid[among],
        distances=[
            distance_matrix(ours.features[at], theirs.features[among], metric)
            for ours, theirs in zip(query, gallery, strict=True)
        ],
    )


def search_weights(
    searched: Sequence[FeatureSet],
    gallery: Sequence[FeatureSet] = (),
    *,
    by_size: bool = False,
    metric: str = "cosine",
    objective: str = "mAP",
    share: float = 0.5,
    seed: int = 0,
    start: Sequence[float] | None = None,
    grid: Sequence[float] = GRID,
    bins: int = 3,
    max_queries: int = 1000,
) -> Search:
    """Search fusion weights on some identities that are not the test's; the test set is never looked at.

    From the start weights on, one branch's weight at a time is set to the best of a grid, until no weight changes;
    only a gain changes one. Of training images the figures are better than those of the test: the branches have been
    trained on these identities, and one that has learned them by heart looks better than it is. No branch has seen the
    validation part's identities, which are therefore better here, where there are any.

    For weights by size the queries are put into classes of equal number by their size; each class begins from the
    weights of all queries and has its own searched, which hold at the median of its sizes (logarithmically).

    Args:
        searched: features of the same training images, one set for each branch, or of the validation part's queries.
        gallery: of the validation part's gallery, for the latter.
        by_size: search weights that depend on a query's size.
        metric: the branches' distance, ``cosine`` or ``euclidean``.
        objective: ``mAP`` or ``rank1``, over the whole gallery made of training images.
        share: of the identities to search on, drawn; the others check the result. Above 0, below 1.
        seed: of the draws.
        start: weights to begin from, (J,); ``None`` takes PRPR's or equal ones.
        grid: values that a weight may take.
        bins: classes of size, fewer where a class would have less than 30 queries.
        max_queries: at most so many on each side of the split, drawn.

    Raises:
        ValueError: for features of the test's images, or not of the same; fewer than 2 branches or 4 identities; an
            unknown objective.
    """
    for branch in (*searched, *gallery):
        if branch.role != "train" and branch.part != "validation":
            raise ValueError(
                f"fusion weights are searched on training features, or those of the validation part, and those by "
                f"{branch.model} are of the {branch.role} images of {branch.dataset}: weights tuned on the images they "
                "are then measured on would make every figure too good"
            )
    on = "validation" if gallery else "training"
    roles = {"query"} if gallery else {"train"}
    if {branch.role for branch in searched} - roles or {branch.role for branch in gallery} - {"gallery"}:
        raise ValueError("a search on the validation part needs its queries and its gallery, each of every branch")
    if len(searched) < 2:
        raise ValueError("a search of fusion weights needs the features of at least 2 branches")
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; there are: {', '.join(OBJECTIVES)}")
    check_same_images(searched)
    if gallery:
        check_same_images(gallery)
    pids = shuffled(set(searched[0].pid.tolist()), f"fusion:{seed}")
    held = round(share * len(pids))
    if not 2 <= held <= len(pids) - 2:
        raise ValueError(
            f"a share of {share} leaves {held} of {len(pids)} {on} identities to search on and "
            f"{len(pids) - held} to check on; both need 2 or more"
        )
    make = partial(validation_trial, searched, gallery) if gallery else partial(training_trial, searched)
    trial, check = (make(part, metric, seed, max_queries) for part in (pids[:held], pids[held:]))

    def worth(weights: Sequence[float] | SizeWeights, trial: Trial = trial) -> float:
        result = trial.rank(weights)
        return 100 * (result.mAP() if objective == "mAP" else float(result.cmc(1)[0]))

    begin = checked_weights(default_weights(len(searched)) if start is None else start, len(searched)).tolist()
    weights: tuple[float, ...] | SizeWeights = ascend(worth, begin, grid)
    if by_size:
        sides = np.sqrt(trial.sizes.prod(axis=1))
        classes = _size_classes(sides, bins)
        weights = SizeWeights(
            sides=tuple(math.exp(np.median(np.log(sides[rows]))) for rows in classes),
            weights=tuple(ascend(partial(worth, trial=trial.part(rows)), weights, grid) for rows in classes),
        )
    search = Search(
        weights=weights,
        objective=objective,
        seed=seed,
        on=on,
        identities=held,
        queries=len(trial.sizes),
        gallery=len(trial.g_pids),
        start=worth(begin),
        found=worth(weights),
        checked_start=worth(begin, check),
        checked=worth(weights, check),
    )
    if search.checked < search.checked_start:
        logger.warning(
            "the weights found are worse than those begun from on the other %s identities: %s %.2f %% against "
            "%.2f %%", on, objective, search.checked, search.checked_start,
        )  # fmt: skip
    return search


def ascend(
    score: Callable[[tuple[float, ...]], float], start: Sequence[float], grid: Sequence[float] = GRID
) -> tuple[float, ...]:
    """Maximise a score of weights, one weight at a time over a grid, until none changes any more.

    Args:
        score: what to maximise.
        start: weights to begin from.
        grid: values that a weight may take; of equally good ones the current, then the first is kept.

    Returns:
        The best weights; never all 0.

    Example:
        >>> ascend(lambda w: -abs(w[0] - 4 * w[1]), (1, 1))
        (4.0, 1.0)
    """
    best = tuple(map(float, start))
    best_score = score(best)
    moved = True
    while moved:
        moved = False
        for j in range(len(best)):
            for value in grid:
                tried = (*best[:j], float(value), *best[j + 1 :])
                if tried == best or not any(tried):
                    continue
                found = score(tried)
                if found > best_score:
                    best, best_score, moved = tried, found, True
    return best


def _size_classes(sides: np.ndarray, bins: int) -> list[np.ndarray]:
    """Return the rows of each class, small sizes first: of about equal number, but equal sizes stay together."""
    edges = np.unique(np.quantile(sides, np.arange(1, bins) / bins)) if bins > 1 else []
    member = np.searchsorted(edges, sides)
    classes = [np.flatnonzero(member == which) for which in np.unique(member)]
    too_small = min(map(len, classes)) < MIN_QUERIES and len(classes) > 1
    return _size_classes(sides, bins - 1) if too_small else classes


def fused_sets(
    query: Sequence[FeatureSet],
    gallery: Sequence[FeatureSet],
    weights: Sequence[float] | SizeWeights,
    metric: str = "cosine",
) -> dict[str, FeatureSet]:
    """Return the fused features of queries and gallery, whose Euclidean ranking is that of the fused distances.

    Args:
        query: features of the queries, one set for each branch; rates and sizes are those of the first.
        gallery: features of the gallery.
        weights: for all queries, or by their size.
        metric: the branches' distance.

    Returns:
        The role (``query``, ``gallery``) -> its fused features.

    Raises:
        ValueError: for features of different images, weights that do not fit, or weights by size of Euclidean
            distances.
    """
    check_same_images(query)
    check_same_images(gallery)
    parts = [[branch.features for branch in branches] for branches in (query, gallery)]
    if isinstance(weights, SizeWeights):
        if metric != "cosine":
            raise ValueError(
                f"weights by size need the cosine distance, not {metric}: only there is the fused distance one of "
                "descriptors"
            )
        features = query_weighted_features(*parts, weights(query[0].size))
    else:
        features = tuple(fused_features(part, weights, metric) for part in parts)
    name = _named(query, f"{metric} {weights}")
    return {
        branches[0].role: replace(branches[0], features=found, **name)
        for branches, found in zip((query, gallery), features, strict=True)
    }


def evaluate_reciprocal_ranks(
    query: Sequence[FeatureSet],
    gallery: Sequence[FeatureSet],
    *,
    metric: str = "cosine",
    protocol: str = "market",
    draws: int = 10,
    seed: int = 0,
    ranks: Sequence[int] = (1, 5, 10),
) -> dict:
    """Rank by reciprocal rank fusion and return the record, as ``evaluate_features`` does for features.

    Args:
        query: features of the queries, one set for each branch.
        gallery: features of the gallery.
        metric: what makes each branch's list.
        protocol, draws, seed, ranks: as for :func:`torchreid_xres.features.features.evaluate_features`.

    Raises:
        ValueError: for features of different images.
    """
    check_same_images(query)
    check_same_images(gallery)
    labels = (query[0].pid, gallery[0].pid, query[0].camid, gallery[0].camid)
    tiles = [distance_tiles(q.features, g.features, metric) for q, g in zip(query, gallery, strict=True)]
    bands = (reciprocal_rank_distances(parts) for parts in zip(*tiles, strict=True))
    result = rank_tiles(bands, *labels, protocol, draws, seed)
    how = {"protocol": protocol, "draws": draws, "seed": seed, "normalize": False, "rerank": False}
    how["distance"] = f"reciprocal ranks, {metric}"
    return features_record(query[0], result, how, ranks) | _named(query, f"{metric} reciprocal ranks")


def _named(branches: Sequence[FeatureSet], told: str) -> dict[str, str]:
    hashes = [branch.weights_sha256 for branch in branches]
    return {
        "model": "fusion of " + ", ".join(branch.model for branch in branches),
        "weights_sha256": hashlib.sha256(f"{told} {hashes}".encode()).hexdigest(),
    }
