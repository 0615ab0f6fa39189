"""Queries with what they look like and what was found for them, ready to be shown on a page."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from torchvision.transforms.functional import to_pil_image

from torchreid_xres.data.batches import collated
from torchreid_xres.devices.parallel import to_device
from torchreid_xres.engine.base import XresMixin
from torchreid_xres.features.features import FeatureSet, check_same_images
from torchreid_xres.files import shown_path
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import engine_features, require_trained, trained_engine
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.restored import restored_view
from torchreid_xres.pictures.lists import Place, RankedLists
from torchreid_xres.pictures.thumbnail import thumbnail

MOST = 10  # queries of each kind: with pictures of 128 x 128 that is a page of some 2.5 MB


class Shown(NamedTuple):
    """A picture on a page.

    Attributes:
        picture: data URI of a JPEG.
        alt: what it is, for those who do not see it.
        note: below it.
        kind: ``query``, ``restored``, ``hit`` or ``miss``.
    """

    picture: str
    alt: str
    note: str
    kind: str


class Listed(NamedTuple):
    """A query: its file's name, what is known of it, and rows of pictures, each with a heading."""

    name: str
    facts: list[str]
    rows: list[tuple[str, list[Shown]]]


class Changes(NamedTuple):
    """How several runs find the same queries.

    Attributes:
        ahead: of each run the queries whose first match comes earlier in it than in all others, most telling first.
        alone: of each run how many queries have a match at rank 1 in it, and in no other.
        same: queries of which no run is ahead.
        missed: queries with no match at rank 1 in any run.
    """

    ahead: list[list[int]]
    alone: list[int]
    same: int
    missed: int


@dataclass(frozen=True)
class Queries:
    """The queries that a page shows.

    Args:
        worst: of each run, by its label.
        best: of a run that is shown alone.
        ahead: by each run's label those that it finds earlier than all others.
        changes: how many these are; None where nothing is compared.
        obstacles: why runs are not compared query by query.
    """

    worst: Mapping[str, Sequence[Listed]]
    best: Sequence[Listed] = ()
    ahead: Mapping[str, Sequence[Listed]] = field(default_factory=dict)
    changes: Changes | None = None
    obstacles: Sequence[str] = ()


class RunPictures:
    """The pictures of a run's queries and gallery.

    Args:
        engine: of a trained run, see :func:`torchreid_xres.jobs.extraction.trained_engine`.
        dataset: registered name of its target.
        normalize: the loaders' normalisation.
    """

    def __init__(self, engine: XresMixin, dataset: str, normalize: Normalization) -> None:
        self._model = unwrap(engine.model)
        self._normalize = normalize
        self._sets = {role: engine.datamanager.test_loader[dataset][role].dataset for role in ("query", "gallery")}
        self._plain = {role: copy.copy(images) for role, images in self._sets.items()}
        for images in self._plain.values():
            images.transform = None

    def seen(self, role: str, index: int) -> PIL.Image.Image:
        """Return an image as the camera saw it, at its native size."""
        return self._plain[role][index]["img"]

    def restored(self, query: int) -> PIL.Image.Image | None:
        """Return what the model's front end makes of a query, in the query's own shape.

        None without a front end, or for a query that is not low resolution.
        """
        item = self._sets["query"][query]
        if not item.get("low"):
            return None
        device = next(self._model.parameters()).device
        found = restored_view(self._model, to_device(collated([item]), device), self._normalize.to(device))
        if found is None:
            return None
        img = to_pil_image(found[0].cpu())
        height, width = item["size"].tolist()
        return img.resize((max(1, round(img.height * width / height)), img.height), PIL.Image.Resampling.BICUBIC)


