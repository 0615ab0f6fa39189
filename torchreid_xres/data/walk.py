"""Finding the images in a folder and below it: what is there, what is left out and why, what cannot be looked at."""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import PIL.features
import PIL.Image

from torchreid_xres.terminal import printable

# Endings of the kinds that are taken where Pillow, or a plug-in of it, reads them.
_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jp2", ".j2k", ".avif", ".heic", ".heif", ".jxl",
)  # fmt: skip
# Whoever has such a file will think of it as a picture, too.
_PICTURES = {*_SUFFIXES, ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".psd", ".svg", ".exr", ".hdr"}
# Pillow knows these by name also where it was built without their library.
_LIBRARIES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
# What storage boxes, archives and file systems put beside the images, which may hold small copies or deleted ones.
_SYSTEM = {"@eaDir", "__MACOSX", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}

HIDDEN = "hidden"
SYSTEM = "of a system (thumbnails, deleted files)"
OTHER = "other files"
FOLDERS = "folders that are not looked into"
UNREADABLE = "pictures of kinds that Pillow does not read here"
AGAIN = "links to folders that are searched already or hold this one"
SPECIAL = "that are no regular files"
NOT_TEXT = "whose names are not UTF-8"
# What nobody expects to be taken.
_USUAL = {HIDDEN, SYSTEM, OTHER, FOLDERS}
_NAMED, _HELD = 5, 8  # so many are told: of what cannot be looked at; of what a folder holds


@dataclass
class FoundImages:
    """The images in a folder and what else is there. Names are paths below the folder, with forward slashes.

    Attributes:
        folder: where they were looked for.
        images: name -> file, in the order of the names' parts.
        folders: names of the folders that were looked into, the first is "".
        left_out: reason -> names.
        unseen: folders that cannot be read and links that lead nowhere -> why; there may be images behind each.
    """

    folder: Path
    images: dict[str, Path] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unseen: dict[str, OSError] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        """Count a name that is not taken."""
        self.left_out.setdefault(reason, []).append(name)

    def is_unseen(self, name: str) -> bool:
        """Say whether a name is, or lies below, something that could not be looked at."""
        return not self.unseen.keys().isdisjoint(_with_folders(name))

    def without_images(self) -> list[str]:
        """Return the folders that hold no image in or below them, nor anything that could not be looked at."""
        filled = {place for name in (*self.images, *self.unseen) for place in _with_folders(name)}
        return [name for name in self.folders if name not in filled]

    def told(self) -> str:
        """Return in one line how many images there are, what is left out, and what could not be looked at."""
        return f"{self.folder}: {len(self.images)} images" + "".join(f"; {part}" for part in self._told_of_others())

    def log(self, logger: logging.Logger) -> None:
        """Log what is left out, if anything is: as a warning where it may be missed."""
        if self.left_out or self.unseen:
            missed = self.unseen or self.left_out.keys() - _USUAL
            logger.log(logging.WARNING if missed else logging.INFO, "%s", self.told())

    def needed(self) -> FoundImages:
        """Return this.

        Raises:
            FileNotFoundError: if there is no image; it says what there is.
        """
        if not self.images:
            empty = "there are only empty folders" if self.folders[1:] else "it is empty"
            told = "; ".join(self._told_of_others()) or empty
            raise FileNotFoundError(
                f"there are no images in {self.folder}: {told}; image files end in {', '.join(readable_suffixes())}"
            )
        return self

    def _told_of_others(self) -> list[str]:
        told = []
        if self.left_out:
            counts = (f"{len(names)} {why}, e.g. {printable(min(names))}" for why, names in self.left_out.items())
            told.append(f"left out: {'; '.join(counts)}")
        if self.unseen:
            first = [f"{printable(name)} ({why.strerror or why})" for name, why in list(self.unseen.items())[:_NAMED]]
            more = f" and {len(self.unseen) - _NAMED} more" if len(self.unseen) > _NAMED else ""
            told.append(f"cannot look at {', '.join(first)}{more}")
        return told


