"""What is nearest to a query among features that are held in memory; exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from torchreid_xres.metrics.distance import require_fitting, rows_of_tile, squared_norms

_LEAST = 1e-12  # length that features are divided by, as in torch's normalize


class Nearest:
    """Finds what is near among some features.

    Args:
        features: (N, D).
        metric: "euclidean" or "cosine".
    """

    def __init__(self, features: Tensor, metric: str) -> None:
        self.features, self.metric = features, metric

    def find(
        self, queries: Tensor, top: int, among: Tensor | None = None, groups: Sequence[str] | None = None
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Return distances and places of what is nearest to each query.

        Args:
            queries: (Q, D).
            top: at most so many for each.
            among: (N,) bool: these alone; None: all.
            groups: (N,): of each the best alone.
        """
        rows = torch.arange(len(self.features)) if among is None else among.nonzero()[:, 0]
        values, found = [], []
        of = None if groups is None else np.unique(np.asarray(groups)[rows.numpy()], return_inverse=True)[1]
        for band in self.distances(queries):
            band = band if among is None else band[:, rows]
            if of is None:
                near = band.topk(min(top, band.shape[1]), largest=False).indices
            else:
                near = [_best_of_each(row, of)[:top] for row in band]
            for row, places in zip(band, near, strict=True):
                values.append(row[places].tolist())
                found.append(rows[places].tolist())
        return values, found

    def distances(self, queries: Tensor) -> Iterator[Tensor]:
        """Yield the distances (q, N) of a few queries at a time, (Q, D) in all.

        The features are read where they lie and never copied, as
        :func:`~torchreid_xres.metrics.distance.distance_tiles` does for cosines, whose bits are the host's. All bands
        share one buffer.

        Raises:
            ValueError: for queries of another dimension, or queries or features that are not finite.
        """
        require_fitting(queries, self.features, self.metric)
        queries = queries.to(self.features.dtype)
        rows = min(len(queries), rows_of_tile(self.features))
        buffer = queries.new_empty(rows, len(self.features))
        for chunk in queries.split(rows):
            squares = squared_norms(chunk, "query")
            dots = torch.mm(chunk, self.features.T, out=buffer[: len(chunk)])
            if self.metric == "cosine":
                dots /= squares.sqrt().clamp_min(_LEAST)[:, None]
                yield dots.div_(self._lengths).neg_().add_(1)
            else:
                yield dots.mul_(-2).add_(squares[:, None]).add_(self._squares)

    @cached_property
    def _squares(self) -> Tensor:
        return squared_norms(self.features, "gallery")

    @cached_property
    def _lengths(self) -> Tensor:
        return self._squares.sqrt().clamp_min(_LEAST)


def _best_of_each(distances: Tensor, groups: np.ndarray) -> Tensor:
    """Return the place of the nearest image of each group, nearest first."""
    order = distances.argsort(stable=True)
    first = np.unique(groups[order.numpy()], return_index=True)[1]
    return order[torch.from_numpy(np.sort(first))]
