"""Pictures as a caller has them: files, PIL images, arrays, tensors; all become upright 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Union

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from torchreid_xres.data.io import BITS, read_image, to_rgb

Picture = Union[str, PathLike, PIL.Image.Image, np.ndarray, Tensor]  # noqa: UP007 - a string of it must work, too


def as_image(picture: Picture, grey_bits: int = BITS) -> PIL.Image.Image:
    """Return one picture as an 8-bit RGB image.

    Args:
        picture: a path; a PIL image; an array (H, W, 3), uint8, the channels red, green, blue (what OpenCV reads is
            blue, green, red: turn it with ``[..., ::-1]``); a tensor (3, H, W), red, green, blue, uint8 or float in
            [0, 1], which is rounded to 8 bits. Files and PIL images are turned as their EXIF orientation says.
        grey_bits: of files and PIL images, see :func:`~torchreid_xres.data.io.read_image`.

    Raises:
        OSError: for a file that cannot be read; the message names it.
        TypeError: for anything else.
        ValueError: for another shape, type of number or range.

    Example:
        >>> as_image(torch.ones(3, 4, 2)).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(picture, (str, PathLike)):
        return read_image(picture, grey_bits)
    if isinstance(picture, PIL.Image.Image):
        return to_rgb(picture, grey_bits)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"an array must be uint8 (H, W, 3), RGB, not {picture.dtype} {picture.shape}")
        return PIL.Image.fromarray(np.ascontiguousarray(picture))
    if isinstance(picture, Tensor):
        return to_pil_image(_bytes(picture.detach().cpu()))
    raise TypeError(f"a picture is a path, a PIL image, an array or a tensor, not {type(picture).__name__}")


def _bytes(picture: Tensor) -> Tensor:
    if picture.ndim != 3 or len(picture) != 3 or not picture.numel():
        raise ValueError(f"a tensor must be (3, H, W), RGB, not {tuple(picture.shape)}")
    if picture.dtype == torch.uint8:
        return picture
    if not picture.is_floating_point():
        raise ValueError(f"a tensor must be uint8, or float in [0, 1], not {str(picture.dtype).removeprefix('torch.')}")
    least, most = picture.min().item(), picture.max().item()
    if not (least >= 0 and most <= 1):
        raise ValueError(f"a float tensor must be in [0, 1], not normalised; it goes from {least:.3g} to {most:.3g}")
    return (picture.float() * 255).round().to(torch.uint8)


def several(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """Return pictures as a list: one of them, several, or a stack (N, H, W, 3) or (N, 3, H, W)."""
    if isinstance(pictures, (str, PathLike, PIL.Image.Image)):
        return [pictures]
    if isinstance(pictures, (np.ndarray, Tensor)) and pictures.ndim != 4:
        return [pictures]
    return list(pictures)


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
