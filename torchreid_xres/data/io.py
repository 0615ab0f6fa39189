"""Reading and writing images: an 8-bit RGB picture, upright and whole, or an error that names the file.

This is the one way in which pictures are opened: by data sets, extractor, galleries, drawings and export alike.
"""

from __future__ import annotations

import argparse
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageFile

from torchreid_xres.files import require_regular, whole_file

logger = logging.getLogger(__name__)

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

# For :func:`save_image`: a PNG a few per cent larger, in a fifth of the time.
FAST = {"compress_level": 1}

# What Pillow's plug-ins raise on damaged files, beside OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, PIL.Image.DecompressionBombError)


BITS = 16  # of the deepest pixels that are read

# EXIF: the key of the orientation, what turns each of its values upright, and those that swap height and width.
_ORIENTATION = 0x0112
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
# What in the bytes of a PNG may hold an orientation, also behind the pixels.
_PNG_NOTES = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_BITS_PER_SAMPLE = 258  # TIFF

_dark: list[str] = []  # what was warned of in this process


def read_image(path: str | PathLike, grey_bits: int = BITS) -> PIL.Image.Image:
    """Read an image file as 8-bit RGB, upright, as viewers show it.

    It is turned as its EXIF orientation says; of an animation the first frame is returned. Palettes, grey and CMYK are
    converted; transparency is laid on white. Deeper grey is scaled to 8 bits: white is 4095 where a TIFF itself says
    12 bits, else ``2**grey_bits - 1``. A camera's 10 or 14 bits in a file of 16 are not told by the file (TIFF's
    MaxSampleValue is of one frame and, by its specification, not for display; the largest pixel differs from frame to
    frame), so ``grey_bits`` must say it. A 16-bit picture that stays below a quarter of its range is warned of, once
    in a process.

    Args:
        path: the image file.
        grey_bits: bits that grey pixels of 16 bits really have, 8 to 16 (the key ``data.grey_bits``).

    Returns:
        A PIL image of mode ``RGB``, decoded, with no tie to the file and nothing of its EXIF.

    Raises:
        OSError: if the file is missing, cut short, no image, or has deeper pixels; the message names the file and the
            reason.
    """
    with _naming_file(path), _whole_images_only(), PIL.Image.open(path) as img:
        return to_rgb(img, grey_bits, os.fspath(path))


def as_rgb(picture: str | PathLike | PIL.Image.Image, grey_bits: int = BITS) -> PIL.Image.Image:
    """Return a file, or a PIL image of any mode and orientation, as :func:`read_image` does; their errors are its."""
    return to_rgb(picture, grey_bits) if isinstance(picture, PIL.Image.Image) else read_image(picture, grey_bits)


def look_for_few_bits(path: str | PathLike, grey_bits: int = BITS) -> None:
    """Read a picture that is of 16 bits by its header, so that a warning of it comes now; faults are told elsewhere."""
    with suppress(*_DAMAGE):
        with PIL.Image.open(path) as img:
            deep = img.mode.startswith("I") or ";16" in str(getattr(img, "tile", ""))
        if deep:
            read_image(path, grey_bits)


def check_grey_bits(bits: Any) -> int:
    """Return how many bits deep grey has.

    Raises:
        ValueError: if it is no whole number from 8 to 16.
    """
    if type(bits) is not int or not 8 <= bits <= BITS:
        raise ValueError(f"grey_bits is a whole number from 8 to {BITS}, not {bits!r}")
    return bits


def image_size(path: str | PathLike) -> tuple[int, int]:
    """Return the height and width of an image file as :func:`read_image` gives it.

    It is read from the header, once per process unless the file's size or time of change differs. Only a picture that
    its EXIF may turn is decoded.

    Raises:
        OSError: as :func:`read_image`, but for damage behind the header.
    """
    path = os.fspath(path)
    with _naming_file(path):
        stat = os.stat(path)
        return _size(path, stat.st_size, stat.st_mtime_ns)


@cache
def _size(path: str, size: int, mtime: int) -> tuple[int, int]:
    with PIL.Image.open(path) as img:
        if img.format == "PNG":  # whose EXIF Pillow finds by decoding it
            notes = Path(path).read_bytes()
            turned = any(note in notes for note in _PNG_NOTES)
        else:
            turned = orientation(img) in _SIDEWAYS
        if not turned:
            return img.height, img.width
    upright = read_image(path)
    return upright.height, upright.width


def picture_path(text: str) -> Path:
    """Return a path that :func:`save_image` can write; for argparse.

    Raises:
        argparse.ArgumentTypeError: for an ending of another kind.
    """
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text}: pictures end in {', '.join(PICTURES)}")
    return path