def readable_suffixes() -> tuple[str, ...]:
    """Return how the names of image files end, in small letters.

    Example:
        >>> ".jpg" in readable_suffixes(), ".txt" in readable_suffixes()
        (True, False)
    """
    known = PIL.Image.registered_extensions()
    # Where Pillow has no such library in its list, a plug-in brings the kind.
    could = {kind: library for kind, library in _LIBRARIES.items() if library in PIL.features.modules}
    lacking = {kind for kind, library in could.items() if not PIL.features.check(library)}
    return tuple(suffix for suffix in _SUFFIXES if known.get(suffix) in PIL.Image.OPEN.keys() - lacking)


def walk_images(folder: Path, *, without: Path | None = None, deep: bool = True) -> FoundImages:
    """Find the images in a folder and below it, by the endings of their names.

    Linked folders are searched too, each folder once, and under its own name if it lies below ``folder`` itself.
    Hidden files and folders, and those that systems put there, are left out; a folder may be called ``x.jpg``.

    Args:
        folder: where to look.
        without: a folder that is not looked into, such as a gallery's own.
        deep: False: only in the folder itself.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if it cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.jpg", "notes.txt", "._a.jpg"):
        ...     (folder / name).touch()
        >>> found = walk_images(folder)
        >>> list(found.images), found.left_out
        (['a.jpg'], {'hidden': ['._a.jpg'], 'other files': ['notes.txt']})
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found = FoundImages(folder)
    searched = {_identity(above) for above in folder.resolve().parents}
    apart = _identity(without) if without and without.is_dir() else None
    suffixes = readable_suffixes()
    # Folders that lie here come before linked ones, so that no link decides how an image is called.
    here, linked = [""], deque[str]()
    while here or linked:
        name = here.pop() if here else linked.popleft()
        try:
            identity = _identity(folder / name)
            if identity == apart:
                continue
            if identity in searched:
                found.leave_out(AGAIN, name)
                continue
            searched.add(identity)
            with os.scandir(folder / name) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            if not name:
                raise
            found.unseen[name] = error
            continue
        found.folders.append(name)
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            _take(entry, below, found, suffixes, (here, linked) if deep else ())
    found.images = dict(sorted(found.images.items(), key=lambda item: item[0].split("/")))
    found.folders.sort(key=lambda name: name.split("/"))
    return found


def _take(
    entry: os.DirEntry, name: str, found: FoundImages, suffixes: tuple[str, ...], to_search: Sequence
) -> None:
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        if not _is_text(entry.name):
            found.leave_out(NOT_TEXT, name)
        elif entry.name.startswith("."):  # macOS leaves "._name.jpg" beside name.jpg in many an archive
            found.leave_out(HIDDEN, name)
        elif entry.name in _SYSTEM:
            found.leave_out(SYSTEM, name)
        elif entry.is_dir():
            if to_search:
                to_search[entry.is_symlink()].append(name)
            else:
                found.leave_out(FOLDERS, name)
        elif not entry.is_file():
            entry.stat()  # of a link that leads nowhere there is none
            found.leave_out(SPECIAL, name)
        elif suffix in suffixes:
            found.images[name] = Path(entry.path)
        else:
            found.leave_out(UNREADABLE if suffix in _PICTURES else OTHER, name)
    except OSError as error:
        nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        found.unseen[name] = FileNotFoundError(errno.ENOENT, "the link leads nowhere") if nowhere else error


def images_at(path: Path, without: Path | None = None) -> FoundImages:
    """Find an image itself, whatever its name, or all images in and below a folder.

    Args:
        path: image or folder.
        without: a folder that is not looked into.

    Raises:
        FileNotFoundError: if there is none.
    """
    if path.is_file():
        return FoundImages(path.parent, {path.name: path})
    if not path.exists():
        raise FileNotFoundError(f"there is no image and no folder {path}")
    return walk_images(path, without=without).needed()


def holds(folder: Path) -> str:
    """Return the first names in a folder, for a message that says what was found in place of what is wanted."""
    names = sorted(printable(name) for name in os.listdir(folder) if not name.startswith("."))
    more = f" and {len(names) - _HELD} more" if len(names) > _HELD else ""
    return (", ".join(names[:_HELD]) or "nothing") + more


def _with_folders(name: str) -> list[str]:
    """Return a name and those of all folders that it lies in."""
    parts = name.split("/")
    return ["", *("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))]


def _identity(folder: Path) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python's stand-in for bytes that are no UTF-8
        return False
    return True
