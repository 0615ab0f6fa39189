"""PRPR's restoration network: one trunk, and three heads that give the image at twice, three and four times its size.

C. Peng, B. Wang, D. Liu, N. Wang, X. Gao, "Pyramid-resolution person restoration for cross-resolution person
re-identification", Science China Information Sciences 2024 (letter).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchreid_xres.image import pad_to, resize
from torchreid_xres.parts import Part, nothing
from torchreid_xres.registry import Registry
from torchreid_xres.sr.base import init_small
from torchreid_xres.sr.build import load_weights
from torchreid_xres.sr.han import HANTrunk
from torchreid_xres.sr.residual import DIV2K_MEAN, conv3x3, subpixel_upsampler
from torchreid_xres.sr.swinir import SwinIRTrunk
from torchreid_xres.sr.trunk import LightTrunk

# Of images restored together, before magnification: eight of 256x128. The x4 head of 64 features holds some 8 KiB for
# each.
BATCH_PIXELS = 2**18

TRUNKS = Registry("trunk")
TRUNKS.register("swinir")(SwinIRTrunk)
TRUNKS.register("han")(HANTrunk)
TRUNKS.register("light")(LightTrunk)


class Pyramid(NamedTuple):
    """Images (N, 3, s * h, s * w) of an (N, 3, h, w) batch, s = 2, 3, 4."""

    x2: Tensor
    x3: Tensor
    x4: Tensor


SCALES = dict(zip(Pyramid._fields, (2, 3, 4), strict=True))


class PyramidRestorer(nn.Module):
    """PRPR's restorer: X_h1, X_h2, X_h3 = RC(E(x_ori)) (equations 1 and 2).

    The defaults are the published SwinIR variant's sizes. Unlike there the bicubic image is added to what a head gives
    (``residual``), and an image is padded by its edge, and only where its sides are no multiples of the trunk's window.
    In training the images are not clamped, so that a pixel out of range keeps its gradient; in evaluation they are
    clamped to [0, 1].

    Args:
        trunk: E, one of ``list(TRUNKS)``: ``swinir``, ``han``, or ``light`` for small machines.
        trunk_options: sizes of the trunk.
        trunk_weights: checkpoint the trunk starts from: published SwinIR weights of its sizes, or another restorer's.
        head_features: channels of the heads.
        residual: the bicubic image is added to each head's output (not in the paper), so that an untrained restorer
            starts near it.

    Raises:
        KeyError: for an unknown trunk.
        TypeError: for an option that the trunk does not have.
        ValueError: if the checkpoint does not fit.

    Example:
        >>> restorer = PyramidRestorer("light", head_features=8).eval()
        >>> [tuple(image.shape) for image in restorer(torch.rand(1, 3, 7, 5))]
        [(1, 3, 14, 10), (1, 3, 21, 15), (1, 3, 28, 20)]
    """

    mean: Tensor

    def __init__(
        self,
        trunk: str = "swinir",
        trunk_options: Mapping[str, Any] | None = None,
        trunk_weights: str | Path = "",
        head_features: int = 64,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)
        self.trunk = TRUNKS.build(trunk, **dict(trunk_options or {}))
        if trunk_weights:
            load_weights(self.trunk, trunk_weights)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    conv3x3(self.trunk.features, head_features),
                    nn.LeakyReLU(inplace=True),
                    subpixel_upsampler(head_features, scale),
                    conv3x3(head_features, 3),
                )
                for name, scale in SCALES.items()
            }
        )
        if residual:
            for head in self.heads.values():
                init_small(head[-1])

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``); without its head an image is enlarged."""
        return {"trunk": Part((self.trunk,)), **{f"head {name}": Part((h,), nothing) for name, h in self.heads.items()}}

    def forward(self, x: Tensor) -> Pyramid:
        """Restore a batch of images.

        Args:
            x: (N, 3, h, w), RGB in [0, 1], floating point, any size.

        Returns:
            The images at two, three and four times the size, of the input's type.

        Raises:
            TypeError: if the tensor is not floating point.
            ValueError: if its shape is not (N, 3, h, w).
        """
        if not x.is_floating_point():
            raise TypeError(f"a restorer takes images in [0, 1], not {x.dtype}; divide 8-bit images by 255")
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
            raise ValueError(f"a restorer takes images of shape (N, 3, h, w), not {tuple(x.shape)}")
        features = self.trunk(pad_to(x, self.trunk.multiple) - self.mean)  # equation 1
        return Pyramid(*(self._image(x, features, name) for name in SCALES))  # equation 2

    def _image(self, x: Tensor, features: Tensor, name: str) -> Tensor:
        height, width = (SCALES[name] * side for side in x.shape[-2:])
        y = self.heads[name](features)[..., :height, :width].to(x.dtype)
        y = y + (resize(x, (height, width)) if self.residual else self.mean)
        return y if self.training else y.clamp(0, 1)


def training_pair(hr: Tensor) -> tuple[Tensor, Pyramid]:
    """Make what a restorer is trained on from one full-resolution batch, bicubically.

    Args:
        hr: (N, 3, H, W) in [0, 1], H and W at least 4.

    Returns:
        The image at a quarter of the sides, (N, 3, H // 4, W // 4), and what the heads are to make of it; in [0, 1].

    Raises:
        ValueError: if a side is shorter than 4 pixels.

    Example:
        >>> lr, target = training_pair(torch.rand(1, 3, 256, 128))
        >>> tuple(lr.shape[2:]), tuple(target.x3.shape[2:])
        ((64, 32), (192, 96))
    """
    height, width = (side // 4 for side in hr.shape[-2:])
    if not height or not width:
        raise ValueError(f"images of {hr.shape[-2]}x{hr.shape[-1]} pixels have no quarter; sides are at least 4")
    lr = resize(hr, (height, width)).clamp(0, 1)
    return lr, Pyramid(*(resize(hr, (s * height, s * width)).clamp(0, 1) for s in SCALES.values()))
