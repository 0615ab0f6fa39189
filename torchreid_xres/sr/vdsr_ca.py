"""VDSR-CA: VDSR with channel attention between its layers, the front end of PS-HRNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from torchreid_xres.image import IMAGENET_MEAN, IMAGENET_STD
from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd, FrontEndInfo
from torchreid_xres.sr.rcan import ChannelAttention

INFO = FrontEndInfo(
    paper="G. Zhang, Y. Ge, Z. Dong, H. Wang, Y. Zheng, S. Chen, Deep high-resolution representation learning for "
    "cross-resolution person re-identification, IEEE TIP 2021 (section III-B)",
    parameters=677_448,
    counted="20 layers x 64 on RGB, no biases, attention through 4 channels",
)

STARTS = ("open", "official")
OPEN = 4.0  # an open gate lets sigmoid(4) = 0.98 through
LAST = 0.005  # deviation of the last weights, so that the untrained net adds a grey level or so


@FRONT_ENDS.register("vdsr_ca", info=INFO)
class VDSRCA(FrontEnd):
    """VDSR-CA (Zhang et al., TIP 2021): between each hidden convolution and its ReLU, channels are weighed.

    The net works on normalised pixels and adds what it finds to the image. All convolutions start after He et al.
    with the fan of their outputs, as in the published code. There each attention starts near one half, and 18 of them
    leave a few millionths of the features and of the gradients: the net stays the identity. So here the attention
    starts open, and it is the last convolution that starts small.

    Args:
        scale: magnification where no size is asked; the net itself knows no scale.
        depth: number of convolutions, at least 2.
        features: channels of the feature maps.
        squeezed: channels of the attention's bottleneck (the paper's r = 4).
        mean, std: of each channel: what the net takes from a pixel in [0, 1] and divides by.
        start: of untrained weights: ``open``, or ``official``, the published code's.

    Raises:
        ValueError: for fewer than 2 convolutions, or another start.

    Example:
        >>> sum(p.numel() for p in VDSRCA().parameters())
        677448
    """

    info = INFO
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        scale: int = 4,
        depth: int = 20,
        features: int = 64,
        squeezed: int = 4,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        start: str = "open",
    ) -> None:
        super().__init__(scale, pre_upsampled=True, residual=True)
        if depth < 2:
            raise ValueError(f"VDSR-CA has at least 2 layers, the first and the last, not {depth!r}")
        if start not in STARTS:
            raise ValueError(f"VDSR-CA has no start {start!r}; allowed: {', '.join(STARTS)}")
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
        layers: list[nn.Module] = [conv(3, features), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            # Equations 2 to 4 stand between the convolution and its ReLU.
            layers += [conv(features, features), ChannelAttention(features, squeezed), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers, conv(features, 3))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, ChannelAttention) and start == "open":
                nn.init.constant_(layer.conv_du[2].bias, OPEN)
        if start == "open":
            nn.init.normal_(self.body[-1].weight, std=LAST)

    def net(self, x: Tensor) -> Tensor:
        # The image itself is added outside, so the mean needs no adding back.
        return self.body((x - self.mean) / self.std) * self.std
