"""FSRCNN: features on the small image, a learned up-sampling filter at the end."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd, FrontEndInfo, init_small

INFO = FrontEndInfo(
    paper="C. Dong, C. C. Loy, X. Tang, Accelerating the super-resolution convolutional neural network, "
    "ECCV 2016",
    scales=(2, 3, 4, 8),
    parameters=12_464,
    counted="FSRCNN(56, 12, 4) on luminance, filter weights only (no biases, no PReLU slopes)",
)

# Names in the public PyTorch checkpoints, and ours.
_PUBLISHED = {"first_part.": "first.", "mid_part.": "middle.", "last_part.": "last."}


@FRONT_ENDS.register("fsrcnn", info=INFO)
class FSRCNN(FrontEnd):
    """FSRCNN(d, s, m) (Dong et al., ECCV 2016, section 3): extract, shrink, map m times, expand, deconvolve.

    Convolutions start after He et al., the deconvolution from N(0, 0.001^2), as in the paper.
    All scales have tensors of the same shapes; a checkpoint of another scale is known by the image that comes out.

    Args:
        scale: 2, 3, 4 or 8.
        channels: 1 = luminance (the paper's choice), 3 = RGB.
        features: d, the channels of the feature maps.
        shrunk: s, the channels between shrinking and expanding.
        depth: m, the number of mapping layers.
        residual: add the bicubic image (not in the paper), so that the untrained net starts near it.
    """

    info = INFO

    def __init__(
        self,
        scale: int = 4,
        channels: int = 1,
        features: int = 56,
        shrunk: int = 12,
        depth: int = 4,
        residual: bool = False,
    ) -> None:
        super().__init__(scale, channels=channels, residual=residual)
        self.first = nn.Sequential(nn.Conv2d(channels, features, 5, padding=2), nn.PReLU(features))
        middle = [nn.Conv2d(features, shrunk, 1), nn.PReLU(shrunk)]
        for _ in range(depth):
            middle += [nn.Conv2d(shrunk, shrunk, 3, padding=1), nn.PReLU(shrunk)]
        middle += [nn.Conv2d(shrunk, features, 1), nn.PReLU(features)]
        self.middle = nn.Sequential(*middle)
        self.last = nn.ConvTranspose2d(
            features, channels, 9, stride=scale, padding=4, output_padding=self.scale - 1
        )
        for layer in (*self.first, *self.middle):
            if isinstance(layer, nn.Conv2d):
                # 0.25 is the slope that nn.PReLU starts with.
                nn.init.kaiming_normal_(layer.weight, a=0.25, nonlinearity="leaky_relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        init_small(self.last)

    def net(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))

    def at_scale(self, scale: int) -> FSRCNN:
        twin = copy.deepcopy(self)
        twin.scale = scale
        twin.last.stride, twin.last.output_padding = (scale, scale), (scale - 1, scale - 1)
        return twin

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for name, tensor in state.items():
            for theirs, ours in _PUBLISHED.items():
                if name.startswith(theirs):
                    name = ours + name.removeprefix(theirs)
            renamed[name] = tensor
        return renamed
