"""The images in and below a folder, as a gallery takes them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from torchreid_xres.data.datasets.reading import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)


class ImageFile(NamedTuple):
    """An image file, and by what a change of it shows."""

    path: Path
    bytes: int
    mtime_ns: int


def image_files(images: Path, without: Path) -> tuple[dict[str, ImageFile], int]:
    """Find the images in and below a folder by the endings of their names; hidden files and folders do not count.

    Args:
        images: the folder, absolute.
        without: a folder that is not looked into, such as the gallery's own.

    Returns:
        Path below the folder, with forward slashes, to the file; and how many other files there are.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.jpg", "notes.txt", ".b.jpg"):
        ...     (folder / name).touch()
        >>> found, others = image_files(folder, without=folder / "gallery")
        >>> sorted(found), others
        (['a.jpg'], 2)
    """
    if not images.is_dir():
        raise FileNotFoundError(f"there is no folder {images}")
    found, others = {}, 0
    for folder, below, names in os.walk(images):
        # Hidden ones hold thumbnails and the like.
        below[:] = [name for name in below if not name.startswith(".") and Path(folder, name) != without]
        for name in names:
            path = Path(folder, name)
            # macOS leaves "._name.jpg" beside name.jpg in many an archive.
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
                others += 1
                continue
            relative = path.relative_to(images).as_posix()
            if not _is_text(relative):
                logger.warning("%r is left out: its name is not UTF-8", relative)
                others += 1
                continue
            stat = path.stat()
            found[relative] = ImageFile(path, stat.st_size, stat.st_mtime_ns)
    if not found:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise FileNotFoundError(
            f"there are no images in {images}, only {others} other files; image files end in {kinds}"
            if others
            else f"the folder {images} is empty"
        )
    return found, others


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python's stand-in for bytes that are no UTF-8
        return False
    return True
