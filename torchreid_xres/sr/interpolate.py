"""Bicubic interpolation: the front end that every other one has to beat."""

from __future__ import annotations

from torch import Tensor

from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd, FrontEndInfo

INFO = FrontEndInfo(
    paper="R. Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 1981",
    parameters=0,
    counted="it has none",
)


@FRONT_ENDS.register("bicubic", info=INFO)
class Bicubic(FrontEnd):
    """Antialiased bicubic interpolation; no parameters, differentiable in the image.

    Args:
        scale: magnification where no size is asked.

    Example:
        >>> import torch
        >>> tuple(Bicubic(scale=2)(torch.rand(1, 3, 7, 4)).shape)
        (1, 3, 14, 8)
    """

    info = INFO

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale, pre_upsampled=True)

    def net(self, x: Tensor) -> Tensor:
        return x
