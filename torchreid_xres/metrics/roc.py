"""Verification: how many matching pairs are accepted when few others are; exact, without the distance matrix."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from torchreid_xres.metrics.protocols import Labels, entries

# Distances gathered before the largest are thrown away, beside those that are kept.
_SLACK = 1 << 18


class Roc:
    """True positive rate (TPR) at given false positive rates (FPR), over all query-gallery pairs that count.

    A pair is accepted if its distance is at most some threshold; the threshold is the highest that accepts no more than
    the share FPR of the pairs of different identities. Market's rule says which pairs count, also for ``single_shot``:
    all but those of one identity under one camera, for the queries that have a match. For ``vehicleid``, whose queries
    and gallery are the same images, all count but those of an image and itself.

    The TPR is exact, ties included: how many wrong pairs may be accepted is known beforehand, and only that many of the
    lowest distances are kept. So the memory is at most 10 bytes for each of the share max(FPR) of all float32 pairs,
    and as much again for the groups: 5 MB for Market-1501, 100 MB for MSMT17, at 1e-2.

    Give one to one call of a ranking function, with the same labels; it is shown every band of distances on its way.

    Args:
        q_pids, g_pids: identities, (Q,) and (G,).
        q_camids, g_camids: cameras, (Q,) and (G,).
        fpr: false positive rates, 0 to 1.
        groups: (Q,) a label of each query (its rate, its camera) to tell the figures by; None for none.
        protocol: of the ranking, as in :func:`torchreid_xres.metrics.rank_distances`.

    Raises:
        ValueError: for labels that do not fit, no rate or one out of range, or when no query has a match.

    Example:
        >>> from torchreid_xres.metrics import rank_distances
        >>> labels = [7, 8], [7, 8, 8], [0, 0], [1, 1, 1]
        >>> roc = Roc(*labels, fpr=(0.0, 0.5))
        >>> _ = rank_distances(np.array([[0.1, 0.4, 0.5], [0.3, 0.2, 0.6]]), *labels, roc=roc)
        >>> roc.tpr(), roc.distance()
        ({0.0: 0.6666666666666666, 0.5: 0.6666666666666666}, {0.0: 0.2, 0.5: 0.3})
    """

    def __init__(
        self,
        q_pids: Sequence | np.ndarray,
        g_pids: Sequence | np.ndarray,
        q_camids: Sequence | np.ndarray,
        g_camids: Sequence | np.ndarray,
        fpr: Sequence[float] = (1e-2, 1e-3),
        groups: Sequence | np.ndarray | None = None,
        protocol: str = "market",
    ) -> None:
        self.fpr = tuple(fpr)
        if not self.fpr or not all(0 <= rate <= 1 for rate in self.fpr):
            raise ValueError(f"false positive rates must be at least one number from 0 to 1, not {self.fpr}")
        self.itself = protocol == "vehicleid"
        self._labels = labels = Labels(q_pids, g_pids, q_camids, g_camids, self.itself)
        mates = labels.stop[labels.q_pid] - labels.start[labels.q_pid]
        wrong = np.where(labels.valid, labels.num_gallery - mates, 0)
        self._all = _Lowest(wrong.sum(), max(self.fpr))
        self._seen = 0
        self._groups, self._member = {}, np.zeros(labels.num_query, dtype=np.int64)
        if groups is not None:
            groups = np.asarray(groups)
            if groups.shape != labels.valid.shape:
                raise ValueError(
                    f"groups must hold one label per query, shape {labels.valid.shape}, not {groups.shape}"
                )
            names, self._member = np.unique(groups, return_inverse=True)
            totals = np.bincount(self._member, weights=wrong).astype(np.int64)
            self._groups = {
                name: _Lowest(total, max(self.fpr)) for name, total in zip(names.tolist(), totals, strict=True)
            }

    def add(self, start: int, band: np.ndarray | Tensor) -> None:
        """Take in the distances (rows, G) of the next queries, the first of them query ``start``.

        Raises:
            ValueError: for distances of another gallery or of queries seen before, as of a second ranking.
        """
        labels = self._labels
        if start != self._seen or band.shape[1] != labels.num_gallery or start + len(band) > labels.num_query:
            raise ValueError(
                f"a ROC of {labels.num_query} queries and {labels.num_gallery} gallery images, which has seen "
                f"{self._seen} queries, cannot take in distances {tuple(band.shape)} from query {start} on; each "
                "ranking needs a new one, with its own labels"
            )
        self._seen += len(band)
        valid, member = (values[start : start + len(band)] for values in (labels.valid, self._member))
        rows = np.flatnonzero(valid)
        if not len(rows):
            return
        owner, mates = labels.mates(start + rows)
        match = ~labels.junk((start + rows)[owner], mates)
        right, right_row = entries(band, rows[owner], mates)[match], rows[owner][match]

        groups = list(self._groups.values())
        bound = np.full(len(band), self._all.bound)
        if groups:
            bound = np.maximum(bound, np.array([group.bound for group in groups])[member])
        bound[~valid] = -np.inf
        wrong, wrong_row = _below(band, bound, rows[owner], mates)
        self._all.add(right, wrong)
        for i, group in enumerate(groups):
            group.add(right[member[right_row] == i], wrong[member[wrong_row] == i])

    @property
    def wrong_pairs(self) -> int:
        """Pairs of different identities that count."""
        return self._all.total

    def tpr(self) -> dict[float, float]:
        """Return FPR to TPR, 0 to 1, over all queries.

        Raises:
            ValueError: if the distances of some queries are missing yet.
        """
        self._check_complete()
        return {rate: self._all.tpr(rate) for rate in self.fpr}

    def by(self) -> dict[Hashable, dict[float, float]]:
        """Return FPR to TPR for each group that has a valid query, its FPR counted within the group."""
        self._check_complete()
        return {
            name: {rate: part.tpr(rate) for rate in self.fpr} for name, part in self._groups.items() if part.right
        }

    def distance(self) -> dict[float, float | None]:
        """Return FPR to the largest distance of a pair, right or wrong, that is accepted; None where none is.

        It is in the unit of the distances, and exact: whoever accepts what is no farther accepts the same pairs.

        Raises:
            ValueError: if the distances of some queries are missing yet.
        """
        self._check_complete()
        return {rate: self._all.distance(rate) for rate in self.fpr}

    def distance_by(self) -> dict[Hashable, dict[float, float | None]]:
        """Return the same for each group that has a valid query, its FPR counted within the group."""
        self._check_complete()
        return {
            name: {rate: part.distance(rate) for rate in self.fpr} for name, part in self._groups.items() if part.right
        }

    def _check_complete(self) -> None:
        if self._seen < self._labels.num_query:
            raise ValueError(
                f"the ROC has seen {self._seen} of {self._labels.num_query} queries; give it to a ranking first"
            )


def _below(
    band: np.ndarray | Tensor, bound: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances below their row's bound, but for some entries, and their rows."""
    bound = bound.astype(np.float32 if band.itemsize == 4 else np.float64)
    if isinstance(band, Tensor):
        bound, row, column = (torch.from_numpy(part).to(band.device) for part in (bound, row, column))
    below = band < bound[:, None]
    below[row, column] = False
    found, count = band[below], below.sum(1)
    if isinstance(band, Tensor):
        found, count = found.cpu().numpy(), count.cpu().numpy()
    return found, np.repeat(np.arange(len(band)), count)


