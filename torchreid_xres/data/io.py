"""Reading and writing images: an 8-bit RGB picture, whole, or an error that names the file."""

from __future__ import annotations

import argparse
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageFile, ImageOps

from torchreid_xres.files import require_regular, whole_file

_WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

# For :func:`save_image`: a PNG a few per cent larger, in a fifth of the time.
FAST = {"compress_level": 1}

# What Pillow's plug-ins raise on damaged files, beside OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, PIL.Image.DecompressionBombError)


def read_image(path: str | PathLike, upright: bool = False) -> PIL.Image.Image:
    """Read an image file as 8-bit RGB.

    Palettes, grey and CMYK are converted; transparency is laid on white; 16-bit grey is scaled to 8 bits.
    Of an animation the first frame is returned.

    Args:
        path: the image file.
        upright: turn the picture as its EXIF orientation says, as viewers show it. Data sets are read as stored.

    Returns:
        A PIL image of mode ``RGB``, decoded, with no tie to the file.

    Raises:
        OSError: if the file is missing, cut short, or no image; the message names the file and the reason.
    """
    with _naming_file(path), _whole_images_only(), PIL.Image.open(path) as img:
        return to_rgb(ImageOps.exif_transpose(img) if upright else img)


def image_size(path: str | PathLike) -> tuple[int, int]:
    """Return the height and width of an image file, as stored, from its header.

    It is read once per process unless the file's size or time of change differs.

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
        return img.height, img.width


def picture_path(text: str) -> Path:
    """Return a path that :func:`save_image` can write; for argparse.

    Raises:
        argparse.ArgumentTypeError: for an ending of another kind.
    """
    path = Path(text)
    if path.suffix.lower() not in _WRITTEN:
        raise argparse.ArgumentTypeError(f"{text}: pictures end in {', '.join(_WRITTEN)}")
    return path


def save_image(img: PIL.Image.Image, path: Path, **how: Any) -> None:
    """Write a picture in the format its name ends in, whole or not at all.

    Args:
        img: the picture.
        path: its file, as :func:`picture_path` allows it.
        **how: what Pillow's writer of that format takes.
    """
    with whole_file(path) as scratch:
        img.save(scratch, format=_WRITTEN[path.suffix.lower()], **how)


def to_rgb(img: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture of any mode as :func:`read_image` does.

    Raises:
        ValueError: for pixels that 8 bits cannot hold: floating-point ones, or more than 16 bits.
    """
    if img.mode == "RGB":
        return img.convert("RGB")
    if img.mode == "F":
        raise ValueError("floating-point pixels have no defined white; save the image with 8 or 16 bits")
    if img.mode == "I" or img.mode.startswith("I;16"):
        # Pillow would clip these at 255 instead of scaling them.
        deep = np.asarray(img).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"pixels from {deep.min()} to {deep.max()}; 16 bits, 0 to 65535, is the most")
        grey = np.rint(deep / 257).astype(np.uint8)
        return PIL.Image.fromarray(grey).convert("RGB")
    if img.mode in ("RGBA", "LA", "PA", "La", "RGBa") or (img.mode in ("P", "L", "1") and "transparency" in img.info):
        # What lies under transparent pixels is arbitrary, often black; white is what a viewer shows.
        layer = img.convert("RGBA")
        paper = PIL.Image.new("RGBA", layer.size, "white")
        return PIL.Image.alpha_composite(paper, layer).convert("RGB")
    return img.convert("RGB")


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
