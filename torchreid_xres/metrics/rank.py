"""Exact CMC, mAP and mINP without sorting the gallery: only the places of the matches are looked up.

For one query the place of a match is the number of gallery images closer than it. One sort of the row's
*values* and one binary search per match give it; no index is sorted and nothing is stored per pair.

Ties are broken by the gallery's order: of two equal distances the lower gallery index counts as closer
(what a stable sort does). Quantised, half-precision and fused distances make ties real, and an unstable
sort then gives figures that depend on the processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreid_xres.metrics.distance import distance_tiles
from torchreid_xres.metrics.protocols import Labels, Market, SingleShot, VehicleID
from torchreid_xres.metrics.roc import Roc

PROTOCOLS = ("market", "single_shot", "vehicleid")
_ROWS = 64  # rows of a given matrix looked at together: bounds what is held per match


@dataclass(frozen=True, eq=False)
class RankResult:
    """Where each query's matches came in its ranked list, and the usual figures made from that.

    Attributes:
        valid: (Q,) bool; the query has a match in the gallery once the images of its own identity under
            its own camera are removed. Only valid queries enter the figures.
        first: rank of the first match, 0 = top of the list, -1 = invalid query; (Q,), or (draws, Q) for
            ``single_shot`` and ``vehicleid``, where -1 is a query that takes no part in the draw.
        ap: (Q,) average precision, 0 to 1, NaN = invalid query; mean over the draws it takes part in.
        inp: (Q,) inverse negative penalty, matches / (rank of the hardest match, from 1), 0 to 1, NaN =
            invalid query (mINP: Ye et al., "Deep Learning for Person Re-Identification: A Survey and
            Outlook", TPAMI 2021).
    """

    valid: np.ndarray
    first: np.ndarray
    ap: np.ndarray
    inp: np.ndarray

    def cmc(self, max_rank: int = 50, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the share of queries with a match among the first 1, 2, ... ``max_rank`` images.

        Args:
            max_rank: length of the curve; past the end of the gallery it keeps its last value.
            mask: (Q,) bool, the queries to count; all if left out.

        Returns:
            float32 array (max_rank,), 0 to 1.

        Raises:
            ValueError: if ``max_rank`` < 1, or no valid query is selected.
        """
        if max_rank < 1:
            raise ValueError(f"max_rank is {max_rank}; the CMC curve has at least 1 rank")
        first = self.first[..., self._chosen(mask)]
        first = first[first >= 0]
        hits = np.bincount(first[first < max_rank], minlength=max_rank).cumsum()
        return hits.astype(np.float32) / np.float32(first.size)

    def mAP(self, mask: np.ndarray | None = None) -> float:  # noqa: N802
        """Return the mean average precision, 0 to 1, of the valid queries (those in ``mask``)."""
        return self._mean(self.ap, mask)

    def mINP(self, mask: np.ndarray | None = None) -> float:  # noqa: N802
        """Return the mean inverse negative penalty, 0 to 1, of the valid queries (those in ``mask``)."""
        return self._mean(self.inp, mask)

    def by(self, groups: Sequence | np.ndarray) -> dict[Any, RankResult]:
        """Split the result by a label of the queries: their rate, their camera.

        Args:
            groups: (Q,) one label per query, all numbers or all strings.

        Returns:
            Label to the result of that group's queries, in ascending order. A group may be without a
            valid query; then its figures raise ``ValueError``.

        Example:
            >>> result = rank_distances(np.array([[1, 2.0], [1, 2]]), [5, 6], [5, 6], [0, 0], [1, 1])
            >>> {rate: part.mAP() for rate, part in result.by([2.0, 4.0]).items()}
            {2.0: 1.0, 4.0: 0.5}
        """
        groups = np.asarray(groups)
        if groups.shape != self.valid.shape:
            raise ValueError(
                f"groups must hold one label per query, shape {self.valid.shape}, not {groups.shape}"
            )
        labels, member = np.unique(groups, return_inverse=True)
        parts = ((label, member == i) for i, label in enumerate(labels.tolist()))
        return {
            label: RankResult(self.valid[part], self.first[..., part], self.ap[part], self.inp[part])
            for label, part in parts
        }

    def _mean(self, values: np.ndarray, mask: np.ndarray | None) -> float:
        """Every list counts alike: a query counts as often as it takes part in a draw."""
        chosen = self._chosen(mask)
        lists = np.atleast_2d(self.first[..., chosen] >= 0).sum(axis=0)
        return float(np.average(values[chosen], weights=lists))

    def _chosen(self, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            chosen = self.valid
        else:
            mask = np.asarray(mask)
            if mask.shape != self.valid.shape or mask.dtype != bool:
                raise ValueError(
                    f"mask must be bool with shape {self.valid.shape}, not {mask.dtype} with {mask.shape}"
                )
            chosen = self.valid & mask
        if not chosen.any():
            count = len(self.valid) if mask is None else int(mask.sum())
            raise ValueError(f"none of the {count} selected queries has a match in the gallery")
        return chosen


def evaluate_rank(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[np.ndarray, float]:
    """Return CMC and mAP: the host's ``evaluate_rank``, argument for argument.

    The figures are those of the host's Python evaluator run with a stable sort. Three differences: the
    CMC always has ``max_rank`` values; ``use_metric_cuhk03`` draws from a seed of its own, and takes mAP
    from the drawn lists as well, where the host takes it from the whole gallery.

    Args:
        distmat: (Q, G) distances, small = alike.
        q_pids, g_pids, q_camids, g_camids: identities and cameras, (Q,) and (G,).
        max_rank: length of the CMC curve.
        use_metric_cuhk03: one gallery image per identity, mean of 10 draws.
        use_cython: no effect; here so that the host's calls fit.

    Returns:
        CMC, float32 (max_rank,), and mAP, both 0 to 1.

    Raises:
        ValueError: as :func:`rank_distances`.

    Example:
        >>> evaluate_rank(np.array([[0.2, 0.1, 0.3]]), [7], [7, 8, 7], [0], [1, 1, 1], max_rank=2)
        (array([0., 1.], dtype=float32), 0.5833333333333333)
    """
    protocol = "single_shot" if use_metric_cuhk03 else "market"
    result = rank_distances(distmat, q_pids, g_pids, q_camids, g_camids, protocol)
    return result.cmc(max_rank), result.mAP()


def rank_distances(
    distmat: np.ndarray | Tensor,
    q_pids: Sequence | np.ndarray,
    g_pids: Sequence | np.ndarray,
    q_camids: Sequence | np.ndarray,
    g_camids: Sequence | np.ndarray,
    protocol: str = "market",
    draws: int = 10,
    seed: int = 0,
    roc: Roc | None = None,
) -> RankResult:
    """Rank a given distance matrix.

    But for ``vehicleid`` the gallery images of the query's own identity under its own camera are removed.

    Args:
        distmat: (Q, G) distances of any real type, small = alike; infinity is allowed, NaN is not.
        q_pids, g_pids: identities, (Q,) and (G,).
        q_camids, g_camids: cameras, (Q,) and (G,).
        protocol: ``"market"``, the whole gallery counts; ``"single_shot"``, in each draw every
            gallery identity keeps one of its images that are left (that with the lowest random key); or
            ``"vehicleid"``: queries and gallery are the same images, in each draw one image of every
            identity is the gallery and all others are queries, and cameras play no part.
        draws: number of draws of ``single_shot`` and ``vehicleid``.
        seed: of the draws. They depend on it and on the gallery's order only, and draw 0..9 of 100
            are the same as those of 10.
        roc: is shown all distances, see :class:`torchreid_xres.metrics.roc.Roc`; made for the same protocol.

    Raises:
        ValueError: for shapes that do not fit, NaN, an unknown protocol, or when no query has a match.

    Example:
        >>> result = rank_distances(np.array([[0.2, 0.1, 0.3]]), [7], [7, 8, 7], [0], [1, 1, 1])
        >>> int(result.first[0]), result.mINP()
        (1, 0.6666666666666666)
    """
    if not isinstance(distmat, Tensor):
        distmat = np.asarray(distmat)
    expected = (len(q_pids), len(g_pids))
    if tuple(distmat.shape) != expected:
        raise ValueError(
            f"the distance matrix has shape {tuple(distmat.shape)}; {expected[0]} queries and "
            f"{expected[1]} gallery images make it {expected}"
        )
    bands = (distmat[start : start + _ROWS] for start in range(0, len(distmat), _ROWS))
    return rank_tiles(bands, q_pids, g_pids, q_camids, g_camids, protocol, draws, seed, roc)


def rank_features(
    qf: Tensor,
    gf: Tensor,
    q_pids: Sequence | np.ndarray,
    g_pids: Sequence | np.ndarray,
    q_camids: Sequence | np.ndarray,
    g_camids: Sequence | np.ndarray,
    metric: str = "euclidean",
    tile: int | None = None,
    protocol: str = "market",
    draws: int = 10,
    seed: int = 0,
    roc: Roc | None = None,
) -> RankResult:
    """Rank features without ever holding the distance matrix: a band of query rows at a time.

    Args:
        qf, gf: features (Q, D) and (G, D), any float type.
        metric: ``"euclidean"`` or ``"cosine"``, see :func:`torchreid_xres.metrics.distance_matrix`.
        tile: query rows in a band, 32 or more; ``None`` takes about 16 MB of distances.
        q_pids, g_pids, q_camids, g_camids, protocol, draws, seed, roc: as for :func:`rank_distances`.

    Raises:
        ValueError: as :func:`rank_distances`, and for features that are not finite.

    Example:
        >>> features = torch.eye(3)
        >>> rank_features(features, features, [1, 2, 3], [1, 2, 3], [0] * 3, [1] * 3).mAP()
        1.0
    """
    expected = (len(q_pids), len(g_pids))
    if (len(qf), len(gf)) != expected:
        raise ValueError(
            f"query and gallery features have shapes {tuple(qf.shape)} and {tuple(gf.shape)}, but there "
            f"are identities for {expected[0]} queries and {expected[1]} gallery images"
        )
    bands = distance_tiles(qf, gf, metric, tile)
    return rank_tiles(bands, q_pids, g_pids, q_camids, g_camids, protocol, draws, seed, roc)


def rank_tiles(
    tiles: Iterable[np.ndarray | Tensor],
    q_pids: Sequence | np.ndarray,
    g_pids: Sequence | np.ndarray,
    q_camids: Sequence | np.ndarray,
    g_camids: Sequence | np.ndarray,
    protocol: str = "market",
    draws: int = 10,
    seed: int = 0,
    roc: Roc | None = None,
) -> RankResult:
    """Rank distances that come in bands of query rows: for distances made nowhere else in one piece.

    Args:
        tiles: arrays (rows, G), which together hold all queries in order. A band is done with before
            the next is asked for, so the maker may reuse its memory.
        q_pids, g_pids, q_camids, g_camids, protocol, draws, seed, roc: as for :func:`rank_distances`.

    Raises:
        ValueError: as :func:`rank_distances`.

    Example:
        >>> bands = (np.full((1, 2), float(q)) for q in range(3))
        >>> rank_tiles(bands, [4, 5, 4], [4, 5], [0, 0, 0], [1, 1]).first.tolist()
        [0, 1, 0]
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    itself = protocol == "vehicleid"
    if roc is not None and roc.itself != itself:
        raise ValueError(f"the ROC counts other pairs than the protocol {protocol}; make it with that protocol")
    labels = Labels(q_pids, g_pids, q_camids, g_camids, itself)
    ranker = Market(labels) if protocol == "market" else (VehicleID if itself else SingleShot)(labels, draws, seed)
    start = 0
    for band in map(_as_floats, tiles):
        stop = start + len(band)
        if band.ndim != 2 or band.shape[1] != labels.num_gallery or stop > labels.num_query:
            raise ValueError(
                f"distances of shape {tuple(band.shape)} from query {start} on do not fit "
                f"{labels.num_query} queries and {labels.num_gallery} gallery images"
            )
        rows = _rows_with_nan(band)
        if len(rows):
            raise ValueError(
                f"the distances of {len(rows)} of the queries {start} to {stop - 1} hold NaN "
                f"(first: query {start + rows[0]}); are the features finite?"
            )
        ranker.add(start, band)
        if roc is not None:
            roc.add(start, band)
        start = stop
    if start != labels.num_query:
        raise ValueError(f"the distances cover {start} of {labels.num_query} queries")
    return RankResult(labels.valid, ranker.first, ranker.ap, ranker.inp)


def _as_floats(tile: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """float32 and float64 as they are; every other type in the smaller of them that holds it exactly."""
    if isinstance(tile, Tensor):
        tile = tile.detach()
        if _stays(tile):
            return tile.to(torch.promote_types(tile.dtype, torch.float32))
        tile = tile.cpu()
        tile = (tile.float() if tile.dtype == torch.bfloat16 else tile).numpy()
    tile = np.asarray(tile)
    return tile.astype(np.promote_types(tile.dtype, np.float32), copy=False)


def _stays(tile: Tensor) -> bool:
    """Whether distances are ranked where they are: sorting them on a GPU is faster than fetching them."""
    return tile.is_cuda and tile.is_floating_point()


def _rows_with_nan(band: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(band, Tensor):
        return np.flatnonzero(band.isnan().any(dim=1).cpu().numpy())
    # min passes a NaN on, and costs one fast read of what the ranking reads next.
    return np.flatnonzero(np.isnan(band).any(axis=1)) if np.isnan(band.min(initial=np.inf)) else np.empty(0, int)
