"""VDSR: a deep stack of small convolutions that learns the difference to the bicubic image."""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd, FrontEndInfo, init_small

INFO = FrontEndInfo(
    paper="J. Kim, J. K. Lee, K. M. Lee, Accurate image super-resolution using very deep convolutional "
    "networks, CVPR 2016",
    parameters=664_704,
    counted="20 layers x 64 on luminance, no biases",
)


@FRONT_ENDS.register("vdsr", info=INFO)
class VDSR(FrontEnd):
    """VDSR (Kim et al., CVPR 2016, section 3): one net for all scales, on the target grid.

    Hidden layers start after He et al., as in the paper. The last layer starts from N(0, 0.001^2)
    instead: drawn after He, it would cover the bicubic image with noise as strong as the image
    itself, and a re-ID network trained behind it would begin with that.

    Args:
        scale: magnification where no size is asked; the net itself knows no scale.
        channels: 1 = luminance (the paper's choice), 3 = RGB.
        depth: number of convolutions, at least 2.
        features: channels of the feature maps.

    Example:
        >>> sum(p.numel() for p in VDSR().parameters())
        664704
    """

    info = INFO

    def __init__(self, scale: int = 4, channels: int = 1, depth: int = 20, features: int = 64) -> None:
        super().__init__(scale, channels=channels, pre_upsampled=True, residual=True)
        if depth < 2:
            raise ValueError(f"VDSR has at least 2 layers, the first and the last, not {depth!r}")
        self.first = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        self.middle = nn.ModuleList(
            nn.Conv2d(features, features, 3, padding=1, bias=False) for _ in range(depth - 2)
        )
        self.last = nn.Conv2d(features, channels, 3, padding=1, bias=False)
        for layer in (self.first, *self.middle):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        init_small(self.last)

    def net(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        for layer in self.middle:
            y = F.relu(layer(y))
        return self.last(y)

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        # The public PyTorch checkpoint says input, residual_layer.<i>.conv and output.
        renamed = {}
        for name, tensor in state.items():
            name = re.sub(r"^residual_layer\.(\d+)\.conv\.", r"middle.\1.", name)
            renamed[re.sub(r"^input\.", "first.", re.sub(r"^output\.", "last.", name))] = tensor
        return renamed
