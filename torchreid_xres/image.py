"""Images as tensors: one resizing rule, MATLAB's luminance, padding that works on tiny images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the ImageNet photographs in [0, 1], RGB: what most published networks subtract and divide by.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Rec. ITU-R BT.601 studio swing, as in MATLAB's rgb2ycbcr, for values in [0, 1]: rows give Y, Cb, Cr.
_TO_YCBCR = (
    torch.tensor(
        [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], dtype=torch.float64
    )
    / 255
)
_YCBCR_OFFSET = torch.tensor([16.0, 128.0, 128.0], dtype=torch.float64) / 255
_TO_RGB = torch.linalg.inv(_TO_YCBCR)
_RGB_OFFSET = -_TO_RGB @ _YCBCR_OFFSET


def rgb_to_ycbcr(x: Tensor) -> Tensor:
    """Return Y, Cb and Cr of an RGB image, as MATLAB's ``rgb2ycbcr`` on images of class double.

    Args:
        x: (N, 3, H, W) RGB in [0, 1].

    Returns:
        (N, 3, H, W): Y in [16/255, 235/255], Cb and Cr in [16/255, 240/255].

    Example:
        >>> white = torch.ones(1, 3, 1, 1)
        >>> [round(float(v) * 255) for v in rgb_to_ycbcr(white).flatten()]
        [235, 128, 128]
    """
    return _mix(x, _TO_YCBCR, _YCBCR_OFFSET)


def ycbcr_to_rgb(x: Tensor) -> Tensor:
    """Invert :func:`rgb_to_ycbcr`; (N, 3, H, W) in and out, not clamped."""
    return _mix(x, _TO_RGB, _RGB_OFFSET)


def _mix(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    # Not a 1x1 convolution: autocast would run that in half precision and lose grey levels. Plain
    # numbers, so that nothing has to be copied to the image's device.
    first, second, third = x.unbind(dim=1)
    rows = zip(matrix.tolist(), offset.tolist(), strict=True)
    return torch.stack([a * first + b * second + c * third + d for (a, b, c), d in rows], dim=1)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize with Keys' cubic kernel (a = -0.5), widened when shrinking so that nothing aliases.

    This is the rule of PIL's and MATLAB's bicubic, but for the border, where the kernel is cut off
    and renormalised as in PIL. The result may leave the input's range by some per cent.

    Args:
        x: (N, C, H, W), floating point.
        size: height and width to reach, in pixels.

    Returns:
        (N, C, height, width); ``x`` itself where it has that size already.
    """
    size = (int(size[0]), int(size[1]))
    if tuple(x.shape[-2:]) == size:
        return x
    if x.shape[-1] == size[1] == 1:
        # torch (seen in 2.15, CPU) confuses rows and channels where only a single column is resized.
        return resize(x.mT, size[::-1]).mT
    # Not every device resizes 16-bit numbers, and their eight bits would lose grey levels on the way.
    y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return F.interpolate(y, size=size, mode="bicubic", align_corners=False, antialias=True).to(x.dtype)


def pad_to(x: Tensor, multiple: int = 1, minimum: int = 1, square: bool = False) -> Tensor:
    """Repeat the last row and column until the sides suit a network.

    Reflection, the usual choice, fails where the padding is as long as the image; a person eight
    pixels wide in front of a network that wants sixteen is such a case.

    Args:
        x: (N, C, H, W).
        multiple: the sides become multiples of this.
        minimum: the sides become at least this, in pixels.
        square: both sides become the longer one.

    Returns:
        (N, C, H', W'), the image in its top left corner; ``x`` itself where nothing is to do.
    """
    sides = [-(-max(side, minimum) // multiple) * multiple for side in x.shape[-2:]]
    if square:
        sides = [max(sides)] * 2
    below, right = sides[0] - x.shape[-2], sides[1] - x.shape[-1]
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x
