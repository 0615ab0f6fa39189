"""What a search finds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torchreid_xres.archive.entries import Corners


class Hit(NamedTuple):
    """An image that a search found.

    Attributes:
        rank: from 1.
        score: cosine similarity, at most 1; or minus the squared distance, if the run was evaluated by Euclidean ones.
        name: path below the folder of images; of a box also its place, of a track its number.
        path: the file, of a box that of its frame.
        size: height and width of the image, or the box.
        frame: name of the frame that a box is in, of a track the one that shows it best; empty for an image.
        box: left, top, width and height in it; None for the whole.
        time: as a list of boxes or EXIF has it, empty if neither does.
        camera, track, identity: as a list of boxes has them, empty if it does not.
    """

    rank: int
    score: float
    name: str
    path: Path
    size: tuple[int, int]
    frame: str = ""
    box: Corners | None = None
    time: str = ""
    camera: str = ""
    track: str = ""
    identity: str = ""
