"""What a gallery is made of: images, boxes in frames, or tracks of boxes, each an entry with a name."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torchreid_xres.archive.boxes import Box, Boxes
from torchreid_xres.archive.folder import ImageFile, image_files
from torchreid_xres.archive.frames import frame_file, is_video, video_length, video_rate
from torchreid_xres.archive.times import moment
from torchreid_xres.data.datasets.reading import inside
from torchreid_xres.data.walk import FoundImages

Corners = tuple[int, int, int, int]


def corners_of(box: str | Corners) -> Corners:
    """Return a box as a gallery's file has it, or as it is, as numbers: left, top, width, height."""
    return tuple(map(int, box.split(","))) if isinstance(box, str) else box


class View(NamedTuple):
    """A frame, or a box in it, and when that was; empty where nobody says."""

    frame: str
    box: Corners | None = None
    time: str = ""


class Entry(NamedTuple):
    """An image, a box, or a track.

    Attributes:
        views: where it is seen; a track has several.
        bytes, mtime_ns: change when the files or what is said of it do.
        camera, track, identity: as a list of boxes has them.
    """

    views: tuple[View, ...]
    bytes: int
    mtime_ns: int
    camera: str | None = None
    track: str | None = None
    identity: str | None = None


@dataclass
class Entries:
    """What is in and below a folder, or a list of boxes names there.

    Attributes:
        base: folder that the names of frames are below.
        found: entries by name.
        tree: what else is in the folder.
        faults: places in the list -> why the box there cannot be used.
        thinned: boxes in frames of videos between those that are taken.
    """

    base: Path
    found: dict[str, Entry]
    tree: FoundImages
    faults: dict[str, str] = field(default_factory=dict)
    thinned: int = 0


def find_entries(images: Path, without: Path, boxes: Boxes | None = None, rate: float = 0) -> Entries:
    """Return the entries of a folder, or of a video.

    Args:
        images: the folder, or a video's file.
        without: a folder that is not looked into.
        boxes: entries are these; None: an image each, or a frame of the video each.
        rate: frames of each second of a video that are taken; 0: all that boxes are in, without boxes one.

    Raises:
        FileNotFoundError: if there is no such folder or file, or no image in it.
        OSError: if it cannot be read.
        ValueError: if none of the boxes is in a frame that is there, or boxes lack names that tell frames apart.
    """
    if images.is_file():
        if not is_video(images.name):
            raise ValueError(f"{images} is neither a folder nor a video")
        stat = images.stat()
        files = {images.name: ImageFile(images, stat.st_size, stat.st_mtime_ns)}
        base, tree = images.parent, FoundImages(images.parent, {images.name: images})
    else:
        files, tree = image_files(images, without=without, videos=boxes is not None)
        base = images
    if boxes is not None:
        return _Placing(base, files, tree, rate).place(boxes)
    if images.is_file():
        own, step = video_rate(images), max(1.0, video_rate(images) / (rate or 1))
        count = video_length(images)
        numbers = sorted({1 + round(i * step) for i in range(int((count - 1) / step) + 1)})
        views = [View(f"{images.name}@{n}", None, f"{(n - 1) / own:.3f}") for n in numbers if n <= count]
        file = files[images.name]
        return Entries(base, {view.frame: Entry((view,), file.bytes, file.mtime_ns) for view in views}, tree)
    found = {name: Entry((View(name),), file.bytes, file.mtime_ns) for name, file in files.items()}
    return Entries(base, found, tree)


