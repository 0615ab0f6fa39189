"""What the readers have in common: finding folders, listing and counting images, what names say, the usual splits."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from torchreid_xres.data.split import Image, Split, shuffled, with_match
from torchreid_xres.data.walk import FoundImages, holds, walk_images

logger = logging.getLogger(__name__)

# In a name; Market-1501 has a sequence behind the camera, _c1s2; _c3po is no camera.
CAMERA = re.compile(r"_c([0-9]+)(?=s[0-9]|[^0-9A-Za-z]|$)")


def find_folder(root: Path, candidates: Sequence[str], *needs: Sequence[str]) -> Path:
    """Return the first of several folders below ``root`` that holds what is needed, or holds it in one of its own name.

    Many an archive unpacks into a folder of its name, which is then put into one of that name again.

    Args:
        root: folder that holds the sets.
        candidates: relative paths, best first.
        *needs: names of files or folders, each of which the folder must hold, or each of the next ones, and so on;
            none: it must hold an image.

    Raises:
        FileNotFoundError: naming every folder that was looked for, and of those that exist, what they hold and lack.
    """
    looked = []
    for candidate in candidates:
        twice = f"{candidate}/{Path(candidate).name}"
        for place in (candidate, twice):
            if not (root / place).is_dir():
                continue
            lacking = _lacking(root / place, needs)
            if not lacking:
                return root / place
            looked.append(f"{place} (without {lacking}; it holds {holds(root / place)})")
        if not (root / candidate).is_dir():
            looked.append(f"{candidate} (not there)")
    itself = root.is_dir() and not _lacking(root, needs)
    told = f"no such data set under {root}{', which is itself one: name the folder that it lies in' if itself else ''}"
    raise FileNotFoundError(f"{told}; looked for the folders {'; '.join(looked)}")


def _lacking(folder: Path, needs: Sequence[Sequence[str]]) -> str:
    if not needs:
        return "" if walk_images(folder, deep=False).images else "images"
    lacking = [[name for name in names if not (folder / name).exists()] for names in needs]
    return " or ".join(map(", ".join, lacking)) if all(lacking) else ""


def whole(found: FoundImages) -> FoundImages:
    """Return the images of a set, what is left out being logged.

    Raises:
        OSError: if a folder could not be read: a set is read as a whole. A link that leads nowhere is left out.
    """
    for name, error in found.unseen.items():
        if not isinstance(error, FileNotFoundError):
            raise OSError(f"{found.folder / name}: {error.strerror or error}") from error
    found.log(logger)
    return found


def list_images(folder: Path) -> list[str]:
    """Return the paths of a folder's images, sorted by name; what is left out is logged.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no image.
        OSError: if it cannot be read.
    """
    return [str(path) for path in whole(walk_images(folder, deep=False)).needed().images.values()]


def match_name(pattern: str, path: str) -> tuple[str, ...]:
    """Return the groups of ``pattern`` matched from the start of a file's name.

    Raises:
        ValueError: naming the file and the pattern.
    """
    match = re.match(pattern, os.path.basename(path))
    if match is None:
        raise ValueError(f"{path}: the name is not of the form {pattern}")
    return match.groups()


def read_cameras(folder: Path, cameras: int) -> list[Image]:
    """Read a folder of names ``<identity>_c<camera>...`` as Market-1501, DukeMTMC-reID and VeRi have them.

    Args:
        folder: the images.
        cameras: how many cameras the set has; names count them from 1, ``camid`` from 0.

    Raises:
        ValueError: for a name of another form or a camera that the set does not have.
    """
    images = []
    for path in list_images(folder):
        pid, camera = map(int, match_name(r"(-?\d+)_c(\d+)", path))
        if not 1 <= camera <= cameras:
            raise ValueError(f"{path}: camera {camera}; the set has the cameras 1 to {cameras}")
        images.append(Image(path, pid, camera - 1))
    return images


def read_text(file: Path) -> str:
    """Return a file's text, UTF-8 with or without a byte-order mark.

    Raises:
        ValueError: naming the file and the place, if it is something else.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from error


def read_list(file: Path) -> list[tuple[str, int]]:
    """Read a text file of lines ``<image name> <identity>``.

    Raises:
        ValueError: naming the line that has another form, or a file that is no text.
    """
    rows = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not re.fullmatch(r"-?[0-9]{1,18}", fields[1]):
            raise ValueError(f"{file}, line {number}: expected '<image name> <identity>', found {line!r}")
        rows.append((fields[0], int(fields[1])))
    return rows


def listed_images(file: Path, folder: Path, complete: bool) -> list[Image]:
    """Return the images that a list names without their endings, under camera 0.

    Args:
        file: the list, see ``read_list``.
        folder: the images.
        complete: True: every listed image must be there. False: those that are not are left out.

    Raises:
        ValueError: with the numbers of listed and existing images, if some are missing.
    """
    rows = read_list(file)
    there = images_by_stem(folder)
    images = [Image(there[name], pid, 0) for name, pid in rows if name in there]
    if complete:
        check_count(f"images of {file.name}", len(rows), len(images), folder)
    return images


def images_by_stem(folder: Path) -> dict[str, str]:
    """Return a folder's images by their names without the endings, which differ between copies: .jpg, .JPG, .png.

    Of several images of one name it is the .jpg, or else the last.
    """
    paths = sorted(list_images(folder), key=lambda path: path.endswith(".jpg"))
    return {Path(path).stem: path for path in paths}


def check_count(what: str, expected: int, found: int, folder: Path) -> None:
    """Raise a ``ValueError`` with both numbers unless they are equal."""
    if expected != found:
        raise ValueError(
            f"{what}: expected {expected}, found {found} in {folder} "
            "(for a partial copy of the set give the option check_counts=False)"
        )


def check_part(images: Sequence[Image], expected: tuple[int, int], folder: Path) -> None:
    """Check the numbers of images and identities of a folder."""
    check_count("images", expected[0], len(images), folder)
    check_count("identities", expected[1], len({image.pid for image in images}), folder)


def low_against_high(folder: Path, train: Sequence[Image], test: Sequence[Image]) -> Split:
    """Make the usual cross-resolution split: the low test images are queries, the others the gallery."""
    gallery = [image for image in test if not image.low]
    query = with_match([image for image in test if image.low], gallery)
    return Split(str(folder), list(train), query, gallery)


def split_identities(folder: Path, images: Sequence[Image], num_test: int, salt: str) -> Split:
    """Split images by identity into training and test ones, then as ``low_against_high``.

    Args:
        folder: the set's folder.
        images: all of the set, ``low`` as in the protocol.
        num_test: how many identities are for the test.
        salt: what the shuffle of identities depends on beside the identities; name the set and the split.
    """
    test_pids = set(shuffled({image.pid for image in images}, salt)[:num_test])
    train = [image for image in images if image.pid not in test_pids]
    test = [image for image in images if image.pid in test_pids]
    return low_against_high(folder, train, test)


def plain_camera(text: str) -> str:
    """Return by what a camera is told from others: a number without the zeros in front, or its text."""
    return text.lstrip("0") or "0" if re.fullmatch(r"[0-9]+", text) else text


def inside(folder: Path, path: str) -> Path | None:
    """Return a path, absolute or relative to a folder, as one below the folder; None if it leads out of it."""
    for base in (folder, folder.resolve()):
        inside = Path(os.path.relpath(folder / path, base))
        if ".." not in inside.parts:
            return inside
    return None
