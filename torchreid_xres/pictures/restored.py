"""Triptychs: an image at low resolution, as a model's front end restores it, and as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.models.restored import restored_view
from torchreid_xres.pictures.seen import Trained, seen_at, squares
from torchreid_xres.pictures.sheet import Cell


class Restorations(NamedTuple):
    """An image at several rates, and restored from each; tensors are at the network's size, in [0, 1].

    Attributes:
        rates: R of them.
        pictures: what a camera of each rate would have seen, at its own size.
        enlarged: these by interpolation, as a network without a front end gets them, (R, 3, H, W).
        restored: by the front end, (R, 3, H, W).
        original: (3, H, W).
    """

    rates: tuple[float, ...]
    pictures: list[PIL.Image.Image]
    enlarged: Tensor
    restored: Tensor
    original: Tensor

    def quality(self) -> Tensor:
        """Return (R, 2, 2): of the enlarged and of the restored image its PSNR in dB and its SSIM to the original."""
        original = self.original.expand_as(self.restored)
        made = (self.enlarged, self.restored)
        return torch.stack([torch.stack([measure(x, original) for measure in (psnr, ssim)], 1) for x in made], 1)


def restorations(trained: Trained, img: PIL.Image.Image, rates: Sequence[float] = (2, 3, 4)) -> Restorations:
    """Restore an image from several rates.

    Args:
        trained: a network with a front end, see :func:`torchreid_xres.pictures.seen.trained_model`.
        img: high-resolution image, 8-bit RGB.
        rates: at which it is given, 1 or more.

    Raises:
        ValueError: if the network has no front end, or for a rate below 1.
    """
    seen = seen_at(img, rates, trained.data, trained.normalize)
    view = restored_view(trained.model, seen.batch, trained.normalize)
    if view is None:
        raise ValueError(f"{trained.name} has no front end, or none that was trained: there is nothing to show")
    return Restorations(tuple(rates), seen.pictures, trained.normalize.undo(seen.batch["img"]), view, seen.original)


def restored_cells(images: Sequence[Restorations], height: int = 192) -> tuple[list[Cell], int]:
    """Make the cells of a contact sheet, a row for each image: seen and restored at each rate, then the original.

    Args:
        images: with the same rates.
        height: of a picture in pixels.

    Returns:
        The cells, row by row, and how many a row has.
    """
    cells = []
    for one in images:
        for rate, picture, view, figures in zip(
            one.rates, one.pictures, one.restored, one.quality().tolist(), strict=True
        ):
            enlarged, restored = (f"{db:.1f} dB\nSSIM {index:.3f}" for db, index in figures)
            size = f"x{rate:g}, {picture.height}x{picture.width}"
            cells.append(Cell(squares(picture, height), f"{size}\n{enlarged}"))
            cells.append(Cell(to_pil_image(view), f"restored\n{restored}"))
        cells.append(Cell(to_pil_image(one.original), "original"))
    return cells, 2 * len(images[0].rates) + 1
