"""What EDSR and RCAN share: a head, residual parts under one long skip, and a sub-pixel tail."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from torchreid_xres.sr.base import FrontEnd, init_small

# Mean colour of the DIV2K training images, which both papers subtract.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

SCALES = (2, 3, 4, 8)


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the image's size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def subpixel_upsampler(features: int, scale: int) -> nn.Sequential:
    """Return convolutions and pixel shuffles that magnify by 2, 3, 4 or 8 (powers of two by steps of 2)."""
    steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    layers: list[nn.Module] = []
    for step in steps:
        layers += [conv3x3(features, step * step * features), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


class ResidualNet(FrontEnd):
    """Head, body with a long skip, sub-pixel tail; parameter names as in the public checkpoints.

    Weights start as PyTorch draws them, which is what the published code does; the papers say
    nothing about it.

    Args:
        scale: 2, 3, 4 or 8.
        body: the parts under the long skip, without the convolution that closes them.
        features: channels of the feature maps.
        pixel_range: the net sees pixels in [0, pixel_range]; 255 in the published weights.
        residual: add the bicubic image (not in the papers), so that the untrained net starts near it.
    """

    mean: Tensor

    def __init__(
        self, scale: int, body: Iterable[nn.Module], features: int, pixel_range: float, residual: bool
    ) -> None:
        super().__init__(scale, residual=residual)
        self.pixel_range = pixel_range
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)
        self.head = nn.Sequential(conv3x3(3, features))
        self.body = nn.Sequential(*body, conv3x3(features, features))
        upsampler, last = subpixel_upsampler(features, self.scale), conv3x3(features, 3)
        self.tail = nn.Sequential(upsampler, last)
        if residual:
            init_small(last)

    def net(self, x: Tensor) -> Tensor:
        y = self.head((x - self.mean) * self.pixel_range)
        y = self.tail(self.body(y) + y) / self.pixel_range
        # The mean colour is in the bicubic image already.
        return y if self.residual else y + self.mean

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        # Public checkpoints carry the mean colour as two fixed 1x1 convolutions.
        return {name: t for name, t in state.items() if not name.startswith(("sub_mean.", "add_mean."))}
