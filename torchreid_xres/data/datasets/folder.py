"""A user's own images: a tree of folders or a table."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import IMAGE_SUFFIXES, list_images, read_text

PARTS = ("train", "query", "gallery")
COLUMNS = ("path", "identity", "camera", "split")
TABLE = "images.csv"


class _Row(NamedTuple):
    path: str
    identity: str
    camera: str
    split: str


@DATASETS.register(
    "folder",
    cite="",
    page="",
    terms="those of the images",
    natural=False,
    downloadable=False,
)
class Folder(CrossResolutionDataset):
    """Your own images, from a tree of folders or a table, as captured or with queries down-sampled.

    A tree: ``train``, ``query`` and ``gallery``, each with one folder per identity. The camera of an image is the
    name of a further folder, ``query/<identity>/<camera>/<image>``, or a number in the image's name,
    ``query/<identity>/0007_c2_1.jpg``.

    A table: ``images.csv``, UTF-8, with the header ``path,identity,camera,split``; paths are relative to the table's
    folder, the split is ``train``, ``query`` or ``gallery``.

    Identities and cameras are any text; the same text is the same identity in all parts, so training and test
    identities must differ. A query needs a gallery image of its identity from another camera.

    Options:
        folder: tree or table below ``root``; empty: ``root`` itself, and its ``images.csv`` if there is one.
        synthetic: True: queries, and training images of ``lr_camera``, are down-sampled by a rate drawn from
            ``rates``. False: nothing is; images of ``lr_camera`` count as low resolution by themselves.
        lr_camera: the low-resolution camera, as text; None: no camera is.
    """

    name = "folder"
    disjoint_cameras = False
    defaults: ClassVar[dict] = {"folder": "", "synthetic": False, "lr_camera": None}

    def load(self, root: Path, split_id: int, folder: str, synthetic: bool, lr_camera: str | None) -> Split:
        place = root / folder
        if not place.exists():
            raise FileNotFoundError(f"there is no folder or table {place}")
        table = place if place.is_file() else place / TABLE
        base, rows = (table.parent, _read_table(table)) if table.is_file() else (place, _read_tree(place))
        if lr_camera is not None and str(lr_camera) not in {row.camera for row in rows}:
            cameras = ", ".join(sorted({row.camera for row in rows}))
            raise ValueError(
                f"{self.name}: no image in {base} is of the lr_camera {lr_camera!r}; cameras are: {cameras}"
            )
        _check_matches(rows, base)

        # Whether the gap is in the pictures is here the user's to say.
        self.natural = not synthetic
        pids = {identity: number for number, identity in enumerate(sorted({row.identity for row in rows}))}
        camids = {camera: number for number, camera in enumerate(sorted({row.camera for row in rows}))}
        parts: dict[str, list[Image]] = {part: [] for part in PARTS}
        for row in sorted(rows):
            low = row.camera == str(lr_camera) and not (synthetic and row.split == "gallery")
            low = low or (synthetic and row.split == "query")
            path = str(base / row.path)
            parts[row.split].append(Image(path, pids[row.identity], camids[row.camera], low))
        return Split(str(base), **parts)


def _read_table(table: Path) -> list[_Row]:
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""))
    try:
        header, lines = reader.fieldnames or [], [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}") from error
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{table}: without the column {', '.join(missing)}; the header must have {', '.join(COLUMNS)}")
    rows = []
    for number, line in lines:
        where = f"{table}, line {number}"
        empty = [column for column in COLUMNS if not (line[column] or "").strip()]
        if empty:
            raise ValueError(f"{where}: nothing under {', '.join(empty)}")
        row = _Row(*(line[column].strip() for column in COLUMNS))
        if row.split not in PARTS:
            raise ValueError(f"{where}: the split is {row.split!r}; it must be {', '.join(PARTS)}")
        inside = Path(row.path)
        if inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{where}: the path {row.path!r} leaves the table's folder; give it relative to that")
        if not (table.parent / inside).is_file():
            raise FileNotFoundError(f"{where}: there is no file {table.parent / inside}")
        rows.append(row._replace(path=inside.as_posix()))
    if not rows:
        raise ValueError(f"{table}: there are no images in the table")
    twice = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{table}: {len(twice)} images are listed more than once, e.g. {', '.join(twice[:3])}")
    return rows


def _read_tree(base: Path) -> list[_Row]:
    missing = [part for part in PARTS if not (base / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{base}: without the folder {', '.join(missing)}; expected {', '.join(PARTS)}, or a table {TABLE}"
        )
    rows = []
    for part in PARTS:
        before = len(rows)
        for identity in _subfolders(base / part):
            cameras = _subfolders(identity)
            found = [(path, camera.name) for camera in cameras for path in list_images(camera)]
            if not cameras or _has_images(identity):
                found += [(path, _camera_of_name(path)) for path in list_images(identity)]
            rows += [
                _Row(Path(path).relative_to(base).as_posix(), identity.name, camera, part) for path, camera in found
            ]
        if len(rows) == before:
            raise FileNotFoundError(f"{base / part}: there are no images in <identity> folders here")
    return rows


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in folder.iterdir())


def _camera_of_name(path: str) -> str:
    match = re.search(r"_c(\d+)", Path(path).name)
    if match is None:
        raise ValueError(
            f"{path}: no camera; the name needs a part like _c2, or the image a folder <identity>/<camera>/"
        )
    return match[1]


def _check_matches(rows: list[_Row], base: Path) -> None:
    gallery = {row.identity for row in rows if row.split == "gallery"}
    alone = sorted({row.identity for row in rows if row.split == "query"} - gallery)
    if alone:
        raise ValueError(
            f"{base}: {len(alone)} identities have queries but no gallery image, e.g. {', '.join(alone[:5])}"
        )
