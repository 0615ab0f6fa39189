"""What is nearest to a query among features that are held in memory; exact, in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

METRICS = ("euclidean", "cosine")
_LEAST = 1e-12  # length that features are divided by, as in torch's normalize
_BYTES, _FEWEST, _MOST = 16 << 20, 32, 512  # distances that are held at a time, and queries that they are of
_BLOCK = 1024  # distances, of which the least is looked for first


class Nearest:
    """Finds what is near among some features.

    Args:
        features: (N, D), float32 or float64.
        metric: "euclidean", which is squared, or "cosine": one minus the cosine.
    """

    def __init__(self, features: np.ndarray, metric: str) -> None:
        self.features, self.metric = features, metric

    def find(
        self, queries: np.ndarray, top: int, among: np.ndarray | None = None, groups: Sequence[str] | None = None
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Return distances and places of what is nearest to each query.

        Args:
            queries: (Q, D).
            top: at most so many for each.
            among: (N,) bool: these alone; None: all.
            groups: (N,): of each the best alone.
        """
        rows = np.arange(len(self.features)) if among is None else np.flatnonzero(among)
        values, found = [], []
        of = None if groups is None else np.unique(np.asarray(groups)[rows], return_inverse=True)[1]
        for band in self.distances(queries):
            for row in band if among is None else band[:, rows]:
                near = smallest(row, top) if of is None else _best_of_each(row, of)[:top]
                values.append(row[near].tolist())
                found.append(rows[near].tolist())
        return values, found

    def distances(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the distances (q, N) of a few queries at a time, (Q, D) in all.

        The features are read where they lie and never copied. All bands share one buffer.

        Raises:
            ValueError: for another metric, queries of another dimension, or what is not finite.
        """
        features = self.features
        if self.metric not in METRICS:
            raise ValueError(f"unknown distance metric {self.metric!r}; there are: {', '.join(METRICS)}")
        if queries.ndim != 2 or features.ndim != 2 or queries.shape[1] != features.shape[1] or not queries.size:
            raise ValueError(
                "query and gallery features must be (Q, D) and (G, D) with one D and Q, G >= 1, "
                f"not {queries.shape} and {features.shape}"
            )
        queries = queries.astype(features.dtype, copy=False)
        most = max(_FEWEST, _BYTES // max(1, len(features) * features.itemsize))
        rows = min(len(queries), most, _MOST)
        buffer = np.empty((rows, len(features)), features.dtype)
        for start in range(0, len(queries), rows):
            chunk = queries[start : start + rows]
            squares = _squared_lengths(chunk, "query")[:, None]
            band = np.matmul(chunk, features.T, out=buffer[: len(chunk)])
            if self.metric == "cosine":
                band /= np.maximum(np.sqrt(squares), _LEAST)
                band /= self._lengths
                yield np.subtract(1, band, out=band)
            else:
                band *= -2
                band += squares
                band += self._squares
                yield band

    @cached_property
    def _squares(self) -> np.ndarray:
        return _squared_lengths(self.features, "gallery")

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.maximum(np.sqrt(self._squares), _LEAST)


def smallest(row: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the smallest numbers, smallest first, of equal ones the first.

    Args:
        row: (N,), finite.
        count: at most so many.

    Example:
        >>> smallest(np.array([3, 1, 2, 1]), 3).tolist()
        [1, 3, 2]
    """
    blocks = row[: len(row) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).min(1)
    places = np.arange(len(row))
    if len(blocks) >= count:  # so many blocks begin below this number, so those that are looked for do, too
        places = np.flatnonzero(row <= np.partition(blocks, count - 1)[count - 1])
    return places[row[places].argsort(kind="stable")[:count]]


def _best_of_each(distances: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the place of the nearest image of each group, nearest first."""
    order = distances.argsort(kind="stable")
    return order[np.sort(np.unique(groups[order], return_index=True)[1])]


def _squared_lengths(features: np.ndarray, role: str) -> np.ndarray:
    """Return the squared lengths (N,) of features (N, D); refuse those of a role that are not finite."""
    squares = np.einsum("nd,nd->n", features, features)
    broken = np.flatnonzero(~np.isfinite(squares))
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(features)} {role} features hold NaN, infinity or values whose square overflows "
            f"{features.dtype} (first: row {broken[0]})"
        )
    return squares
