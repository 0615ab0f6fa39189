"""What is nearest to a query among features that are held in memory; exact."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from torchreid_xres.metrics.distance import distance_tiles
from torchreid_xres.metrics.search import GalleryIndex

# From so many images on FAISS searches, where it is installed: it prepares the features once, for all queries.
LARGE = 50_000


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
        count = len(self.features)
        if among is None and groups is None and count >= LARGE and importlib.util.find_spec("faiss"):
            distances, places = self._index.search(queries, min(top, count))
            return distances.tolist(), places.tolist()
        rows = torch.arange(count) if among is None else among.nonzero()[:, 0]
        features = self.features if among is None else self.features[rows]
        values, found = [], []
        of = None if groups is None else np.unique(np.asarray(groups)[rows.numpy()], return_inverse=True)[1]
        for band in distance_tiles(queries, features, self.metric):
            if of is None:
                near = band.topk(min(top, band.shape[1]), largest=False).indices
            else:
                near = [_best_of_each(row, of)[:top] for row in band]
            for row, places in zip(band, near, strict=True):
                values.append(row[places].tolist())
                found.append(rows[places].tolist())
        return values, found

    @cached_property
    def _index(self) -> GalleryIndex:
        index = GalleryIndex(self.features.shape[1], self.metric)
        index.add(self.features)
        return index


def _best_of_each(distances: Tensor, groups: np.ndarray) -> Tensor:
    """Return the place of the nearest image of each group, nearest first."""
    order = distances.argsort(stable=True)
    first = np.unique(groups[order.numpy()], return_index=True)[1]
    return order[torch.from_numpy(np.sort(first))]
