"""The images in and below a folder, as a gallery takes them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torchreid_xres.archive.frames import is_video
from torchreid_xres.data.walk import OTHER, FoundImages, walk_images


class ImageFile(NamedTuple):
    """An image file, and by what a change of it shows."""

    path: Path
    bytes: int
    mtime_ns: int


def image_files(images: Path, without: Path, videos: bool = False) -> tuple[dict[str, ImageFile], FoundImages]:
    """Find the images in and below a folder, see :func:`~torchreid_xres.data.walk.walk_images`, and their dates.

    Args:
        images: the folder, absolute.
        without: a folder that is not looked into, such as the gallery's own.
        videos: take video files, too.

    Returns:
        Path below the folder, with forward slashes, to the file; and what else is there.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        OSError: if it cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.jpg", "notes.txt"):
        ...     (folder / name).touch()
        >>> files, found = image_files(folder, without=folder / "gallery")
        >>> files["a.jpg"].bytes, found.left_out
        (0, {'other files': ['notes.txt']})
    """
    found = walk_images(images, without=without)
    if videos:
        others = found.left_out.pop(OTHER, [])
        found.images |= {name: images / name for name in others if is_video(name)}
        for name in others:
            if not is_video(name):
                found.leave_out(OTHER, name)
    found.needed()
    files = {}
    for name, path in found.images.items():
        try:
            stat = path.stat()
        except OSError as error:
            found.unseen[name] = error
        else:
            files[name] = ImageFile(path, stat.st_size, stat.st_mtime_ns)
    return files, found