def run_queries(
    folders: Mapping[str, Path], records: Sequence[Mapping[str, Any]], count: int = 6, root: str | Path = ""
) -> Queries:
    """Return the worst queries of runs; of one its best, of several those that each finds and the others miss.

    Args:
        folders: of the runs by their labels; features are kept there. All but the first may be files of records, of
            which only figures can be compared.
        records: of their evaluations.
        count: queries of each kind, 1 to ``MOST``.
        root: folder that holds the data sets now; empty: where the run had them.

    Raises:
        FileNotFoundError: if a run or the data set is not there.
        ValueError: if the first folder is a record, a run's weights or the data set are no longer those of the record,
            or ``count`` is out of range.
    """
    if not 1 <= count <= MOST:
        raise ValueError(f"{count} queries of each kind; 1 to {MOST} can be shown")
    for folder in list(folders.values())[1:]:
        if folder.is_dir():
            require_trained(folder)  # before the images of the first run are read
    worst, obstacles, opened = {}, [], {}
    for (label, folder), record in zip(folders.items(), records, strict=True):
        if opened and not folder.is_dir():
            obstacles.append(f"{shown_path(folder)} is a record, which holds no ranked lists")
            continue
        lists, pictures = _opened(folder, record, root)
        worst[label] = listed(lists, pictures, lists.hardest(count))
        if not opened:
            own, seen = lists, pictures
        try:
            require_alike(own, lists, label)
            opened[label] = lists
        except ValueError as error:
            obstacles.append(str(error))
    if len(folders) == 1:
        return Queries(worst, listed(own, seen, own.hardest(count, easiest=True)))
    if len(opened) == 1:
        return Queries(worst, obstacles=obstacles)
    found = changes(list(opened.values()))
    ahead = {
        label: compared(opened, seen, chosen[:count]) for label, chosen in zip(opened, found.ahead, strict=True)
    }
    return Queries(worst, (), ahead, found, obstacles)


def _opened(folder: Path, record: Mapping[str, Any], root: str | Path) -> tuple[RankedLists, RunPictures]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is a record: pictures need the folder of its run (or leave them out)")
    run, engine = trained_engine(folder, record["dataset"], root)
    features = engine_features(run, engine, ("query", "gallery"))
    query = features["query"]
    for what, key in (("weights", "weights_sha256"), ("data set", "manifest")):
        ours = query.weights_sha256 if key == "weights_sha256" else query.manifest_sha256 or None
        if ours != record[key]:
            raise ValueError(
                f"the {what} of {folder} are no longer those that its record was made with; evaluate again, or leave "
                f"the pictures out ({what} {str(ours)[:12]}, in the record {str(record[key])[:12]})"
            )
    normalize = Normalization(run.cfg.data.norm_mean, run.cfg.data.norm_std)
    lists = RankedLists(query, features["gallery"], record["protocol"])
    return lists, RunPictures(engine, record["dataset"], normalize)


def listed(lists: RankedLists, pictures: RunPictures, queries: Sequence[int], count: int = 5) -> list[Listed]:
    """Return queries as the camera saw them, as the front end restored them, and the first of their lists.

    Args:
        lists: of the run.
        pictures: of the same run.
        queries: indices.
        count: images of each list; the first match comes behind them where it is none of them.
    """
    found = []
    for query, places in zip(queries, _heads(lists, pictures, queries, count), strict=True):
        figures = [_first(lists, query), f"AP {100 * lists.ap[query]:.1f}\N{NO-BREAK SPACE}%"]
        shown = [*_query(lists.query, pictures, query), *places]
        found.append(Listed(lists.query.names[query], [*_facts(lists.query, query), *figures], [("", shown)]))
    return found


