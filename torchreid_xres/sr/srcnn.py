"""SRCNN: three convolutions on the bicubically magnified image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd, FrontEndInfo, init_small

INFO = FrontEndInfo(
    paper="C. Dong, C. C. Loy, K. He, X. Tang, Image super-resolution using deep convolutional networks, "
    "IEEE TPAMI 2016",
    parameters=8_032,
    counted="9-1-5 on luminance, weights without biases (57,184 for 9-5-5)",
)


@FRONT_ENDS.register("srcnn", info=INFO)
class SRCNN(FrontEnd):
    """SRCNN (Dong et al., TPAMI 2016, equations 1 to 3): patch extraction, mapping, reconstruction.

    Weights start from N(0, 0.001^2) and biases from zero, as in the paper (section 3.2). An untrained
    SRCNN therefore answers with a black image, which is no start for training together with a re-ID
    network: ``residual`` adds the bicubic image (not in the paper), draws the first two layers after
    He et al. and keeps only the last one small.

    Args:
        scale: magnification where no size is asked; the net itself knows no scale.
        channels: 1 = luminance (the paper's choice), 3 = RGB.
        kernels: sides of the three filters, odd, in pixels; 9-1-5, 9-3-5 and 9-5-5 are the paper's.
        widths: channels after the first and the second layer.
        residual: learn the difference to the bicubic image.

    Example:
        >>> sum(p.numel() for p in SRCNN().parameters() if p.ndim > 1)
        8032
    """

    info = INFO

    def __init__(
        self,
        scale: int = 4,
        channels: int = 1,
        kernels: tuple[int, int, int] = (9, 1, 5),
        widths: tuple[int, int] = (64, 32),
        residual: bool = False,
    ) -> None:
        super().__init__(scale, channels=channels, pre_upsampled=True, residual=residual)
        if len(kernels) != 3 or any(k % 2 == 0 for k in kernels):
            raise ValueError(f"SRCNN has three filters with odd sides, such as (9, 1, 5), not {kernels!r}")
        planes = (channels, *widths, channels)
        # Zeros around the image would darken its border; the paper evaluates with a repeated border.
        layers = [
            nn.Conv2d(planes[i], planes[i + 1], kernels[i], padding=kernels[i] // 2, padding_mode="replicate")
            for i in range(3)
        ]
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            init_small(layer)
        if residual:
            for layer in layers[:2]:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def net(self, x: Tensor) -> Tensor:
        extract, mapping, reconstruct = self.layers
        return reconstruct(F.relu(mapping(F.relu(extract(x)))))