def save_image(img: PIL.Image.Image, path: Path, **how: Any) -> None:
    """Write a picture in the format its name ends in, whole or not at all.

    Args:
        img: the picture.
        path: its file, as :func:`picture_path` allows it.
        **how: what Pillow's writer of that format takes.
    """
    with whole_file(path) as scratch:
        img.save(scratch, format=PICTURES[path.suffix.lower()], **how)


def to_rgb(img: PIL.Image.Image, grey_bits: int = BITS, name: str = "a picture") -> PIL.Image.Image:
    """Return a picture of any mode and orientation as :func:`read_image` does.

    Args:
        img: the picture.
        grey_bits: as for :func:`read_image`.
        name: of its file, for a warning.

    Raises:
        ValueError: for pixels that 8 bits cannot hold (floating-point ones, or more than 16 bits) or that have more
            than ``grey_bits``.
    """
    stored = int(getattr(img, "tag_v2", {}).get(_BITS_PER_SAMPLE, (BITS,))[0])
    deep_colour = img.mode == "RGB" and ";16" in str(getattr(img, "tile", ""))  # Pillow gives their upper 8 bits
    rgb = _eight_bits(_upright(img), stored if 8 < stored < BITS else grey_bits, name)
    if deep_colour and max(high for _, high in rgb.getextrema()) < 64:
        _warn_of_dark(f"{name} has colours of 16 bits but uses less than a quarter of their range")
    rgb.info.clear()  # or who opens the result would turn it again
    return rgb


def _eight_bits(img: PIL.Image.Image, bits: int, name: str) -> PIL.Image.Image:
    if img.mode == "F":
        raise ValueError("floating-point pixels have no defined white; save the image with 8 or 16 bits")
    if img.mode == "I" or img.mode.startswith("I;16"):
        # Pillow would clip these at 255 instead of scaling them.
        deep = np.asarray(img).astype(np.int64)
        least, most, white = deep.min(), deep.max(), 2**bits - 1
        if least < 0 or most > 65535:
            raise ValueError(f"pixels from {least} to {most}; 16 bits, 0 to 65535, is the most")
        if most > white:
            raise ValueError(f"pixels up to {most}, more than the {bits} bits that data.grey_bits gives them ({white})")
        if bits == BITS and 0 < most < 2**14:
            _warn_of_dark(f"{name} has grey of 16 bits but uses {int(most).bit_length()} (up to {most} of {white})")
        grey = np.rint(deep * (255 / white)).astype(np.uint8)
        return PIL.Image.fromarray(grey).convert("RGB")
    if img.mode in ("La", "RGBa"):  # colours multiplied by their alpha
        img = img.convert("LA" if img.mode == "La" else "RGBA")
    if img.mode in ("RGBA", "LA", "PA") or (img.mode in ("P", "L", "1", "RGB") and "transparency" in img.info):
        # What lies under transparent pixels is arbitrary, often black; white is what a viewer shows.
        layer = img.convert("RGBA")
        paper = PIL.Image.new("RGBA", layer.size, "white")
        return PIL.Image.alpha_composite(paper, layer).convert("RGB")
    return img.convert("RGB")


def _upright(img: PIL.Image.Image) -> PIL.Image.Image:
    img.load()  # a PNG's EXIF may come behind its pixels; a TIFF turns itself
    turn = _TURNS.get(orientation(img))
    return img if turn is None else img.transpose(turn)


def orientation(img: PIL.Image.Image) -> Any:
    """Return the EXIF orientation; 1, as stored, where EXIF is damaged: viewers show such a picture, too."""
    try:
        return img.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1


def _warn_of_dark(what: str) -> None:
    """Warn of a picture that scaling makes nearly black; of the first one in a process only."""
    if not _dark:
        _dark.append(what)
        logger.warning("%s, so it becomes nearly black. Is it of fewer bits? For grey, data.grey_bits says so", what)


@contextmanager
def _naming_file(path: str | PathLike) -> Iterator[None]:
    """Let the error of an image file that cannot be read name the file and the reason."""
    try:
        require_regular(path)
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such image file") from None
    except PIL.UnidentifiedImageError as fault:
        raise OSError(f"{path}: cannot be read as an image: it is of no kind that Pillow knows, or empty") from fault
    except _DAMAGE as fault:
        raise OSError(f"{path}: cannot be read as an image: {fault}") from fault


@contextmanager
def _whole_images_only() -> Iterator[None]:
    """Take back, for one read, Pillow's global permission to pad cut-off files with grey."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
