"""What a camera of lower resolution makes of sharp images: fewer pixels, sometimes blur, noise and JPEG, then enlarged.

Where :mod:`~torchreid_xres.data.degrade` is the protocol's down-sampling, the same for everybody, this is what a
network learns from: anything that a camera may do, drawn from torch's generator.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from torchreid_xres.data.degrade import check_kernel, check_rate, degrade_tensor, log_uniform, low_size, resize_tensor

SMALLEST = 8  # pixels of height below which a view shows nobody
# Between which values a fault is drawn: blur in pixels of the small image, noise in [0, 1], JPEG's quality.
BLUR = (0.3, 1.0)
NOISE = (0.0, 10 / 255)
QUALITY = (30, 95)


@dataclass(frozen=True)
class Camera:
    """Draws for each image what a camera of lower resolution would have seen.

    Attributes:
        rates: least and largest rate, log-uniform in between; the largest of an image leaves it 8 pixels of height.
        share: of the images that get such a rate, and faults; the others stay as they are.
        kernels: down-sampling kernels, all as likely.
        blur, noise, jpeg: share of the low images with this fault, all of which happen at the small size.
        enlargement: kernel by which the loader brings small images to the network's size.

    Raises:
        ValueError: for rates, kernels or shares that cannot be.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> images, sizes = Camera(rates=(4, 4), share=1.0).views(torch.rand(1, 3, 64, 32), torch.tensor([[128, 64]]))
        >>> images.shape, sizes.tolist()
        (torch.Size([1, 3, 64, 32]), [[32, 16]])
    """

    rates: Sequence[float] = (1.0, 8.0)
    share: float = 0.85
    kernels: Sequence[str] = ("area", "bilinear", "bicubic")
    blur: float = 0.2
    noise: float = 0.2
    jpeg: float = 0.2
    enlargement: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.rates) != 2 or not check_rate(self.rates[0]) <= check_rate(self.rates[1]):
            raise ValueError(f"a camera's rates are the least and the largest, not {list(self.rates)}")
        if not self.kernels:
            raise ValueError("a camera needs a kernel, and there is none")
        for kernel in (*self.kernels, self.enlargement):
            check_kernel(kernel)
        for name in ("share", "blur", "noise", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"a camera's {name} is a share of the images, from 0 to 1, not {getattr(self, name)}")

    def largest_rate(self, height: int) -> float:
        """Return the largest rate at which an image of some height in pixels is seen."""
        return min(self.rates[1], max(1.0, height / SMALLEST))

    def views(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return images as a camera of lower resolution would have seen them, and their heights and widths.

        Args:
            images: (N, 3, H, W) in [0, 1], at the network's size.
            sizes: (N, 2), height and width of each as captured.

        Returns:
            (N, 3, H, W) in [0, 1], and (N, 2), what was left of ``sizes``.
        """
        # On the CPU whatever the device: its generator's state is what a checkpoint keeps.
        draws = torch.rand(len(images), 8).tolist()
        seen = [
            self._view(image, (height, width), draw)
            for image, (height, width), draw in zip(images, sizes.tolist(), draws, strict=True)
        ]
        return torch.stack([view for view, _ in seen]), sizes.new_tensor([size for _, size in seen])

    def view_at(self, image: Tensor, size: tuple[int, int], rate: float, kernel: str = "area") -> Tensor:
        """Return an image (3, H, W), ``size`` as captured, at one rate and without faults."""
        return self._enlarged(self._small(image, low_size(*size, rate), kernel), image)

    def _view(self, image: Tensor, size: tuple[int, int], draw: Sequence[float]) -> tuple[Tensor, tuple[int, int]]:
        from torchvision.transforms.v2.functional import gaussian_blur  # takes a second to import

        low, where, which, blurred, noisy, compressed, noise, quality = draw
        if low >= self.share:
            return image, size
        largest = self.largest_rate(size[0])
        size = low_size(*size, log_uniform(min(self.rates[0], largest), largest, where))
        small = self._small(image, size, self.kernels[int(which * len(self.kernels))])
        # What is left of a draw below its share is uniform again.
        if blurred < self.blur and min(small.shape[-2:]) > 1:
            small = gaussian_blur(small, kernel_size=[3, 3], sigma=[_between(BLUR, blurred / self.blur)] * 2)
        if noisy < self.noise:
            small = small + _between(NOISE, noise) * torch.randn(small.shape).to(small)
        small = small.clamp(0, 1)
        if compressed < self.jpeg:
            small = _compressed(small[0], round(_between(QUALITY, quality)))[None]
        return self._enlarged(small, image), size

    def _small(self, image: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
        height, width = image.shape[-2:]
        return degrade_tensor(image[None], (min(size[0], height), min(size[1], width)), kernel)

    def _enlarged(self, small: Tensor, like: Tensor) -> Tensor:
        return resize_tensor(small, (like.shape[-2], like.shape[-1]), self.enlargement)[0].clamp(0, 1)


def _compressed(image: Tensor, quality: int) -> Tensor:
    # Not torchvision's, which is to be removed from it.
    file = io.BytesIO()
    bits = (255 * image).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    PIL.Image.fromarray(bits).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(PIL.Image.open(file))).to(image).permute(2, 0, 1) / 255


def _between(span: Sequence[float], share: float) -> float:
    return span[0] + (span[1] - span[0]) * share
