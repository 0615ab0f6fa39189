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

from torchreid_xres.data.io import BITS, as_rgb

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
    if isinstance(picture, (str, PathLike, PIL.Image.Image)):
        return as_rgb(picture, grey_bits)
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