class _Lowest:
    """The distances of right pairs, and the lowest of wrong pairs."""

    def __init__(self, total: int, rate: float) -> None:
        self.total = int(total)
        self.keep = self.allowed(rate) + 1
        self.bound = np.inf  # no wrong pair as far as this changes the lowest
        self.right: list[np.ndarray] = []
        self._wrong: list[np.ndarray] = []
        self._held = 0

    def allowed(self, rate: float) -> int:
        """How many wrong pairs may be accepted; 0.29 * 100, which is 28.999999999999996, are 29."""
        return int(rate * self.total + 1e-6)

    def add(self, right: np.ndarray, wrong: np.ndarray) -> None:
        if len(right):
            self.right.append(right)
        wrong = wrong[wrong < self.bound]
        self._wrong.append(wrong)
        self._held += len(wrong)
        if self._held > self.keep + max(self.keep // 4, _SLACK):
            lowest = np.concatenate(self._wrong)
            self._wrong.clear()
            lowest.partition(self.keep - 1)
            self.bound = lowest[self.keep - 1]
            self._wrong, self._held = [lowest[: self.keep].copy()], self.keep

    def tpr(self, rate: float) -> float:
        if self.allowed(rate) >= self.total:
            return 1.0
        return float((np.concatenate(self.right) < self._outside(rate)).mean())

    def distance(self, rate: float) -> float | None:
        right, wrong = np.concatenate(self.right), np.concatenate(self._wrong)
        if self.allowed(rate) >= self.total:
            return np.inf if len(wrong) < self.total else float(max(right.max(), wrong.max(initial=-np.inf)))
        outside = self._outside(rate)
        accepted = np.concatenate([part[part < outside] for part in (right, wrong)])
        return float(accepted.max()) if len(accepted) else None

    def _outside(self, rate: float) -> float:
        """Return the distance of one wrong pair too many: it, and all that are as far, must stay out."""
        wrong, allowed = np.concatenate(self._wrong), self.allowed(rate)
        # Infinitely far ones were never kept.
        return np.partition(wrong, allowed)[allowed] if allowed < len(wrong) else np.inf
