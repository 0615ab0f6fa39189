"""Activation maps: where in an image the last feature map of a network is strong, at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.inference.backends import described_by
from torchreid_xres.models.restored import restored_view
from torchreid_xres.pictures.seen import Trained, seen_at, squares
from torchreid_xres.pictures.sheet import Cell

SHARE = 0.55  # of the map's colours in an overlay
STRETCHED = 2.0  # a map of the whole image is stretched by less: convolutions without padding cut off some


@torch.no_grad()
def activation_map(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Return the sum over the channels of the squares of the last feature map, scaled to [0, 1].

    S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 1 with p = 2. The last feature
    map is that of the last module that gives (1, C, h, w), h and w above 1 and about in the image's proportion (stripes
    and regions are not): of a method with several re-ID networks, that of the last one.

    Args:
        model: one of ours or of the host, in evaluation mode.
        batch: of one image, as a loader would give it; of the host's models only ``img`` (1, 3, H, W) is read.

    Returns:
        (h, w); 0 everywhere for a map without differences.

    Raises:
        ValueError: if no module gives a map, or there are several images.

    Example:
        >>> from torchreid_xres.models import build_model
        >>> model = build_model("osnet_x0_25", 2, pretrained=False).eval()
        >>> activation_map(model, {"img": torch.rand(1, 3, 64, 32)}).shape
        torch.Size([4, 2])
    """
    if len(batch["img"]) != 1:
        raise ValueError(f"one image at a time has a map, not {len(batch['img'])}")
    proportion = batch["img"].shape[2] / batch["img"].shape[3]
    last: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            stretched = output.shape[2] / output.shape[3] / proportion
            if 1 / STRETCHED < stretched < STRETCHED:
                last[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in model.modules() if module is not model]
    try:
        described_by(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise ValueError(f"{type(model).__name__} has no feature map")
    strength = last[0][0].float().square().sum(dim=0)
    strength = strength - strength.min()
    return strength / strength.max().clamp(min=torch.finfo(strength.dtype).tiny)


def overlay(img: Tensor, strength: Tensor) -> PIL.Image.Image:
    """Lay a map over an image: dark violet where it is weak, yellow where it is strong.

    Args:
        img: (3, H, W) in [0, 1].
        strength: (h, w) in [0, 1].
    """
    size = (img.shape[1], img.shape[2])
    grown = F.interpolate(strength[None, None], size, mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)
    levels = (255 * grown).round().byte().numpy()
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]  # OpenCV's are BGR
    grey = img.mean(dim=0, keepdim=True).expand(3, -1, -1).permute(1, 2, 0).numpy()
    mixed = (1 - SHARE) * 255 * grey + SHARE * colours
    return PIL.Image.fromarray(mixed.round().astype(np.uint8))


def activation_cells(
    trained: Trained, images: Sequence[PIL.Image.Image], rates: Sequence[float] = (1, 4), height: int = 192
) -> tuple[list[Cell], int]:
    """Make the cells of a contact sheet, a row for each image: as seen at each rate, and the map over it.

    The map is laid over what the re-ID network sees, so over the restored image where there is a front end.

    Args:
        trained: a network, see :func:`torchreid_xres.pictures.seen.trained_model`.
        images: high-resolution images, 8-bit RGB.
        rates: at which they are given, 1 or more.
        height: of a picture in pixels.

    Returns:
        The cells, row by row, and how many a row has.
    """
    cells = []
    for img in images:
        seen = seen_at(img, rates, trained.data, trained.normalize)
        view = restored_view(trained.model, seen.batch, trained.normalize)
        if view is None:
            view = trained.normalize.undo(seen.batch["img"])
        for i, (rate, picture) in enumerate(zip(rates, seen.pictures, strict=True)):
            strength = activation_map(trained.model, {key: values[i : i + 1] for key, values in seen.batch.items()})
            cells.append(Cell(squares(picture, height), f"x{rate:g}, {picture.height}x{picture.width}"))
            cells.append(Cell(overlay(view[i], strength), f"map {strength.shape[0]}x{strength.shape[1]}"))
    return cells, 2 * len(rates)
