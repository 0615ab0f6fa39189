"""Rank lists as a picture: queries as seen, restored, and what was found, hits and misses told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import PIL.Image
import PIL.ImageDraw

from torchreid_xres.features.features import FeatureSet
from torchreid_xres.pictures.lists import RankedLists
from torchreid_xres.pictures.queries import RunPictures
from torchreid_xres.pictures.seen import squares
from torchreid_xres.pictures.sheet import Cell

CHOICES = ("worst", "best", "random")
COLOURS = {True: "#1a9641", False: "#d7301f"}  # of the frames of hits and of misses


def chosen_queries(lists: RankedLists, choose: str, count: int, seed: int = 0) -> list[int]:
    """Return the queries that do worst or best by average precision, or any of those that have a match.

    Args:
        lists: of all queries.
        choose: ``worst``, ``best`` or ``random``.
        count: at most so many.
        seed: of ``random``.

    Raises:
        ValueError: for another choice, or less than one query.
    """
    if choose not in CHOICES:
        raise ValueError(f"queries are chosen as one of {', '.join(CHOICES)}, not {choose!r}")
    if count < 1:
        raise ValueError(f"at least 1 query is shown, not {count}")
    if choose == "random":
        return np.random.default_rng(seed).permutation(np.flatnonzero(~np.isnan(lists.rank)))[:count].tolist()
    return lists.hardest(count, easiest=choose == "best")


def rank_cells(
    lists: RankedLists, queries: Sequence[int], pictures: RunPictures, top: int = 10, height: int = 160
) -> tuple[list[Cell], int]:
    """Make the cells of a contact sheet, a row for each query.

    Args:
        lists: of all queries.
        queries: indices of those to show, at least one.
        pictures: of queries and gallery.
        top: gallery images of each.
        height: of a picture in pixels.

    Returns:
        The cells, row by row, and how many a row has: the query as the camera saw it, restored (if one of the queries
        is), what is found, and behind it the first match where that comes later.

    Raises:
        ValueError: for less than one gallery image.
    """
    if top < 1:
        raise ValueError(f"at least 1 gallery image is shown, not {top}")
    restored = [pictures.restored(q) for q in queries]
    leading = 1 + any(view is not None for view in restored)
    tops = [list(enumerate(places, 1)) for places in lists.top(queries, top)]
    for places, match in zip(tops, lists.first_match(queries), strict=True):
        places += [match] if match is not None and match[0] > top else []
    columns = leading + max(map(len, tops))
    cells = []
    for q, view, places in zip(queries, restored, tops, strict=True):
        rows, cols = lists.query.size[q]
        by_nature = lists.query.low[q] and lists.query.rate[q] == 1
        rate = "low" if by_nature else f"x{lists.query.rate[q]:g}"
        facts = f"{rate}, AP {lists.ap[q]:.3f}\nfirst hit {lists.rank[q]:.4g}"
        caption = f"query {rows}x{cols}\n{_who(lists.query, q)}\n{facts}"
        cells.append(Cell(squares(pictures.seen("query", q), height), caption))
        if leading > 1:
            cells.append(Cell(view, "restored" if view is not None else ""))
        for number, place in places:
            picture = marked(squares(pictures.seen("gallery", place.gallery), height), place.hit, height)
            caption = f"{number}. {'hit' if place.hit else 'miss'}\n{_who(lists.gallery, place.gallery)}"
            cells.append(Cell(picture, f"{caption}\n{place.distance:.3f}", COLOURS[place.hit]))
        cells += [Cell(None)] * (-len(cells) % columns)
    return cells, columns


def marked(img: PIL.Image.Image, hit: bool, height: int) -> PIL.Image.Image:
    """Return a picture with a tick or a cross in its corner: colours alone do not tell everybody.

    Args:
        img: 8-bit RGB.
        hit: a tick.
        height: to bring it to, in pixels.
    """
    img = img.resize((max(1, round(img.width * height / img.height)), height), PIL.Image.Resampling.BICUBIC)
    side = max(9, height // 9)
    pen = PIL.ImageDraw.Draw(img)
    pen.rectangle((0, 0, side, side), "white")
    left, middle, right = side // 5, side // 2, side - side // 5
    tick = [((left, middle), (middle - 1, right), (right, left))]
    cross = [((left, left), (right, right)), ((left, right), (right, left))]
    for stroke in tick if hit else cross:
        pen.line(stroke, COLOURS[hit], max(2, side // 7))
    return img


def _who(features: FeatureSet, i: int) -> str:
    return PurePosixPath(features.names[i]).name
