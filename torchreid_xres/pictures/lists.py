"""The ranked lists behind the figures of an evaluation: which queries are found, and what is found instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from torchreid_xres.features.features import FeatureSet, rank_saved
from torchreid_xres.metrics import distance_matrix


class Place(NamedTuple):
    """An image of a ranked list: its index in the gallery, its distance, and whether it shows the query's identity."""

    gallery: int
    distance: float
    hit: bool


class RankedLists:
    """The lists of all queries of a run.

    Args:
        query: the queries' features.
        gallery: the gallery's, by the same model.
        protocol: as a record holds it, for :func:`~torchreid_xres.features.features.rank_saved`.

    Attributes:
        query: as given.
        gallery: as given.
        rank: (Q,) place of the first match, 1 = top of the list, mean over the draws; NaN for a query without a match.
        rank1: (Q,) share of the draws, 0 to 1, in which a match tops the list; NaN for a query without a match.
        ap: (Q,) average precision, 0 to 1; NaN for a query without a match.

    Raises:
        ValueError: if the features are not those of one model, or cannot be ranked.

    Example:
        >>> import torch
        >>> facts = {"rate": [1], "low": [False], "size": [[8, 4]], "dataset": "d", "model": "m", "weights_sha256": ""}
        >>> query = FeatureSet(torch.eye(2)[:1], [7], [0], names=["q"], role="query", **facts)
        >>> many = facts | {key: facts[key] * 2 for key in ("rate", "low", "size")}
        >>> gallery = FeatureSet(torch.eye(2), [8, 7], [1, 1], names=["a", "b"], role="gallery", **many)
        >>> how = {"protocol": "market", "draws": 1, "seed": 0}
        >>> lists = RankedLists(query, gallery, how | {"distance": "cosine", "normalize": False, "rerank": False})
        >>> lists.rank, lists.top([0])
        (array([2.]), [[Place(gallery=0, distance=0.0, hit=False), Place(gallery=1, distance=1.0, hit=True)]])
    """

    def __init__(self, query: FeatureSet, gallery: FeatureSet, protocol: Mapping[str, Any]) -> None:
        self.query, self.gallery, self.protocol = query, gallery, dict(protocol)
        self._ranking = rank_saved(query, gallery, protocol)
        result = self._ranking.result
        self.ap = result.ap
        first = np.atleast_2d(result.first)
        took_part = (first >= 0).sum(axis=0)
        ranks = np.where(first >= 0, first + 1, 0).sum(axis=0)
        draws = np.where(took_part > 0, took_part, np.nan)
        self.rank = ranks / draws
        self.rank1 = (first == 0).sum(axis=0) / draws

    def hardest(self, count: int, easiest: bool = False) -> list[int]:
        """Return the queries of lowest (or highest) average precision, the extreme one first.

        Args:
            count: how many; fewer if fewer have a match.
            easiest: the highest instead.
        """
        valid = np.flatnonzero(~np.isnan(self.rank))
        sign = -1 if easiest else 1
        order = np.lexsort((-sign * self.rank[valid], sign * self.ap[valid]))
        return valid[order[:count]].tolist()

    def top(self, queries: Sequence[int], count: int = 5) -> list[list[Place]]:
        """Return the first images of some queries' lists, without those that the protocol removes.

        Of a protocol that draws, the list is that of the whole gallery, before a draw.

        Args:
            queries: indices.
            count: images of a list.
        """
        distances, same = self._counting(queries)
        order = np.argsort(distances, axis=1, kind="stable")[:, :count]
        return [
            [Place(int(g), float(distances[i, g]), bool(same[i, g])) for g in row if np.isfinite(distances[i, g])]
            for i, row in enumerate(order)
        ]

    def first_match(self, queries: Sequence[int]) -> list[tuple[int, Place] | None]:
        """Return rank (from 1) and image of the first match of some queries, in the list of :meth:`top`.

        Args:
            queries: indices.
        """
        distances, same = self._counting(queries)
        found: list[tuple[int, Place] | None] = []
        for row, mates in zip(distances, same, strict=True):
            mates = np.flatnonzero(mates & np.isfinite(row))
            if not len(mates):
                found.append(None)
                continue
            place = mates[np.argmin(row[mates])]
            before = (row < row[place]).sum() + (row[:place] == row[place]).sum()
            found.append((int(before) + 1, Place(int(place), float(row[place]), True)))
        return found

    def _counting(self, queries: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances (Q, G) of some queries, infinite where they do not count, and what shows their own."""
        rows = list(queries)
        if not rows:
            return np.empty((0, 0)), np.empty((0, 0), dtype=bool)
        held = self._ranking
        if held.distances is not None:
            distances = held.distances[rows]  # a copy: rows is a list
        else:
            distances = distance_matrix(held.query[rows], held.gallery, self.protocol["distance"]).numpy()
        same = self.query.pid[rows][:, None] == self.gallery.pid
        if self.protocol["protocol"] == "vehicleid":  # queries and gallery are the same images, cameras play no part
            junk = np.array(self.query.names)[rows][:, None] == np.array(self.gallery.names)
        else:
            junk = same & (self.query.camid[rows][:, None] == self.gallery.camid)
        distances[junk] = np.inf
        return distances, same
