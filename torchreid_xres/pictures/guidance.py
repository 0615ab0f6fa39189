"""What keypoints do in KGNet: low resolution, recovery, alignment, original, heat maps and faces side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import PIL.Image
import PIL.ImageDraw
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import resize, to_pil_image, to_tensor
from torchvision.utils import make_grid

from torchreid_xres.data.degrade import low_size, round_trip
from torchreid_xres.keypoints import FACES4
from torchreid_xres.metrics.image import psnr
from torchreid_xres.models.kgnet import KGNet

GAP = 4  # pixels between pictures
HEADER = 16  # pixels above them, for their names
# Of front, back, left and right; the side of the alignment has the left's.
COLOURS = torch.tensor([[1.0, 0.25, 0.2], [0.3, 0.5, 1.0], [0.2, 0.9, 0.3], [1.0, 0.85, 0.1]])


class GuidanceImages(NamedTuple):
    """A vehicle at low resolution and what becomes of it, on the network's grid; images in [0, 1]."""

    low: Tensor  # x_lr, each pixel as a square, (3, H, W)
    enlarged: Tensor  # x'_lr
    restored: Tensor  # x_sr
    aligned: Tensor  # x'_sr
    original: Tensor
    maps: Tensor  # heat maps of the visible points, (20, H, W)
    recovery: Tensor  # attention to front, back, left, right, (4, H, W); none in a network without KGR
    alignment: Tensor  # to front, back, side, (3, H, W); none without KGA

    def quality(self) -> tuple[float, float]:
        """Return the PSNR to the original in dB, of the enlarged and of the restored image."""
        pairs = ((image[None], self.original[None]) for image in (self.enlarged, self.restored))
        before, after = (psnr(*pair).item() for pair in pairs)
        return before, after

    def visible(self) -> int:
        """Return how many points were found."""
        return int((self.maps.amax(dim=(1, 2)) > 0).sum())


@torch.no_grad()
def guidance_images(
    model: KGNet, img: PIL.Image.Image, size: tuple[int, int], rate: float = 8.0, kernel: str = "bicubic"
) -> GuidanceImages:
    """Give a high-resolution image to a network at a low one.

    Args:
        model: trained, in evaluation mode.
        img: 8-bit RGB.
        size: height and width of the network's input.
        rate: of the low resolution.
        kernel: of the down-sampling.

    Example:
        >>> sizes = {"sr_options": {"features": 8, "groups": 1, "blocks": 1}, "hourglass": {"stacks": 1, "width": 8}}
        >>> model = KGNet(pretrained=False, reid="osnet_x0_25", kgr_blocks=1, **sizes).eval()
        >>> one = guidance_images(model, PIL.Image.new("RGB", (90, 70)), (128, 128))
        >>> one.restored.shape, one.maps.shape, one.recovery.shape
        (torch.Size([3, 128, 128]), torch.Size([20, 128, 128]), torch.Size([4, 128, 128]))
    """
    original = to_tensor(resize(img, list(size)))[None]
    enlarged = round_trip(original, low_size(img.height, img.width, rate), kernel)
    found = model.guide(model.normalize(enlarged))

    def on_grid(maps: Tensor | None) -> Tensor:
        if maps is None:
            return original.new_zeros(0, *size)
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)[0]

    return GuidanceImages(
        F.interpolate(found.low, size, mode="nearest")[0].clamp(0, 1),
        enlarged[0].clamp(0, 1),
        found.restored[0].clamp(0, 1),
        found.aligned[0].clamp(0, 1),
        original[0],
        *map(on_grid, (found.maps, found.recovery, found.alignment)),
    )


def draw_guidance(vehicles: Sequence[GuidanceImages]) -> PIL.Image.Image:
    """Draw a row for each vehicle: images, heat maps in the colours of their faces, and the attention to each face.

    Args:
        vehicles: of one network.

    Example:
        >>> blank = torch.zeros(3, 32, 32)
        >>> one = GuidanceImages(blank, blank, blank, blank, blank, torch.zeros(20, 32, 32), blank[:0], blank)
        >>> draw_guidance([one, one]).size  # 5 images, heat maps and 3 faces of 32 + 4; two rows and a header
        (328, 92)
    """
    names = ["low", "enlarged", "restored", "aligned", "original"]
    names += ["heat maps"] * bool(len(vehicles[0].maps))
    names += [f"KGR {face}" for face in list(FACES4)[: len(vehicles[0].recovery)]]
    names += [f"KGA {face}" for face in ("front", "back", "side")[: len(vehicles[0].alignment)]]
    cells = [picture for one in vehicles for picture in _row(one)]
    grid = make_grid(cells, nrow=len(names), padding=GAP, pad_value=1.0)
    canvas = PIL.Image.new("RGB", (grid.shape[2], HEADER + grid.shape[1]), "white")
    canvas.paste(to_pil_image(grid), (0, HEADER))
    pen = PIL.ImageDraw.Draw(canvas)
    for column, name in enumerate(names):
        pen.text((GAP + column * (cells[0].shape[2] + GAP), 2), name, fill="black")
    return canvas


def _row(one: GuidanceImages) -> list[Tensor]:
    pictures = list(one[:5])
    backdrop = 0.4 * one.enlarged
    if len(one.maps):
        # Of the points on two faces each shows one; the strongest colour wins.
        faces = torch.stack([one.maps[list(points)].amax(dim=0) for points in FACES4.values()]).clamp(0, 1)
        strength, face = faces.max(dim=0)
        pictures.append(_over(backdrop, strength, COLOURS[face].permute(2, 0, 1)))
    for attention in (one.recovery, one.alignment):
        # 1/K is what a face gets where no point is near.
        lifted = (attention - 1 / max(1, len(attention))).clamp(min=0)
        for lift, colour in zip(lifted / lifted.amax().clamp(min=1e-6) if len(lifted) else (), COLOURS, strict=False):
            pictures.append(_over(backdrop, lift, colour[:, None, None]))
    return pictures


def _over(backdrop: Tensor, strength: Tensor, colour: Tensor) -> Tensor:
    return backdrop * (1 - strength) + colour * strength
