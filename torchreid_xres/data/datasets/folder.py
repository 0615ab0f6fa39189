"""A user's own images: a tree of folders or a table."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import CAMERA, inside, plain_camera, read_text, whole
from torchreid_xres.data.walk import holds, walk_images
from torchreid_xres.terminal import printable

logger = logging.getLogger(__name__)

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
    ``query/<identity>/0007_c2_1.jpg``. Linked folders count.

    A table: ``images.csv``, UTF-8, with the header ``path,identity,camera,split`` and commas, semicolons or tabs
    between; paths are relative to the table's folder or lie in it, the split is ``train``, ``query`` or ``gallery``.

    Identities and cameras are any text; the same text is the same identity in all parts, so training and test
    identities must differ. Cameras that are numbers are the same with and without zeros in front. A query needs a
    gallery image of its identity from another camera.

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
        cameras: dict[str, str] = {}
        for row in rows:
            cameras[plain_camera(row.camera)] = min(row.camera, cameras.get(plain_camera(row.camera), row.camera))
        if lr_camera is not None and plain_camera(str(lr_camera)) not in cameras:
            raise ValueError(
                f"{self.name}: no image in {base} is of the lr_camera {lr_camera!r}; cameras are: "
                f"{', '.join(sorted(cameras.values()))}"
            )
        _check_matches(rows, base)

        # Whether the gap is in the pictures is here the user's to say.
        self.natural = not synthetic
        pids = {identity: number for number, identity in enumerate(sorted({row.identity for row in rows}))}
        camids = {camera: number for number, camera in enumerate(sorted(cameras, key=lambda one: cameras[one]))}
        parts: dict[str, list[Image]] = {part: [] for part in PARTS}
        for row in sorted(rows):
            low = plain_camera(row.camera) == plain_camera(str(lr_camera))
            low = low and not (synthetic and row.split == "gallery")
            low = low or (synthetic and row.split == "query")
            path = str(base / row.path)
            parts[row.split].append(Image(path, pids[row.identity], camids[plain_camera(row.camera)], low))
        return Split(str(base), **parts)


def _read_table(table: Path) -> list[_Row]:
    text = read_text(table)
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is in numbers.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        header, lines = reader.fieldnames or [], [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}") from error
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(
            f"{table}: without the column {', '.join(missing)}; the header must have {','.join(COLUMNS)}, it is "
            f"{printable(text.partition(chr(10))[0].strip())!r}"
        )
    rows = []
    for number, line in lines:
        where = f"{table}, line {number}"
        empty = [column for column in COLUMNS if not (line[column] or "").strip()]
        if empty:
            raise ValueError(f"{where}: nothing under {', '.join(empty)}")
        row = _Row(*(line[column].strip() for column in COLUMNS))
        if row.split not in PARTS:
            raise ValueError(f"{where}: the split is {row.split!r}; it must be {', '.join(PARTS)}")
        below = inside(table.parent, row.path)
        if below is None:
            raise ValueError(f"{where}: the path {row.path!r} leaves the table's folder, {table.parent}")
        if not (table.parent / below).is_file():
            raise FileNotFoundError(f"{where}: there is no file {table.parent / below}")
        rows.append(row._replace(path=below.as_posix()))
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
            f"{base}: without the folder {', '.join(missing)}; expected {', '.join(PARTS)}, or a table {TABLE}; it "
            f"holds {holds(base)}"
        )
    rows = []
    for part in PARTS:
        found = whole(walk_images(base / part))
        empty = [name for name in found.without_images() if name and name.count("/") < 2]
        if empty:
            raise FileNotFoundError(f"there are no images in {base / part / empty[0]}")
        placed = {name: path for name, path in found.images.items() if 1 <= name.count("/") <= 2}
        astray = found.images.keys() - placed.keys()
        if not placed:
            told = f"{base / part}: there are no images in <identity> folders, or in <camera> folders in these"
            elsewhere = f"; {len(astray)} lie elsewhere, e.g. {printable(min(astray))}" if astray else ""
            raise FileNotFoundError(told + elsewhere)
        if astray:
            logger.warning(
                "%s: %d images are left out: they lie neither in <identity> nor in <identity>/<camera>, e.g. %s",
                base / part, len(astray), printable(min(astray)),
            )  # fmt: skip
        for name, path in placed.items():
            identity, *camera, _ = name.split("/")
            rows.append(_Row(f"{part}/{name}", identity, camera[0] if camera else _camera_of_name(path), part))
    return rows


def _camera_of_name(path: Path) -> str:
    numbers = CAMERA.findall(path.stem)
    if len({*map(plain_camera, numbers)}) != 1:
        told = f"the cameras {' and '.join(numbers)}" if numbers else "no camera"
        raise ValueError(
            f"{path}: {told}; the name needs one part like _c2, or the image a folder <identity>/<camera>/"
        )
    return numbers[0]


def _check_matches(rows: list[_Row], base: Path) -> None:
    gallery = {row.identity for row in rows if row.split == "gallery"}
    alone = sorted({row.identity for row in rows if row.split == "query"} - gallery)
    if alone:
        raise ValueError(
            f"{base}: {len(alone)} identities have queries but no gallery image, e.g. {', '.join(alone[:5])}"
        )
