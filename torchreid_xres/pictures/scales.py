"""One image at all scales from all rates: what a cascade of reconstruction networks makes of it (MSIFLA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import PIL.Image
import PIL.ImageDraw
import torch
from torch import Tensor
from torchvision.transforms.functional import resize, to_pil_image, to_tensor
from torchvision.utils import make_grid

from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.metrics.image import psnr
from torchreid_xres.models.cmsr2 import CMSR2, resolution_versions
from torchreid_xres.models.layers import Normalization

GAP = 4  # pixels between pictures
MARGIN = 48, 16  # pixels left of a grid and above it, for its labels


class ScaleImages(NamedTuple):
    """An image at several rates and what a cascade makes of each, all in [0, 1]."""

    rates: tuple[float, ...]
    scales: tuple[float, ...]
    inputs: Tensor  # (rates, 3, H, W)
    made: Tensor  # (rates, scales, 3, H, W)
    targets: Tensor  # (scales, 3, H, W)

    def quality(self) -> Tensor:
        """Return the PSNR to each target in dB: (rates, scales, 2), of the input and of what was made of it."""
        table = [
            [torch.cat([psnr(image[None], target[None]) for image in (given, made)]) for made, target in zip(
                row, self.targets, strict=True
            )]
            for given, row in zip(self.inputs, self.made, strict=True)
        ]  # fmt: skip
        return torch.stack([torch.stack(row) for row in table])


@torch.no_grad()
def scales_from_rates(
    cascade: CMSR2,
    img: PIL.Image.Image,
    size: tuple[int, int],
    rates: Sequence[float] = (4, 3, 2, 1),
    kernel: str = "area",
    normalize: Normalization | None = None,
) -> ScaleImages:
    """Give an image to a cascade at several rates, as a low-resolution query of the protocol would come.

    Args:
        cascade: trained.
        img: high-resolution image, 8-bit RGB.
        size: height and width of the network's input.
        rates: at which the image is given.
        kernel: of the down-sampling.
        normalize: as the cascade was trained; None for ImageNet's figures.

    Example:
        >>> images = scales_from_rates(CMSR2(widths=(4, 8)), PIL.Image.new("RGB", (20, 40)), (32, 16))
        >>> images.inputs.shape, images.made.shape, images.targets.shape
        (torch.Size([4, 3, 32, 16]), torch.Size([4, 3, 3, 32, 16]), torch.Size([3, 3, 32, 16]))
    """
    normalize = normalize or Normalization()
    whole = to_tensor(resize(img, list(size)))[None]
    inputs = torch.stack([to_tensor(resize(degrade_image(img, rate, kernel), list(size))) for rate in rates])
    made = torch.stack([normalize.undo(scale) for scale in cascade(normalize(inputs))], dim=1)
    targets = resolution_versions(whole, torch.tensor([[img.height, img.width]]), cascade.scales, kernel)
    return ScaleImages(tuple(rates), cascade.scales, inputs, made, torch.cat(list(targets.values())))


def draw_scales(images: Sequence[ScaleImages]) -> PIL.Image.Image:
    """Draw a grid for each image, side by side: a row of targets, then a row for each rate; the input, then the scales.

    Args:
        images: of one size, with the same rates and scales.

    Example:
        >>> one = scales_from_rates(CMSR2((2, 1), (4, 8)), PIL.Image.new("RGB", (20, 40)), (32, 16))
        >>> draw_scales([one, one]).size  # 2 x (48 + 3 x (16 + 4) + 4), 16 + 5 x (32 + 4) + 4
        (224, 200)
    """
    return _beside([_grid(one) for one in images])


def _grid(one: ScaleImages) -> PIL.Image.Image:
    blank = torch.ones_like(one.inputs[:1])
    # (rates + 1, scales + 1, 3, H, W)
    cells = torch.stack([torch.cat((blank, one.targets)), *(
        torch.cat((given[None], made)) for given, made in zip(one.inputs, one.made, strict=True)
    )])  # fmt: skip
    columns, height, width = cells.shape[1], *cells.shape[3:]
    grid = make_grid(cells.flatten(0, 1), nrow=columns, padding=GAP, pad_value=1.0)
    left, top = MARGIN
    canvas = PIL.Image.new("RGB", (left + grid.shape[2], top + grid.shape[1]), "white")
    canvas.paste(to_pil_image(grid), MARGIN)
    pen = PIL.ImageDraw.Draw(canvas)
    for row, label in enumerate(["target", *(f"x{rate:g}" for rate in one.rates)]):
        pen.text((GAP, top + GAP + row * (height + GAP) + height // 2), label, fill="black")
    for column, label in enumerate(["input", *(f"1/{scale:g}" for scale in one.scales)]):
        pen.text((left + GAP + column * (width + GAP), 2), label, fill="black")
    return canvas


def _beside(pictures: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    canvas = PIL.Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width
    return canvas
