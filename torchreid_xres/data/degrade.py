"""Down-sampling: one set of kernels for 8-bit PIL images and for batches of tensors, equal to each other.

The tensors' kernels are weight matrices, one per axis. So a degradation is two matrix products: differentiable,
deterministic on every device, and the same arithmetic in a data worker and in a loss.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from torchreid_xres.registry import did_you_mean

KERNELS = ("area", "bilinear", "bicubic", "lanczos", "bilinear_plain")

_PIL_FILTERS = {
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}


def check_kernel(kernel: str) -> str:
    """Return ``kernel`` if it is one of ``KERNELS``.

    Raises:
        ValueError: naming the nearest kernel and all that exist.
    """
    if kernel in KERNELS:
        return kernel
    raise ValueError(f"no kernel {kernel!r}{did_you_mean(kernel, KERNELS)} There are: {', '.join(KERNELS)}")


def check_rate(rate: float) -> float:
    """Return ``rate`` as a float if it is a finite number of at least 1.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 1 <= rate < math.inf:
        raise ValueError(f"a rate is a number of at least 1 (1 = as captured, 4 = a quarter of the side), not {rate!r}")
    return float(rate)


def low_size(height: int, width: int, rate: float) -> tuple[int, int]:
    """Return the size after down-sampling: each side divided by ``rate``, rounded down, at least 1.

    Example:
        >>> low_size(128, 63, 4)
        (32, 15)
    """
    rate = check_rate(rate)
    # The nudge keeps 33 / 1.1 (29.999... in floats) at 30.
    return max(1, math.floor(height / rate + 1e-9)), max(1, math.floor(width / rate + 1e-9))


def log_uniform(least: float, largest: float, draw: float) -> float:
    """Return the rate that a number drawn from [0, 1) stands for, where each doubling is as likely as another.

    Example:
        >>> log_uniform(1.0, 16.0, 0.5)
        4.0
    """
    return least * (largest / least) ** draw


def degrade_image(img: PIL.Image.Image, rate: float, kernel: str = "area") -> PIL.Image.Image:
    """Down-sample an 8-bit image to what a camera of lower resolution would have seen.

    Args:
        img: an 8-bit PIL image.
        rate: the factor of each side, any number of at least 1.
        kernel: one of ``KERNELS``; all but ``bilinear_plain`` are antialiased.

    Returns:
        The small image, of size ``low_size(height, width, rate)``; at rate 1 ``img`` itself.

    Raises:
        ValueError: for a rate below 1, an unknown kernel, or a mode other than ``RGB`` and ``L``.
    """
    check_kernel(kernel)
    if img.mode not in ("RGB", "L"):
        raise ValueError(f"degrading needs an 8-bit image of mode RGB or L, not {img.mode!r}")
    if check_rate(rate) == 1:
        return img
    h, w = low_size(img.height, img.width, rate)
    if kernel in _PIL_FILTERS:
        # Pillow 13 picks the order of its two 8-bit passes by the sizes, which changes bicubic and Lanczos by
        # many grey levels at hard edges. Asked for one pass at a time, every version gives the same picture.
        resample = _PIL_FILTERS[kernel]
        return img.resize((w, img.height), resample).resize((w, h), resample)
    import cv2

    flag = cv2.INTER_AREA if kernel == "area" else cv2.INTER_LINEAR
    return PIL.Image.fromarray(cv2.resize(np.asarray(img), (w, h), interpolation=flag))


def degrade_tensor(x: Tensor, size: tuple[int, int], kernel: str = "area") -> Tensor:
    """Down-sample a batch of images with the kernels of ``degrade_image``.

    Args:
        x: ``(N, C, H, W)``, floating (any range; differentiable) or uint8.
        size: the new height and width, at most H and W.
        kernel: one of ``KERNELS``.

    Returns:
        ``(N, C, h, w)`` of the same type and device. uint8 is rounded and clipped as ``degrade_image`` does, floats
        are neither: bicubic and Lanczos may leave the input's range.

    Raises:
        ValueError: for an unknown kernel, a wrong shape or type, or a size above the input's.
    """
    check_kernel(kernel)
    if x.dim() != 4 or not (x.is_floating_point() or x.dtype == torch.uint8):
        raise ValueError(f"expected (N, C, H, W) of floats or uint8, got {tuple(x.shape)} of {x.dtype}")
    h, w = size
    if not (1 <= h <= x.shape[2] and 1 <= w <= x.shape[3]):
        raise ValueError(f"cannot down-sample {tuple(x.shape[2:])} to {(h, w)}: a side must be from 1 to the input's")
    return resize_tensor(x, (h, w), kernel)


def round_trip(x: Tensor, size: tuple[int, int], kernel: str = "area", up: str = "bilinear") -> Tensor:
    """Down-sample images to ``size`` and bring them back: what a network sees of a low-resolution camera.

    Args:
        x: ``(C, H, W)`` or ``(N, C, H, W)``, floating or uint8; down-sampling is linear, so normalised images are fine.
        size: height and width in between; what exceeds H or W is clipped to it (then nothing is lost on that axis).
        kernel: one of ``KERNELS``, for the way down.
        up: one of ``KERNELS``, for the way back.

    Returns:
        Images of the shape and type of ``x``.

    Raises:
        ValueError: as ``degrade_tensor``.
    """
    batch = x[None] if x.dim() == 3 else x
    H, W = batch.shape[-2:]
    low = degrade_tensor(batch, (min(size[0], H), min(size[1], W)), kernel)
    back = resize_tensor(low, (H, W), check_kernel(up))
    return back[0] if x.dim() == 3 else back