def require_alike(run: RankedLists, other: RankedLists, label: str) -> None:
    """Refuse a run that did not rank the images of another, or not by the same protocol.

    Args:
        run: run A.
        other: the other.
        label: of the other.
    """
    ours, theirs = ([one.protocol[key] for key in ("protocol", "draws", "seed")] for one in (run, other))
    if ours != theirs:
        raise ValueError(f"{label}: the protocol is {theirs}, of run A {ours}")
    try:
        check_same_images([run.query, other.query])
        check_same_images([run.gallery, other.gallery])
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def changes(runs: Sequence[RankedLists]) -> Changes:
    """Return which queries each of several runs finds earlier than all others, by the gap of the reciprocal ranks.

    So a match at rank 1 that the others have at rank 2 tells more than one at rank 20 that they have at 40.

    Args:
        runs: two or more, of the same images by the same protocol.
    """
    ranks = np.stack([run.rank for run in runs])
    gain, first = 1 / ranks, ranks == 1  # NaN for queries without a match, of which no comparison is true
    ahead, alone = [], []
    for number, own in enumerate(gain):
        gap = own - np.delete(gain, number, axis=0).max(axis=0)
        order = np.argsort(-gap, kind="stable")
        ahead.append(order[gap[order] > 0].tolist())
        alone.append(int((first[number] & (first.sum(axis=0) == 1)).sum()))
    known = ~np.isnan(ranks[0])
    same = int(known.sum()) - sum(map(len, ahead))
    return Changes(ahead, alone, same, int((known & ~first.any(axis=0)).sum()))


def compared(
    runs: Mapping[str, RankedLists], pictures: RunPictures, queries: Sequence[int], count: int = 5
) -> list[Listed]:
    """Return queries with the first images of several runs' lists, and the first match where it comes later.

    Args:
        runs: of the same images, by their labels.
        pictures: of the first.
        queries: indices.
        count: images of each list.
    """
    found = []
    heads = [list(_heads(lists, pictures, queries, count)) for lists in runs.values()]
    own = next(iter(runs.values()))
    for number, query in enumerate(queries):
        rows = [
            (f"{label}: {_first(lists, query)}", places[number])
            for (label, lists), places in zip(runs.items(), heads, strict=True)
        ]
        shown = _query(own.query, pictures, query)
        found.append(Listed(own.query.names[query], _facts(own.query, query), [("", shown), *rows]))
    return found


def _heads(
    lists: RankedLists, pictures: RunPictures, queries: Sequence[int], count: int
) -> Iterator[list[Shown]]:
    """Yield the first images of each query's list, and behind them the first match where it is none of them."""
    for places, match in zip(lists.top(queries, count), lists.first_match(queries), strict=True):
        ranked = list(enumerate(places, 1)) + [match] * (match is not None and match[0] > count)
        yield [_place(lists.gallery, pictures, rank, place) for rank, place in ranked]


def _first(lists: RankedLists, query: int) -> str:
    drawn = "" if lists.protocol["protocol"] == "market" else " in the mean of the draws"
    return f"first match at rank {lists.rank[query]:g}{drawn}"


def _facts(images: FeatureSet, query: int) -> list[str]:
    height, width = images.size[query]
    return [
        f"identity {images.pid[query]}",
        f"camera {images.camid[query]}",
        f"rate {images.rate[query]:g}",
        f"{height} x {width} pixels",
    ]


def _query(images: FeatureSet, pictures: RunPictures, query: int) -> list[Shown]:
    name = images.names[query]
    shown = [Shown(thumbnail(pictures.seen("query", query)), f"query {name} as the camera saw it", "query", "query")]
    restored = pictures.restored(query)
    if restored is not None:
        shown.append(Shown(thumbnail(restored), f"query {name} restored by the front end", "restored", "restored"))
    return shown


def _place(images: FeatureSet, pictures: RunPictures, rank: int, place: Place) -> Shown:
    index, distance, hit = place
    kind = "hit" if hit else "miss"
    alt = (
        f"rank {rank}, {kind}: {images.names[index]}, identity {images.pid[index]}, camera {images.camid[index]}, "
        f"distance {distance:.3f}"
    )
    return Shown(thumbnail(pictures.seen("gallery", index)), alt, f"{rank}: {distance:.3f}", kind)
