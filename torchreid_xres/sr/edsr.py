"""EDSR: residual blocks without batch normalisation."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from torchreid_xres.sr.base import FRONT_ENDS, FrontEndInfo
from torchreid_xres.sr.residual import SCALES, ResidualNet, conv3x3

INFO = FrontEndInfo(
    paper="B. Lim, S. Son, H. Kim, S. Nah, K. M. Lee, Enhanced deep residual networks for single image "
    "super-resolution, CVPR Workshops 2017",
    scales=SCALES,
    parameters=43_000_000,
    counted="table 1, 43 M: 32 blocks x 256 at x4",
)


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution; scaled and added to the input (figure 2c of the paper)."""

    def __init__(self, features: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.body = nn.Sequential(
            conv3x3(features, features), nn.ReLU(inplace=True), conv3x3(features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.body(x)


@FRONT_ENDS.register("edsr", info=INFO)
class EDSR(ResidualNet):
    """EDSR (Lim et al., CVPRW 2017), by default the paper's large net; see also ``edsr_baseline``.

    Args:
        scale: 2, 3, 4 or 8.
        blocks: B, the number of residual blocks.
        features: F, the channels of the feature maps.
        gain: factor on each block's branch (section 3.2); keeps wide nets stable.
        pixel_range: the net sees pixels in [0, pixel_range]; 255 in the published weights.
        residual: add the bicubic image (not in the paper), so that the untrained net starts near it.
    """

    info = INFO

    def __init__(
        self,
        scale: int = 4,
        blocks: int = 32,
        features: int = 256,
        gain: float = 0.1,
        pixel_range: float = 255.0,
        residual: bool = False,
    ) -> None:
        body = [ResidualBlock(features, gain) for _ in range(blocks)]
        super().__init__(scale, body, features, pixel_range, residual)


BASELINE = replace(INFO, parameters=1_500_000, counted="table 1, 1.5 M: 16 blocks x 64 at x4")


@FRONT_ENDS.register("edsr_baseline", info=BASELINE)
def edsr_baseline(
    scale: int = 4,
    blocks: int = 16,
    features: int = 64,
    gain: float = 1.0,
    pixel_range: float = 255.0,
    residual: bool = False,
) -> EDSR:
    """Build the paper's baseline model: :class:`EDSR` at 16 blocks x 64 channels, branches not scaled."""
    net = EDSR(scale, blocks, features, gain, pixel_range, residual)
    net.info = BASELINE
    return net