def undo_enlargement(x: Tensor, size: tuple[int, int], kernel: str = "bilinear") -> Tensor:
    """Bring enlarged images back to the pixels that they were made of, by least squares.

    Down-sampling by any kernel would blur them. What the enlargement lost to 8 bits stays lost and grows: along an axis
    at most twofold where the side grew by a fourth or more, eightfold where it grew by one pixel in a hundred.

    Args:
        x: ``(N, C, H, W)``, floating (differentiable; normalised or not).
        size: height and width before; a side of at least the input's was not enlarged and stays.
        kernel: one of ``KERNELS``, by which they were enlarged.

    Returns:
        ``(N, C, h, w)`` of the same type and device, which may leave the input's range by a little.

    Raises:
        ValueError: for an unknown kernel.

    Example:
        >>> small = torch.rand(1, 3, 16, 8)
        >>> large = resize_tensor(small, (40, 20), "bicubic")
        >>> torch.allclose(undo_enlargement(large, (16, 8), "bicubic"), small, atol=1e-5)
        True
    """
    check_kernel(kernel)
    if size[0] >= x.shape[2] and size[1] >= x.shape[3]:
        return x
    work = x.dtype if x.dtype == torch.float64 else torch.float32
    rows, columns = (
        _inverse_weights(new, min(old, new), kernel, work, x.device) for old, new in zip(size, x.shape[2:], strict=True)
    )
    with torch.autocast(x.device.type, enabled=False):
        return (rows @ x.to(work) @ columns.T).to(x.dtype)


def resize_tensor(x: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Resize images up or down by a kernel.

    Args:
        x: ``(N, C, H, W)``, floating or uint8.
        size: the new height and width.
        kernel: one of ``KERNELS``.

    Returns:
        ``(N, C, h, w)`` of the same type and device; floats are neither rounded nor clipped.
    """
    work = x.dtype if x.dtype == torch.float64 else torch.float32
    rows = _weights(x.shape[2], size[0], kernel, work, x.device)
    columns = _weights(x.shape[3], size[1], kernel, work, x.device).T
    # Autocast would round the weights to bfloat16, a whole grey level.
    with torch.autocast(x.device.type, enabled=False):
        out = x.to(work)
        if size[1] > x.shape[3]:
            # On the way up the columns last: it saves a quarter of the time of a round trip.
            out = rows @ out @ columns
        elif x.dtype == torch.uint8 and kernel in _PIL_FILTERS:
            # Pillow stores 8 bits between its two passes; OpenCV rounds once, at the end.
            out = rows @ _eight_bits(out @ columns)
        else:
            out = rows @ (out @ columns)
    return _eight_bits(out).to(torch.uint8) if x.dtype == torch.uint8 else out.to(x.dtype)


def _eight_bits(x: Tensor) -> Tensor:
    # Halves go up, as in Pillow; torch.round would send them to the even neighbour.
    return x.add(0.5).floor().clamp(0, 255)


@lru_cache(maxsize=512)
def _weights(old: int, new: int, kernel: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the ``(new, old)`` matrix that resizes one axis; each row sums to 1."""
    # Kept for later calls, which may want gradients: an inference tensor could not serve them.
    with torch.inference_mode(False):
        return torch.from_numpy(_matrix(old, new, kernel)).to(device, dtype)


@lru_cache(maxsize=512)
def _inverse_weights(large: int, small: int, kernel: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the ``(small, large)`` matrix that undoes the enlargement of one axis."""
    with torch.inference_mode(False):
        return torch.from_numpy(np.linalg.pinv(_matrix(small, large, kernel))).to(device, dtype)


def _matrix(old: int, new: int, kernel: str) -> np.ndarray:
    scale = old / new
    edges = np.arange(new + 1) * scale
    pixels = np.arange(old)
    if kernel == "area":
        # How much of each old pixel lies inside each new one.
        inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = inside.clip(0)
    else:
        centres = (np.arange(new) + 0.5) * scale
        offset = pixels + 0.5 - centres[:, None]
        if kernel == "bilinear_plain":
            # Two neighbours whatever the scale; past the border the last pixel counts twice.
            offset = pixels + 0.5 - centres[:, None].clip(0.5, old - 0.5)
            weights = (1 - np.abs(offset)).clip(0)
        else:
            weights = _FILTERS[kernel](offset / max(scale, 1.0))
    return weights / weights.sum(1, keepdims=True)


def _triangle(t: np.ndarray) -> np.ndarray:
    return (1 - np.abs(t)).clip(0)


def _cubic(t: np.ndarray, a: float = -0.5) -> np.ndarray:
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((t - 5) * t + 8) * t * a - 4 * a
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def _lanczos3(t: np.ndarray) -> np.ndarray:
    return np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic, "lanczos": _lanczos3}
