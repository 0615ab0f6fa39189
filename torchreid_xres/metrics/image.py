"""How near a restored image is to the original: PSNR and SSIM, one value per image."""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_xres.image import rgb_to_ycbcr


def psnr(x: Tensor, y: Tensor, shave: int = 0, luminance: bool = False) -> Tensor:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared error over all values of an image.

    Args:
        x: (N, C, H, W) in [0, 1].
        y: same shape and range.
        shave: pixels left out along each border; super-resolution papers leave out ``scale``.
        luminance: compare BT.601 luminance only, as most super-resolution papers do; C must be 3.

    Returns:
        (N,) in dB, float64; infinite where the images are equal.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, or do not suit ``luminance`` or ``shave``.

    Example:
        >>> x = torch.zeros(1, 3, 8, 8)
        >>> psnr(x, x + 0.1).round().item()
        20.0
    """
    x, y = _prepare(x, y, shave, luminance)
    return -10 * (x - y).square().mean(dim=(1, 2, 3)).log10()


def ssim(
    x: Tensor, y: Tensor, shave: int = 0, luminance: bool = False, window: int = 11, sigma: float = 1.5
) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004, equation 13), mean over windows and channels.

    Gaussian windows that lie wholly inside the image, K1 = 0.01, K2 = 0.03. An image with a side
    shorter than the window gets the largest odd window that fits, its sigma smaller in proportion:
    values of such images are not comparable with those of larger ones.

    Args:
        x: (N, C, H, W) in [0, 1].
        y: same shape and range.
        shave: pixels left out along each border.
        luminance: compare BT.601 luminance only; C must be 3.
        window: side of the window, odd, in pixels.
        sigma: standard deviation of the window's Gaussian, in pixels.

    Returns:
        (N,), float64; 1 where the images are equal.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: as for :func:`psnr`, or if the window is not odd and positive.

    Example:
        >>> x = torch.rand(2, 3, 16, 16)
        >>> ssim(x, x).tolist()
        [1.0, 1.0]
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"the window's side is an odd number of pixels, not {window!r}")
    x, y = _prepare(x, y, shave, luminance)
    side = min(window, *x.shape[-2:])
    side -= 1 - side % 2
    offsets = torch.arange(side, dtype=x.dtype) - side // 2  # on the CPU, which its numbers are wanted of
    gauss = torch.exp(-((offsets * window / (side * sigma)) ** 2) / 2)
    gauss /= gauss.sum()

    def smooth(z: Tensor) -> Tensor:
        # Shifted copies: torch's convolution of one channel in double precision takes seven times as long.
        for dim in (2, 3):
            length = z.shape[dim] - side + 1
            z = sum(weight * z.narrow(dim, i, length) for i, weight in enumerate(gauss.tolist()))
        return z

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = smooth(x), smooth(y)
    var_x = smooth(x * x) - mean_x.square()
    var_y = smooth(y * y) - mean_y.square()
    covariance = smooth(x * y) - mean_x * mean_y
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))
    return index.mean(dim=(1, 2, 3))


def _prepare(x: Tensor, y: Tensor, shave: int, luminance: bool) -> tuple[Tensor, Tensor]:
    for image in (x, y):
        if not image.is_floating_point():
            raise TypeError(f"images in [0, 1] are compared, not {image.dtype}; divide 8-bit images by 255")
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(
            f"two batches of one shape (N, C, H, W) are compared, not {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if luminance and x.shape[1] != 3:
        raise ValueError(f"the luminance of RGB images needs 3 channels, not {x.shape[1]}")
    if shave < 0 or 2 * shave >= min(x.shape[-2:]):
        raise ValueError(f"a border of {shave} leaves nothing of images of {x.shape[-2]}x{x.shape[-1]} pixels")
    # Errors of single precision would show in the PSNR of nearly equal images.
    x, y = (image[..., shave : image.shape[-2] - shave, shave : image.shape[-1] - shave].double() for image in (x, y))
    return (rgb_to_ycbcr(x)[:, :1], rgb_to_ycbcr(y)[:, :1]) if luminance else (x, y)