class _Placing:
    """Puts boxes into the frames that are there.

    Args:
        base: folder that the names of frames are below.
        files: images and videos there.
        tree: what else is there.
        rate: frames of each second of a video that are taken; 0: all.
    """

    def __init__(self, base: Path, files: dict[str, ImageFile], tree: FoundImages, rate: float) -> None:
        self.base, self.files, self.tree, self.rate = base, files, tree, rate
        self.rates: dict[str, float] = {}
        self.videos = [name for name in files if is_video(name)]
        self.numbered: dict[int, list[str]] = defaultdict(list)
        for name in files.keys() - {*self.videos}:
            digits = re.search(r"([0-9]+)$", Path(name).stem)
            if digits:
                self.numbered[int(digits[1])].append(name)
        self.bins: dict[tuple[str, int], int] = {}  # of a video's time: the frame that is taken

    def place(self, boxes: Boxes) -> Entries:
        placed: dict[str, list[tuple[Box, View]]] = defaultdict(list)
        done = Entries(self.base, {}, self.tree, dict(boxes.faults))
        seen = set()
        if self.rate:
            boxes.boxes.sort(key=lambda box: box.number)
        for box in boxes.boxes:
            try:
                frame = self._frame(box)
                time = box.time or self._video_time(frame)
                name = self._name(box, frame)
                view = (frame, box.corners, box.track)
                if view in seen or (not box.track and name in placed):
                    raise ValueError("it is listed twice")
            except ValueError as error:
                done.faults[box.where] = str(error)
                continue
            if box.track:
                seen.add(view)
            if not self._taken(frame, time):
                done.thinned += 1
                continue
            placed[name].append((box, View(frame, box.corners, time)))
        if not placed:
            where, why = next(iter(done.faults.items()))
            raise ValueError(
                f"none of the boxes of {boxes.file} is in a frame in {self.base}; the first, {where}: {why}"
            )
        done.found = {name: self._entry(parts) for name, parts in placed.items()}
        return done

    def _name(self, box: Box, frame: str) -> str:
        """Return the name of the entry that a box is, or its track."""
        if not box.track:
            return f"{frame}#{','.join(map(str, box.corners))}"
        file = frame_file(frame)
        of = box.camera or (file if is_video(file) else file.rpartition("/")[0])
        return f"{of}/track {box.track}" if of else f"track {box.track}"

    def _entry(self, parts: list[tuple[Box, View]]) -> Entry:
        box, views = parts[0][0], tuple(view for _, view in parts)
        files = [self.files[file] for file in dict.fromkeys(frame_file(view.frame) for view in views)]
        facts = (box.camera or None, box.track or None, next((one.identity for one, _ in parts if one.identity), None))
        stamp = zlib.crc32(repr((views, facts, [file[1:] for file in files])).encode())
        return Entry(views, stamp, max(file.mtime_ns for file in files), *facts)

    def _frame(self, box: Box) -> str:
        if not box.path:
            if self.videos and not self.numbered and len(self.videos) == 1:
                return self._of_video(self.videos[0], box.number)
            names = self.numbered.get(box.number, [])
            if len(names) > 1:
                raise ValueError(f"frame {box.number} is {' as well as '.join(sorted(names)[:2])}: name one's folder")
            if not names:
                raise ValueError(f"there is no frame {box.number}")
            return names[0]
        name = box.path
        if name not in self.files:
            below = inside(self.base, name)
            name = below.as_posix() if below else ""
        if name not in self.files:
            raise ValueError(f"there is no frame {box.path}")
        if not is_video(name):
            return name
        number = box.number
        if not number:
            kind, seconds = moment(box.time) if box.time else ("", 0.0)
            if kind != "seconds":
                raise ValueError(f"{box.path} is a video, so the box needs a frame, or a time in seconds")
            number = 1 + round(seconds * self._rate(name))
        return self._of_video(name, number)

    def _of_video(self, name: str, number: int) -> str:
        if number < 1:
            raise ValueError(f"frames of a video are counted from 1, not {number}")
        return f"{name}@{number}"

    def _rate(self, video: str) -> float:
        if video not in self.rates:
            self.rates[video] = video_rate(self.base / video)
        return self.rates[video]

    def _video_time(self, frame: str) -> str:
        video = frame_file(frame)
        return "" if video == frame else f"{(int(frame.rpartition('@')[2]) - 1) / self._rate(video):.3f}"

    def _taken(self, frame: str, time: str) -> bool:
        """Return whether a frame of a video is the one of its part of a second that is taken."""
        video = frame_file(frame)
        if not self.rate or video == frame:
            return True
        number = int(frame.rpartition("@")[2])
        part = int((number - 1) / self._rate(video) * self.rate + 1e-6)
        return self.bins.setdefault((video, part), number) == number
