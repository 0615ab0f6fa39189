"""Reads keypoint annotations in the form of the public VeRi-776 files, and matches them with a set's images.

The files (Z. Wang et al., ICCV 2017, see ``vehicle20``; published as ``keypoint_train.txt`` and ``keypoint_test.txt``)
hold one picture a line: its path, x and y of the 20 points in pixels of the original picture, -1 -1 for a point that is
not visible, and the code of the vehicle's orientation. They are known to repeat lines and to misname a picture.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreid_xres.data.io import image_size
from torchreid_xres.keypoints.vehicle20 import KEYPOINTS, ORIENTATIONS

logger = logging.getLogger(__name__)

_FIELDS = 2 + 2 * len(KEYPOINTS)
_SHOWN = 5
_FARTHEST = 2**20  # pixels: no picture is so large


@dataclass(frozen=True)
class Annotations:
    """The pictures of an annotation file, each once, in the file's order.

    Attributes:
        file: where they were read from.
        lines: how many lines the file has.
        names: M names, without folders.
        points: int (M, 20, 2), x and y in pixels, -1 -1 where a point is not visible.
        orientations: int (M,), codes of ``vehicle20.ORIENTATIONS``.
        repeated: names of lines that say again what an earlier one said.
        contradicted: names of lines that say otherwise than an earlier one of that name; the earlier one holds.
    """

    file: str
    lines: int
    names: tuple[str, ...]
    points: np.ndarray
    orientations: np.ndarray
    repeated: tuple[str, ...]
    contradicted: tuple[str, ...]

    @cached_property
    def row(self) -> dict[str, int]:
        """Name to its row in ``points``."""
        return {name: row for row, name in enumerate(self.names)}

    def compare(self, paths: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the names that no image has, and those of the images that have no annotation.

        Args:
            paths: images of a set; their folders do not count.
        """
        there = {os.path.basename(path) for path in paths}
        return [name for name in self.names if name not in there], sorted(there - set(self.names))


def read_annotations(file: str | Path) -> Annotations:
    """Read an annotation file; what is repeated or contradicted is logged and left out.

    Args:
        file: text, a picture a line: path, x1 y1 ... x20 y20, orientation code.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the first lines that have another form, with what is wrong in each; or an empty file.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no keypoint annotation {file}")
    rows: dict[str, tuple[int, ...]] = {}
    repeated: list[str] = []
    contradicted: list[str] = []
    damaged: list[str] = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        wrong, values = _parse(fields)
        if wrong:
            damaged.append(f"line {number}: {wrong}")
            continue
        name = os.path.basename(fields[0])
        if rows.setdefault(name, values) is not values:
            (repeated if rows[name] == values else contradicted).append(name)
    if damaged:
        raise ValueError(f"{file} has {len(damaged)} damaged lines of {len(lines)}: {_some(damaged, '; ')}")
    if not rows:
        raise ValueError(f"{file} is empty; an annotation is {_FIELDS} fields a line")
    for told, names in (("repeat an earlier line", repeated), ("contradict an earlier line", contradicted)):
        if names:
            logger.warning("%s: %d of %d lines %s: %s", file.name, len(names), len(lines), told, _some(names))
    table = np.array(list(rows.values()), dtype=np.int64)
    return Annotations(
        file=str(file),
        lines=len(lines),
        names=tuple(rows),
        points=table[:, :-1].reshape(-1, len(KEYPOINTS), 2),
        orientations=table[:, -1],
        repeated=tuple(repeated),
        contradicted=tuple(contradicted),
    )


def _parse(fields: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Return what is wrong with the fields of a line (nothing: an empty text), and its numbers."""
    if len(fields) != _FIELDS:
        return f"{len(fields)} fields instead of {_FIELDS}", ()
    try:
        values = tuple(map(int, fields[1:]))
    except ValueError as error:
        return str(error), ()
    if not os.path.basename(fields[0]):
        return f"{fields[0]} is a folder, not a picture", ()
    *pixels, code = values
    for name, x, y in zip(KEYPOINTS, pixels[::2], pixels[1::2], strict=True):
        if (min(x, y) < 0 and (x, y) != (-1, -1)) or max(x, y) > _FARTHEST:
            return f"{name} at {x} {y}; allowed are places in the picture and -1 -1", ()
    if code not in range(len(ORIENTATIONS)):
        return f"orientation {code}; allowed are 0 to {len(ORIENTATIONS) - 1}", ()
    return "", values


def _some(texts: Sequence[str], between: str = ", ") -> str:
    rest = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return between.join(texts[:_SHOWN]) + rest


class KeypointTable:
    """The keypoints of the images of data sets, as fractions of the pictures' sides.

    Args:
        *datasets: sets, or sums of sets, each with the attribute ``keypoints_file``. Names in a file that no image of
            its set has, and images without annotation, are logged.

    Raises:
        ValueError: for a set without annotation, or an annotation that fits none of the images.
        FileNotFoundError: if an annotation file is missing.
    """

    def __init__(self, *datasets: Any) -> None:
        self._points: dict[str, tuple[Annotations, int]] = {}
        self._fractions: dict[str, np.ndarray] = {}
        read: dict[str, Annotations] = {}
        for member in (member for dataset in datasets for member in getattr(dataset, "members", [dataset])):
            file = getattr(member, "keypoints_file", "")
            if not file:
                name = getattr(member, "name", "") or type(member).__name__
                raise ValueError(f"{name} has no keypoint annotation; synth_vehicle and veri776_x8 have")
            if file not in read:
                read[file] = read_annotations(file)
                _log_unknown(read[file], [path for path, *_ in (*member.train, *member.query, *member.gallery)])
            self._add(read[file], [path for path, *_ in member.data])

    def _add(self, annotations: Annotations, paths: Sequence[str]) -> None:
        for path in paths:
            row = annotations.row.get(os.path.basename(path))
            if row is not None:
                self._points[path] = (annotations, row)
        lacking = annotations.compare(paths)[1]
        if len(lacking) == len({os.path.basename(path) for path in paths}):
            raise ValueError(
                f"{annotations.file} names none of the {len(paths)} images of the set, such as {paths[0]}; "
                f"its first is {annotations.names[0]}"
            )
        if lacking:
            logger.warning("%s: %d images have no keypoints: %s", annotations.file, len(lacking), _some(lacking))

    def __contains__(self, path: object) -> bool:
        return path in self._points

    def __len__(self) -> int:
        return len(self._points)

    def points(self, paths: Sequence[str]) -> Tensor:
        """Return the keypoints of images.

        Args:
            paths: N images that are in the table.

        Returns:
            float (N, 20, 2), x and y as fractions of the original picture's width and height, -1 -1 where a point is
            not visible. A pixel counts with its centre; a point beyond the border is put on it.

        Raises:
            KeyError: for an image that is not in the table.
        """
        return torch.from_numpy(np.stack([self._of(path) for path in paths]))

    def _of(self, path: str) -> np.ndarray:
        if path not in self._fractions:
            annotations, row = self._points[path]
            height, width = image_size(path)
            pixels = annotations.points[row]
            fractions = np.minimum((pixels + 0.5) / (width, height), 1.0)
            self._fractions[path] = np.where(pixels < 0, -1.0, fractions).astype(np.float32)
        return self._fractions[path]


def _log_unknown(annotations: Annotations, paths: Sequence[str]) -> None:
    unknown, _ = annotations.compare(paths)
    if unknown:
        logger.warning("%s: %d names are no image of the set: %s", annotations.file, len(unknown), _some(unknown))
