"""Reading what a gallery's entries show: each frame once, a track by its clearest crops."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image

from torchreid_xres.archive.entries import Entry, View
from torchreid_xres.archive.frames import cropped, require_inside, video_frame, video_images
from torchreid_xres.archive.times import date_taken
from torchreid_xres.data.io import image_size

if TYPE_CHECKING:
    from torch import Tensor

    from torchreid_xres.inference.extractor import Extractor, Prepared

LARGEST, CLEAREST = 16, 4  # crops of a track that are read, and that its feature is the mean of


class Read(NamedTuple):
    """What was read of an entry.

    Attributes:
        name: the entry's.
        pictures: clearest first; none where ``fault`` or ``unopened`` says why.
        view: of the first of them.
        sharpness: of it.
        taken: when its file was made, by EXIF.
        fault: what is wrong with the file.
        unopened: why the system did not give it now.
        parts: what is wrong with some views of a track, by their names.
    """

    name: str
    pictures: list[Prepared]
    view: View
    sharpness: float | None = None
    taken: str | None = None
    fault: str = ""
    unopened: str = ""
    parts: dict[str, str] = {}  # noqa: RUF012 - never changed


def sharpness(pixels: Tensor | np.ndarray) -> float:
    """Return the variance of the Laplacian of a picture's grey values, (3, H, W): little where it is blurred.

    Example:
        >>> sharpness(np.ones((3, 8, 8), np.float32))
        0.0
    """
    grey = np.asarray(pixels).mean(0)
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((4 * inner - around).var(ddof=1)) if inner.size > 1 else 0.0


def read_entries(extractor: Extractor, base: Path, entries: Mapping[str, Entry]) -> Iterator[Read]:
    """Give what each entry shows, in the order of the frames in which the last of it is seen.

    Args:
        extractor: prepares the pictures.
        base: folder that names of frames are below.
        entries: by name.
    """
    waiting: dict[str, _Waiting] = {}
    frames: dict[str, list[tuple[str, View]]] = defaultdict(list)
    for name, entry in entries.items():
        if len(entry.views) == 1:
            frames[entry.views[0].frame].append((name, entry.views[0]))
            continue
        one = _Waiting(name, entry)
        for view in one.chosen(base):
            frames[view.frame].append((name, view))
            one.left += 1
        if one.left:
            waiting[name] = one
        else:
            yield one.read()
    for frame, img in _images(extractor, base, frames):
        taken = date_taken(base / frame) if video_frame(frame) is None and not isinstance(img, OSError) else None
        for name, view in frames.pop(frame):
            one = waiting.get(name) or _Waiting(name, entries[name], 1)
            one.see(extractor, view, img, taken, base)
            if not one.left:
                waiting.pop(name, None)
                yield one.read()


def _images(
    extractor: Extractor, base: Path, frames: Mapping[str, object]
) -> Iterator[tuple[str, PIL.Image.Image | OSError]]:
    """Give frames, or why there is none; those of a video in its order."""
    videos: dict[str, list[int]] = defaultdict(list)
    for frame in [*frames]:
        video = video_frame(frame)
        if video:
            videos[video[0]].append(video[1])
            continue
        try:
            img = extractor.image(base / frame)
        except OSError as error:
            yield frame, error
        else:
            yield frame, img
    for video, numbers in videos.items():
        left = dict.fromkeys(sorted(numbers))
        why = OSError("the video has no such frame")
        try:
            for number, img in video_images(base / video, [*left]):
                del left[number]
                yield f"{video}@{number}", extractor.image(img)
        except OSError as error:
            why = error
        for number in left:
            yield f"{video}@{number}", why


class _Waiting:
    """An entry of which not all has been read yet."""

    def __init__(self, name: str, entry: Entry, left: int = 0) -> None:
        self.name, self.entry, self.left = name, entry, left
        self.best: list[tuple[float, int, Prepared, View, str | None]] = []
        self.faults: dict[View, str] = {}
        self.unopened = ""

    def chosen(self, base: Path) -> list[View]:
        """Return the views of a track that are read: the largest, without those that leave their frame."""
        views = []
        for view in self.entry.views:
            try:
                if video_frame(view.frame) is None:
                    require_inside(view.box, image_size(base / view.frame))
                views.append(view)
            except (OSError, ValueError) as error:
                self.faults[view] = _told(error, base / view.frame)
        return heapq.nlargest(LARGEST, views, key=lambda view: view.box[2] * view.box[3])

    def see(
        self, extractor: Extractor, view: View, img: PIL.Image.Image | OSError, taken: str | None, base: Path
    ) -> None:
        """Take one of its views."""
        self.left -= 1
        try:
            if isinstance(img, OSError):
                raise img
            prepared = extractor.prepare(cropped(img, view.box) if view.box else img)
        except (OSError, ValueError) as error:
            self.faults[view] = _told(error, base / view.frame)
            # Of the file's content nothing is known if the system did not give it.
            if isinstance(error, FileNotFoundError) or getattr(error.__cause__, "errno", None):
                self.unopened = self.faults[view]
            return
        # The number decides between two that are as sharp.
        heapq.heappush(self.best, (sharpness(prepared.pixels), -self.left, prepared, view, taken))
        if len(self.best) > CLEAREST:
            heapq.heappop(self.best)

    def read(self) -> Read:
        """Return what was read."""
        if not self.best:
            view = self.entry.views[0]
            why = next(iter(self.faults.values()), "")
            return Read(self.name, [], view, fault="" if self.unopened else why, unopened=self.unopened)
        best = sorted(self.best, key=lambda one: one[:2], reverse=True)
        value, _, _, view, taken = best[0]
        parts = {f"{self.name}, {view.frame}#{','.join(map(str, view.box))}": why for view, why in self.faults.items()}
        return Read(self.name, [one[2] for one in best], view, value, taken, parts=parts)


def _told(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
