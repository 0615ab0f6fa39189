"""Queries with what they look like and what was found for them, ready to be shown on a page."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from torchvision.transforms.functional import to_pil_image

from torchreid_xres.data.batches import collated
from torchreid_xres.devices.parallel import to_device
from torchreid_xres.engine.base import XresMixin
from torchreid_xres.features.features import FeatureSet, check_same_images
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import engine_features, require_trained, trained_engine
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.restored import restored_view
from torchreid_xres.report.lists import Place, RankedLists
from torchreid_xres.report.thumbnail import thumbnail

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
    """Queries whose first match came earlier, or later, than in another run; most telling first."""

    won: list[int]
    lost: list[int]
    same: int


@dataclass(frozen=True)
class Queries:
    """The queries that a page shows.

    Args:
        worst, best: of the run.
        won, lost: whose first match comes earlier, or later, than in another run.
        counts: how many are won, lost and the same; None where nothing is compared.
        obstacle: why two runs are not compared query by query.
    """

    worst: Sequence[Listed]
    best: Sequence[Listed]
    won: Sequence[Listed] = ()
    lost: Sequence[Listed] = ()
    counts: tuple[int, int, int] | None = None
    obstacle: str = ""


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
    folder: Path,
    record: Mapping[str, Any],
    other: Path | None = None,
    other_record: Mapping[str, Any] | None = None,
    count: int = 6,
    root: str | Path = "",
) -> Queries:
    """Return the worst and best queries of a run, and those that another run ranks otherwise.

    Args:
        folder: of the run; its features are kept there.
        record: of its evaluation.
        other: another run's folder, or its record's file, of which only figures can be compared.
        other_record: of that one's evaluation.
        count: queries of each kind, 1 to ``MOST``.
        root: folder that holds the data sets now; empty: where the run had them.

    Raises:
        FileNotFoundError: if a run or the data set is not there.
        ValueError: if a folder is a record, the run's weights or the data set are no longer those of the record, or
            ``count`` is out of range.
    """
    if not 1 <= count <= MOST:
        raise ValueError(f"{count} queries of each kind; 1 to {MOST} can be shown")
    if other is not None and other.is_dir():
        require_trained(other)  # before the images of this run are read
    lists, pictures = _opened(folder, record, root)
    worst, best = (listed(lists, pictures, lists.hardest(count, easiest)) for easiest in (False, True))
    if other is None or other_record is None:
        return Queries(worst, best)
    if not other.is_dir():
        return Queries(worst, best, obstacle=f"{other} is a record, which holds no ranked lists")
    opponent, _ = _opened(other, other_record, root)
    try:
        won, lost, same = changes(lists, opponent)
    except ValueError as error:
        return Queries(worst, best, obstacle=str(error))
    shown = (compared(lists, opponent, pictures, chosen[:count]) for chosen in (won, lost))
    return Queries(worst, best, *shown, counts=(len(won), len(lost), same))


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
    for query, places, match in zip(queries, lists.top(queries, count), lists.first_match(queries), strict=True):
        shown = [*_query(lists.query, pictures, query), *_places(lists.gallery, pictures, places)]
        if match is not None and match[0] > count:
            shown.append(_place(lists.gallery, pictures, *match))
        figures = [_first(lists, query), f"AP {100 * lists.ap[query]:.1f}\N{NO-BREAK SPACE}%"]
        found.append(Listed(lists.query.names[query], [*_facts(lists.query, query), *figures], [("", shown)]))
    return found


def changes(lists: RankedLists, other: RankedLists) -> Changes:
    """Return the queries won and lost against another run, by the difference of the reciprocal ranks.

    So a match that moves from rank 2 to rank 1 tells more than one that moves from 40 to 20.

    Raises:
        ValueError: if the two did not rank the same images by the same protocol.
    """
    check_same_images([lists.query, other.query])
    check_same_images([lists.gallery, other.gallery])
    ours, theirs = ([run.protocol[key] for key in ("protocol", "draws", "seed")] for run in (lists, other))
    if ours != theirs:
        raise ValueError(f"the protocols differ, {ours} in run A and {theirs} in run B")
    gain = 1 / lists.rank - 1 / other.rank  # NaN for queries without a match, of which neither comparison is true
    order = np.argsort(-gain, kind="stable")
    won, lost = order[gain[order] > 0], order[gain[order] < 0][::-1]
    return Changes(won.tolist(), lost.tolist(), int((gain == 0).sum()))


def compared(
    lists: RankedLists, other: RankedLists, pictures: RunPictures, queries: Sequence[int], count: int = 5
) -> list[Listed]:
    """Return queries with the first images of two runs' lists.

    Args:
        lists: of the run.
        other: of the other one, on the same images.
        pictures: of the run.
        queries: indices.
        count: images of each list.
    """
    found = []
    for query, ours, theirs in zip(queries, lists.top(queries, count), other.top(queries, count), strict=True):
        rows = [
            (f"{where}: {_first(run, query)}", _places(lists.gallery, pictures, places))
            for where, run, places in (("run A", lists, ours), ("run B", other, theirs))
        ]
        shown = _query(lists.query, pictures, query)
        found.append(Listed(lists.query.names[query], _facts(lists.query, query), [("", shown), *rows]))
    return found


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


def _places(images: FeatureSet, pictures: RunPictures, places: Sequence[Place]) -> list[Shown]:
    return [_place(images, pictures, rank, place) for rank, place in enumerate(places, 1)]


def _place(images: FeatureSet, pictures: RunPictures, rank: int, place: Place) -> Shown:
    index, distance, hit = place
    kind = "hit" if hit else "miss"
    alt = (
        f"rank {rank}, {kind}: {images.names[index]}, identity {images.pid[index]}, camera {images.camid[index]}, "
        f"distance {distance:.3f}"
    )
    return Shown(thumbnail(pictures.seen("gallery", index)), alt, f"{rank}: {distance:.3f}", kind)
