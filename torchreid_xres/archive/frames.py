"""Frames: image files, and pictures out of videos, each by a name that holds in queries and hits; boxes in them.

A frame of a video is ``<path of the video>@<number>``, counted from 1 by the video's average rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL.Image

from torchreid_xres.files import require_regular

_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv")
_FRAME = re.compile(r"(.+)@([0-9]+)")
_FAR = 240  # frames: farther ahead a jump to the nearest key frame is quicker than decoding


def is_video(name: str) -> bool:
    """Return whether a file is a video, by the ending of its name.

    Example:
        >>> is_video("street.MP4"), is_video("street.jpg")
        (True, False)
    """
    return Path(name).suffix.lower() in _VIDEOS


def video_frame(name: str) -> tuple[str, int] | None:
    """Return video and number of a frame's name; None for an image file's.

    Example:
        >>> video_frame("a/street.mp4@312"), video_frame("a/street@312.jpg")
        (('a/street.mp4', 312), None)
    """
    found = _FRAME.fullmatch(name)
    return (found[1], int(found[2])) if found and is_video(found[1]) else None


def frame_file(name: str) -> str:
    """Return the file that a frame is in, by its name."""
    video = video_frame(name)
    return video[0] if video else name


def video_rate(path: Path) -> float:
    """Return the average number of frames in a second of a video."""
    with _opened(path) as (_, stream):
        return float(stream.average_rate)


def video_length(path: Path) -> int:
    """Return how many frames a video has, by its duration."""
    with _opened(path) as (container, stream):
        if stream.duration is not None:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = (container.duration or 0) / 1_000_000
        return max(1, round(seconds * float(stream.average_rate)))


def video_images(path: Path, numbers: Sequence[int]) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Give frames of a video with their numbers; those that it does not have are missing.

    Args:
        path: the video.
        numbers: of the frames, from 1, ascending.

    Raises:
        OSError: if it cannot be read; the message names the file.
        ImportError: without PyAV.
    """
    with _opened(path) as (container, stream):
        rate, start = float(stream.average_rate), float((stream.start_time or 0) * stream.time_base)
        wanted = iter(numbers)
        number = next(wanted, None)
        now, sought = 1, 0
        while number is not None:
            if number > now + _FAR:
                sought = number
                container.seek(int((start + (number - 1.5) / rate) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                now = round((frame.time - start) * rate) + 1
                while number is not None and number < now:
                    number = next(wanted, None)
                if number == now:
                    yield number, frame.to_image()
                    number = next(wanted, None)
                if number is None or (number > now + _FAR and number != sought):
                    break
            else:
                return


def read_frame(base: Path, name: str, image: Callable[[Any], PIL.Image.Image]) -> PIL.Image.Image:
    """Return a frame.

    Args:
        base: folder that names are below.
        name: of the frame.
        image: makes an 8-bit RGB picture of a path or a PIL image, such as
            :meth:`~torchreid_xres.inference.extractor.Extractor.image`.

    Raises:
        OSError: if it is not there or cannot be read.
    """
    video = video_frame(name)
    if video is None:
        return image(base / name)
    for _, picture in video_images(base / video[0], [video[1]]):
        return image(picture)
    raise OSError(f"{base / video[0]}: it has no frame {video[1]}")


def cropped(img: PIL.Image.Image, box: tuple[int, int, int, int]) -> PIL.Image.Image:
    """Return a box of a picture.

    Args:
        img: the picture.
        box: left edge, top edge, width and height in pixels.

    Raises:
        ValueError: for a box without area, or one that reaches out of the picture.

    Example:
        >>> cropped(PIL.Image.new("RGB", (40, 30)), (30, 5, 10, 20)).size
        (10, 20)
    """
    require_inside(box, (img.height, img.width))
    x, y, width, height = box
    return img.crop((x, y, x + width, y + height))


def require_inside(box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    """Refuse a box that has no area, or that reaches out of its picture.

    Args:
        box: left edge, top edge, width and height in pixels.
        size: the picture's height and width.

    Raises:
        ValueError: with the part of it that lies inside, if there is one.

    Example:
        >>> require_inside((30, 5, 10, 20), (30, 40))
    """
    x, y, width, height = box
    if width < 1 or height < 1:
        raise ValueError(f"a box is x, y, width and height in pixels, and has an area; not {x} {y} {width} {height}")
    left, top = max(0, x), max(0, y)
    right, bottom = min(size[1], x + width), min(size[0], y + height)
    if (left, top, right - left, bottom - top) == (x, y, width, height):
        return
    told = f"the picture, which is {size[1]} wide and {size[0]} high"
    if left >= right or top >= bottom:
        raise ValueError(f"the box {x} {y} {width} {height} (x, y, width, height) lies outside of {told}")
    raise ValueError(
        f"the box {x} {y} {width} {height} (x, y, width, height) reaches out of {told}; inside of it is "
        f"{left} {top} {right - left} {bottom - top}"
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    av = _av()
    require_regular(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video or not container.streams.video[0].average_rate:
                raise OSError(f"{path}: there is no video in it")
            container.streams.video[0].thread_type = "AUTO"
            yield container, container.streams.video[0]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such video") from None
    except av.error.FFmpegError as error:
        raise OSError(f"{path}: cannot be read as a video: {error}") from error


@cache
def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'torchreid_xres[video]'") from error
    return av
