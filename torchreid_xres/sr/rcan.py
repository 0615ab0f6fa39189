"""RCAN: residual groups of residual blocks with channel attention."""

from __future__ import annotations

from torch import Tensor, nn

from torchreid_xres.sr.base import FRONT_ENDS, FrontEndInfo
from torchreid_xres.sr.residual import SCALES, ResidualNet, conv3x3

INFO = FrontEndInfo(
    paper="Y. Zhang, K. Li, K. Li, L. Wang, B. Zhong, Y. Fu, Image super-resolution using very deep residual "
    "channel attention networks, ECCV 2018",
    scales=SCALES,
    parameters=15_590_000,
    counted="15.59 M: 10 groups x 20 blocks x 64 at x4",
)


class ChannelAttention(nn.Module):
    """Weigh each channel by what its mean says about all of them (equations 8 to 10).

    Args:
        channels: channels in and out.
        squeezed: channels of the bottleneck between them.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)  # equation 8
        return x * self.conv_du(mean)  # equations 9 and 10


class AttentionBlock(nn.Module):
    """RCAB: two convolutions and channel attention under a short skip (equations 11 and 12)."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(features, features),
            nn.ReLU(inplace=True),
            conv3x3(features, features),
            ChannelAttention(features, features // reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResidualGroup(nn.Module):
    """Blocks and a closing convolution under a skip (equations 6 and 7)."""

    def __init__(self, features: int, reduction: int, blocks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(AttentionBlock(features, reduction) for _ in range(blocks)), conv3x3(features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@FRONT_ENDS.register("rcan", info=INFO)
class RCAN(ResidualNet):
    """RCAN (Zhang et al., ECCV 2018), residual in residual.

    Args:
        scale: 2, 3, 4 or 8.
        groups: G, the number of residual groups.
        blocks: B, the number of attention blocks in each group.
        features: C, the channels of the feature maps; at least ``reduction``.
        reduction: r, how many times narrower the attention's bottleneck is.
        pixel_range: the net sees pixels in [0, pixel_range]; 255 in the published weights.
        residual: add the bicubic image (not in the paper), so that the untrained net starts near it.

    Raises:
        ValueError: if the attention's bottleneck would have no channel.
    """

    info = INFO

    def __init__(
        self,
        scale: int = 4,
        groups: int = 10,
        blocks: int = 20,
        features: int = 64,
        reduction: int = 16,
        pixel_range: float = 255.0,
        residual: bool = False,
    ) -> None:
        if features < reduction:
            raise ValueError(f"RCAN with {features} features cannot be reduced {reduction} times")
        body = [ResidualGroup(features, reduction, blocks) for _ in range(groups)]
        super().__init__(scale, body, features, pixel_range, residual)
