"""Lists of boxes in frames: MOTChallenge's text, COCO's JSON, and a table of our own."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torchreid_xres.archive.times import moment
from torchreid_xres.data.datasets.reading import read_text
from torchreid_xres.files import require_regular

COLUMNS = ("path", "left", "top", "width", "height")
OPTIONAL = ("frame", "camera", "time", "track", "identity")
_KINDS = "MOTChallenge's text, COCO's JSON, or a table with the columns " + ",".join(COLUMNS)


class Box(NamedTuple):
    """A box in a frame.

    Attributes:
        where: place in the list, for messages.
        path: of the frame's file; empty where only its number is known.
        number: of the frame, from 1; 0 where only its file is known.
        corners: left, top, width and height in whole pixels of the frame.
        camera, time, track, identity: empty if unknown.
    """

    where: str
    path: str
    number: int
    corners: tuple[int, int, int, int]
    camera: str = ""
    time: str = ""
    track: str = ""
    identity: str = ""


@dataclass
class Boxes:
    """What a list of boxes holds.

    Attributes:
        file: the list.
        boxes: those that can be.
        faults: place in the list -> why the box there cannot be used.
    """

    file: Path
    boxes: list[Box] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def read_boxes(file: str | Path) -> Boxes:
    """Return the boxes of a list; those that cannot be are named by their lines, and left out.

    Args:
        file: MOTChallenge's text (``frame, id, left, top, width, height, confidence``; the first pixel is 1; id -1 is
            no track; in a ground truth's nine columns a 0 in the seventh says that the box does not count), COCO's
            JSON, or a table with the header ``path,left,top,width,height`` and any of ``frame`` (its number, in a
            video), ``camera``, ``time`` (a date, or seconds), ``track`` and ``identity``.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is none of these, or holds no box that can be used.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "det.txt"
        >>> _ = file.write_text("1,-1,11,21,30,60,0.9\\n1,-1,5,5,0,9,0.9\\n")
        >>> found = read_boxes(file)
        >>> found.boxes[0].corners, found.faults
        ((10, 20, 30, 60), {'line 2': 'a box has a width and a height, not 0 x 9'})
    """
    file = Path(file).expanduser().absolute()
    if not file.exists():
        raise FileNotFoundError(f"there is no list of boxes {file}")
    require_regular(file)
    found = Boxes(file)
    text = read_text(file)
    if file.suffix.lower() == ".json":
        lines = _coco(file, text)
    elif re.match(r"\s*-?[0-9.]+\s*[,\s]", text):
        lines = _mot(text)
    else:
        lines = _table(file, text)
    for where, read in lines:
        try:
            found.boxes.append(read())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            told = f"without {error}" if isinstance(error, KeyError) else str(error)
            found.faults[where] = told
    if not found.boxes:
        first = next((f"; the first, {where}: {why}" for where, why in found.faults.items()), "")
        raise ValueError(f"{file} holds no box that can be used{first}; a list of boxes is {_KINDS}")
    return found


def corners(left: Any, top: Any, width: Any, height: Any) -> tuple[int, int, int, int]:
    """Return a box in whole pixels, each of its edges at the nearest one.

    Raises:
        ValueError: for what is no number, or no area.

    Example:
        >>> corners(0.4, "0.5", 10.2, 20)
        (0, 1, 11, 20)
    """
    try:
        sides = [float(one) for one in (left, top, width, height)]
    except (TypeError, ValueError):
        raise ValueError(f"a box is four numbers, not {left!r}, {top!r}, {width!r}, {height!r}") from None
    if not all(math.isfinite(one) and abs(one) < 1e9 for one in sides):
        raise ValueError(f"a box is four numbers, not {left}, {top}, {width}, {height}")
    x, y = math.floor(sides[0] + 0.5), math.floor(sides[1] + 0.5)
    right, bottom = math.floor(sides[0] + sides[2] + 0.5), math.floor(sides[1] + sides[3] + 0.5)
    if right <= x or bottom <= y:
        raise ValueError(f"a box has a width and a height, not {sides[2]:g} x {sides[3]:g}")
    return x, y, right - x, bottom - y


def _time(text: str) -> str:
    if text:
        moment(text)
    return text


def _mot(text: str) -> Iterator:
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield f"line {number}", lambda line=line, number=number: _mot_box(line, number)


def _mot_box(line: str, number: int) -> Box:
    parts = [part.strip() for part in line.split(",")] if "," in line else line.split()
    if len(parts) < 6:
        raise ValueError(f"{len(parts)} numbers; frame, id, left, top, width and height are needed")
    try:
        frame, track, left, top, width, height = map(float, parts[:6])
    except ValueError:
        raise ValueError(f"frame, id and box are six numbers, not {', '.join(parts[:6])}") from None
    if not math.isfinite(frame) or frame != int(frame) or frame < 0:
        raise ValueError(f"the frame is {parts[0]}, which is no number of a frame")
    if len(parts) == 9 and parts[6].removesuffix(".0") == "0":
        raise ValueError("it is marked as one that does not count (0 in the seventh column)")
    name = "" if track < 0 else parts[1].removesuffix(".0")
    return Box(f"line {number}", "", int(frame), corners(left - 1, top - 1, width, height), track=name)


def _table(file: Path, text: str) -> Iterator:
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is in numbers.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    columns = reader.fieldnames or []
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise ValueError(f"{file}: without the column {', '.join(missing)}; a list of boxes is {_KINDS}")
    try:
        for line in reader:
            yield f"line {reader.line_num}", lambda line=line, number=reader.line_num: _table_box(line, number)
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}") from error


def _table_box(line: dict[str, str], number: int) -> Box:
    if not (line["path"] or "").strip():
        raise ValueError("nothing under path")
    more = {column: (line.get(column) or "").strip() for column in OPTIONAL}
    frame = more.pop("frame")
    if frame and not re.fullmatch("[0-9]{1,9}", frame):
        raise ValueError(f"the frame is {frame}, which is no number of a frame")
    _time(more["time"])
    sides = corners(*(line[column] for column in COLUMNS[1:]))
    return Box(f"line {number}", line["path"].strip(), int(frame or 0), sides, **more)


def _coco(file: Path, text: str) -> Iterator:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise ValueError(f"{file}: without images and annotations, so no file names; a list of boxes is {_KINDS}")
    images = {one["id"]: one for one in content["images"] if isinstance(one, dict) and "id" in one}
    for number, one in enumerate(content["annotations"], start=1):
        yield f"annotation {number}", lambda one=one, number=number: _coco_box(one, images, number)


def _coco_box(one: dict, images: dict, number: int) -> Box:
    if one.get("iscrowd"):
        raise ValueError("it is a crowd")
    if one["image_id"] not in images:
        raise ValueError(f"there is no image {one['image_id']!r} in the list")
    image = images[one["image_id"]]
    time = image.get("date_captured", "")
    try:
        dated = isinstance(time, str) and moment(time)[0] == "date"
    except ValueError:
        dated = False  # exporters put anything there
    track = one.get("track_id", one.get("instance_id", ""))
    camera = str(image.get("camera", ""))
    sides = corners(*one["bbox"])
    return Box(f"annotation {number}", image["file_name"], 0, sides, camera, time if dated else "", str(track))
