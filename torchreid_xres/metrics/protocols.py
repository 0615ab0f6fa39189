"""Who counts in a query's ranked list, and in which place its matches come: market, single shot, VehicleID.

A ranker takes bands of distances (rows of consecutive queries, all of the gallery, no NaN; NumPy's, or a tensor on a
GPU, which stays there) through ``add(start, band)`` and fills ``first``, ``ap`` and ``inp`` (see ``RankResult`` in
``rank.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Up to this many matches of a query it is faster to count the images before each than to sort the row:
# a sort of 16,000 values takes as long as 15 to 100 counts, depending on the processor.
_COUNTED = 32
# So many values are compared in the time that NumPy takes to begin a count.
_BEGUN = 2000
# Distances looked at together for those that can come before a match; their table stays in a core's own cache.
_PIECE = 1 << 20
# Distances compared at once to settle ties on a GPU.
_TIED = 1 << 24


class Labels:
    """Identities and cameras as small integers, the gallery grouped by identity, and who is valid.

    With ``itself`` (VehicleID's protocol) query i and gallery image i are the same image, which is no match of itself,
    and cameras play no part.
    """

    def __init__(self, q_pids: Any, g_pids: Any, q_camids: Any, g_camids: Any, itself: bool = False) -> None:
        given = {"q_pids": q_pids, "g_pids": g_pids, "q_camids": q_camids, "g_camids": g_camids}
        given = {name: np.asarray(values) for name, values in given.items()}
        shapes = {name: values.shape for name, values in given.items()}
        if (
            any(len(shape) != 1 or shape[0] == 0 for shape in shapes.values())
            or shapes["q_pids"] != shapes["q_camids"]
            or shapes["g_pids"] != shapes["g_camids"]
        ):
            raise ValueError(
                "identities and cameras must be one vector each for the queries and for the gallery, at "
                "least 1 long; shapes are " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            )
        self.num_query, self.num_gallery = len(given["q_pids"]), len(given["g_pids"])
        self.q_pid, self.g_pid = _codes(given["q_pids"], given["g_pids"])
        self.q_cam, self.g_cam = _codes(given["q_camids"], given["g_camids"])
        self.itself = itself
        if itself and (self.num_query != self.num_gallery or (self.q_pid != self.g_pid).any()):
            raise ValueError(
                "vehicleid splits one set of images itself: give all of them as queries and again as gallery, in the "
                f"same order, not {self.num_query} queries and {self.num_gallery} gallery images of others"
            )

        # Gallery images of identity p, in ascending order: by_pid[start[p]:stop[p]].
        count = 1 + max(self.q_pid.max(), self.g_pid.max())
        self.by_pid = np.argsort(self.g_pid, kind="stable")
        self.start = np.searchsorted(self.g_pid, np.arange(count), sorter=self.by_pid)
        self.stop = np.append(self.start[1:], self.num_gallery)
        if itself:
            self.valid = (self.stop - self.start)[self.q_pid] > 1
            if not self.valid.any():
                raise ValueError(f"none of the {self.num_query} images has another one of its identity")
            return

        lowest_cam = np.full(count, np.iinfo(np.int64).max)
        highest_cam = np.full(count, -1)
        np.minimum.at(lowest_cam, self.g_pid, self.g_cam)
        np.maximum.at(highest_cam, self.g_pid, self.g_cam)
        present = self.stop[self.q_pid] > self.start[self.q_pid]
        elsewhere = (lowest_cam[self.q_pid] != self.q_cam) | (highest_cam[self.q_pid] != self.q_cam)
        self.valid = present & elsewhere
        if not self.valid.any():
            raise ValueError(
                f"none of the {self.num_query} queries has a match among the {self.num_gallery} gallery "
                "images, after the images of the query's own identity under its own camera are removed "
                f"({present.sum()} queries have their identity in the gallery at all). The usual cause is "
                f"one camera id for all images; the cameras are {_few(given['q_camids'])} in the queries "
                f"and {_few(given['g_camids'])} in the gallery."
            )

    def mates(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all gallery images of the queries' identities: position in ``queries``, gallery index."""
        start, stop = self.start[self.q_pid[queries]], self.stop[self.q_pid[queries]]
        count = stop - start
        owner = np.repeat(np.arange(len(queries)), count)
        return owner, self.by_pid[np.arange(len(owner)) + (stop - count.cumsum())[owner]]

    def junk(self, queries: np.ndarray, mates: np.ndarray) -> np.ndarray:
        """Return which mates (M,) of as many queries (M,) do not count: those under the query's camera, or itself."""
        return mates == queries if self.itself else self.g_cam[mates] == self.q_cam[queries]


def _codes(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if {query.dtype.kind, gallery.dtype.kind} == {"i", "u"}:
        # NumPy's common type may be float64, in which whole numbers above 2^53 run together.
        query, gallery = query.astype(object), gallery.astype(object)
    _, codes = np.unique(np.concatenate([query, gallery]), return_inverse=True)
    return codes[: len(query)], codes[len(query) :]


def _few(values: np.ndarray) -> str:
    distinct = np.unique(values).tolist()
    return ", ".join(map(str, distinct[:6])) + (", ..." if len(distinct) > 6 else "")


class Market:
    """The whole gallery counts, but for the query's own identity under its own camera ("junk")."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.first = np.full(labels.num_query, -1)
        self.ap = np.full(labels.num_query, np.nan)
        self.inp = np.full(labels.num_query, np.nan)
        self._scratch = np.empty(_COUNTED * labels.num_gallery, dtype=bool)

    def add(self, start: int, band: np.ndarray | Tensor) -> None:
        """Rank the queries from ``start`` on by a band of their distances, (rows, G)."""
        labels = self.labels
        queries = start + np.flatnonzero(labels.valid[start : start + len(band)])
        if not len(queries):
            return
        rows = queries - start
        owner, mates = labels.mates(queries)
        junk = labels.junk(queries[owner], mates)
        junk_ahead = _junk_ahead(owner, entries(band, rows[owner], mates), junk)
        owner, matches = owner[~junk], mates[~junk]
        edges = np.searchsorted(owner, np.arange(len(queries) + 1))
        if isinstance(band, Tensor):
            places = _places_on_gpu(band, rows[owner], matches)
        else:
            places = self._places(band, rows, matches, edges)
        rank = places - junk_ahead[~junk]
        rank = rank[np.lexsort((rank, owner))]

        begin, end = edges[:-1], edges[1:]
        hit = np.arange(1, len(rank) + 1) - begin[owner]
        self.first[queries] = rank[begin]
        self.ap[queries] = np.bincount(owner, weights=hit / (rank + 1)) / (end - begin)
        self.inp[queries] = (end - begin) / (rank[end - 1] + 1)

    def _places(self, band: np.ndarray, rows: np.ndarray, matches: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """How many gallery images, junk and all, come before each match of some rows (there, between the edges)."""
        places = np.empty(len(matches), dtype=np.int64)
        owner = np.repeat(np.arange(len(rows)), np.diff(edges))
        wanted = band[rows[owner], matches]
        farthest = np.maximum.reduceat(wanted, edges[:-1])
        step = max(1, _PIECE // band.shape[1])
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            part, some = band[some[0] : some[-1] + 1], some - some[0]
            # What is beyond the farthest match comes before none; mostly that is most of the gallery.
            limit = np.full((len(part), 1), -np.inf, dtype=band.dtype)
            limit[some, 0] = farthest[start : start + step]
            near = part <= limit
            if 2 * np.count_nonzero(near) >= near.size:
                for number, row in enumerate(some.tolist(), start=start):
                    own = slice(edges[number], edges[number + 1])
                    places[own] = self._among(part[row], matches[own])
                continue
            near = np.flatnonzero(near)
            values = part.reshape(-1)[near]
            starts = np.arange(len(part) + 1) * band.shape[1]
            borders = near.searchsorted(starts)
            begin, end = borders[some], borders[some + 1]
            counted = np.diff(edges[start : start + len(some) + 1]) * (end - begin + _BEGUN) <= _COUNTED * (end - begin)
            for number in np.flatnonzero(~counted):
                own = slice(edges[start + number], edges[start + number + 1])
                ascending = values[begin[number] : end[number]]
                ascending.sort()
                places[own] = ascending.searchsorted(wanted[own])
            for number in np.flatnonzero(counted):
                own, held = slice(edges[start + number], edges[start + number + 1]), slice(begin[number], end[number])
                at = near[held].searchsorted(matches[own] + starts[some[number]])
                places[own] = self._among(values[held], at)
            # Of equal distances the lower index is the closer.
            own = slice(edges[start], edges[start + len(some)])
            number = owner[own] - start
            after = begin[number] + places[own] + 1
            tied = ~counted[number] & (after < end[number]) & (values.take(after, mode="clip") == wanted[own])
            for tie in np.unique(number[tied]):
                own = slice(edges[start + tie], edges[start + tie + 1])
                places[own] = self._among(part[some[tie]], matches[own])
        return places

    def _among(self, distances: np.ndarray, matches: np.ndarray) -> np.ndarray:
        """How many of a row's distances come before those at some of its places."""
        if len(matches) * (len(distances) + _BEGUN) > _COUNTED * len(distances):
            return _places_by_sorting(distances, matches)
        table = self._scratch[: len(matches) * len(distances)].reshape(len(matches), -1)
        return _places_by_counting(np.ascontiguousarray(distances), matches, table)


def _junk_ahead(owner: np.ndarray, distance: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """For each of a query's mates (ascending gallery indices): how many of its junk images are closer."""
    order = np.lexsort((distance, owner))  # stable: equal distances stay in the gallery's order
    running = np.append(0, junk[order].cumsum())
    ahead = np.empty(len(owner), dtype=np.int64)
    ahead[order] = running[:-1] - running[np.searchsorted(owner, owner)]
    return ahead


def _places_by_counting(distances: np.ndarray, matches: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One pass per match; comparing is fast on every processor."""
    wanted = distances[matches, None]
    low, high = matches[0], matches[-1]
    np.less_equal(distances[:low], wanted, out=table[:, :low])
    np.less(distances[low:], wanted, out=table[:, low:])
    place = np.array([np.count_nonzero(row) for row in table])
    # An equal image comes before a match if its index is lower: true of all images below the first
    # match (counted above), of none above the last. Only those between need a look.
    equal = table.reshape(-1)[: len(matches) * (high - low)].reshape(len(matches), high - low)
    np.equal(distances[low:high], wanted, out=equal)
    if np.count_nonzero(equal) >= len(matches):  # all but the last one equal themselves
        place += [np.count_nonzero(row[: index - low]) for row, index in zip(equal, matches, strict=True)]
    return place


def _places_by_sorting(distances: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """One sort of the values for all matches; an indirect sort would take several times as long."""
    ascending = np.sort(distances)
    wanted = distances[matches]
    place = ascending.searchsorted(wanted)
    tied = ascending.searchsorted(wanted, side="right") > place + 1
    for value in np.unique(wanted[tied]):
        level = np.flatnonzero(distances == value)
        place[wanted == value] += level.searchsorted(matches[wanted == value])
    return place


def _places_on_gpu(band: Tensor, row: np.ndarray, match: np.ndarray) -> np.ndarray:
    """The same for all matches of a band at once (rows ascending)."""
    _, count = np.unique(row, return_counts=True)
    slot = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    row, match, slot = (torch.from_numpy(index).to(band.device) for index in (row, match, slot))
    wanted = band.new_full((len(band), int(count.max())), torch.inf)
    wanted[row, slot] = band[row, match]
    ascending = band.sort(dim=1).values
    place = torch.searchsorted(ascending, wanted)
    tied = (torch.searchsorted(ascending, wanted, right=True) > place + 1)[row, slot].nonzero().flatten()
    place = place[row, slot]
    index = torch.arange(band.shape[1], device=band.device)
    for some in tied.split(max(1, _TIED // band.shape[1])):
        i, j = row[some], match[some]
        ahead = (band[i] == band[i, j][:, None]) & (index < j[:, None])
        place[some] += ahead.sum(dim=1)
    return place.cpu().numpy()


def entries(band: np.ndarray | Tensor, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return some entries of a band, wherever it is."""
    if isinstance(band, Tensor):
        row, column = (torch.from_numpy(index).to(band.device) for index in (row, column))
        return band[row, column].cpu().numpy()
    return band[row, column]


class _Drawn:
    """Each draw leaves every gallery identity one image, so each list holds exactly one match.

    Attributes:
        kept: for each draw, the gallery index of each gallery identity's image, by ascending identity.
        match: (draws, Q) gallery index of the query's match, -1 where the query does not take part.
    """

    def __init__(self, labels: Labels, draws: int, seed: int, protocol: str) -> None:
        if draws < 1:
            raise ValueError(f"draws is {draws}; {protocol} needs at least 1")
        self.labels = labels
        self.first = np.full((draws, labels.num_query), -1)
        self.match = np.full((draws, labels.num_query), -1)
        self.kept: list[np.ndarray] = []
        self.ids = np.unique(labels.g_pid)
        self.column = np.searchsorted(self.ids, labels.q_pid)
        # The raw stream of a bit generator is the one NumPy promises never to change.
        self._stream = np.random.PCG64(seed)

    def shuffled(self) -> np.ndarray:
        """Return the gallery's indices by identity, within an identity at random."""
        return np.lexsort((self._stream.random_raw(self.labels.num_gallery), self.labels.g_pid))

    def add(self, start: int, band: np.ndarray | Tensor) -> None:
        """As :meth:`Market.add`, in every draw."""
        if isinstance(band, Tensor):
            band = band.cpu().numpy()
        stop = start + len(band)
        column = self.column[start:stop]
        for first, kept, match in zip(self.first, self.kept, self.match[:, start:stop], strict=True):
            rows = np.flatnonzero(match >= 0)
            match = match[rows, None]
            others = band[rows[:, None], kept] if len(rows) < len(band) else band.take(kept, axis=1)
            wanted = band[rows[:, None], match]
            closer = others < wanted
            closer |= (others == wanted) & (kept < match)
            closer[np.arange(len(rows)), column[rows]] = False
            first[start + rows] = np.count_nonzero(closer, axis=1)

    @property
    def ap(self) -> np.ndarray:
        """One match in the list: its precision is the whole average precision, and the INP as well."""
        taken = self.match >= 0
        precision = np.where(taken, 1.0 / np.maximum(self.first + 1, 1), 0.0).sum(axis=0)
        return np.divide(precision, taken.sum(axis=0), out=np.full(len(precision), np.nan), where=taken.any(axis=0))

    inp = ap


class SingleShot(_Drawn):
    """Market's camera rule, and one image of each identity.

    Only the query's own identity can lose images to the camera rule. So one draw is one list of images for all queries,
    and for each identity a second choice, under another camera than the first, for the queries that may not have the
    first.
    """

    def __init__(self, labels: Labels, draws: int, seed: int) -> None:
        super().__init__(labels, draws, seed, "single_shot")
        ids = self.ids
        first_choice = np.full(len(labels.start), -1)
        second_choice = np.full(len(labels.start), -1)
        for draw in range(draws):
            order = self.shuffled()
            first_choice[ids] = order[labels.start[ids]]
            pids, cams = labels.g_pid[order], labels.g_cam[order]
            other = cams != labels.g_cam[first_choice[pids]]
            several, at = np.unique(pids[other], return_index=True)
            second_choice[several] = order[other][at]
            self.kept.append(first_choice[ids])
            chosen = first_choice[labels.q_pid]
            barred = labels.g_cam[chosen] == labels.q_cam
            self.match[draw] = np.where(barred, second_choice[labels.q_pid], chosen)


class VehicleID(_Drawn):
    """One set of test images: in each draw one image of every vehicle is the gallery, all others are queries.

    Liu et al., "Deep relative distance learning: tell the difference between similar vehicles", CVPR 2016. Query i and
    gallery image i are the same image (features of the one may be made at another resolution than the other's).
    """

    def __init__(self, labels: Labels, draws: int, seed: int) -> None:
        super().__init__(labels, draws, seed, "vehicleid")
        for draw in range(draws):
            self.kept.append(self.shuffled()[labels.start[self.ids]])
            self.match[draw] = self.kept[-1][self.column]
            self.match[draw, self.kept[-1]] = -1
        labels.valid = (self.match >= 0).any(axis=0)
