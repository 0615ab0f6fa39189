"""DGRL's super-resolution module: RCAN, with a tail for each down-sampling rate.

X. Ye, G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning", section III-B:
low-resolution images pass through a pretrained RCAN (Y. Zhang et al., ECCV 2018). The paper does not say how one RCAN
serves the rates 2, 3 and 4; here they share its head and body.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torchreid_xres.image import resize
from torchreid_xres.models.layers import parts_of_front_end
from torchreid_xres.models.registry import MODELS
from torchreid_xres.parts import Part, enlarged
from torchreid_xres.sr.rcan import RCAN


@MODELS.register("dgrl_restorer", paper="DGRL, Ye and Gao")
class RateRestorer(nn.Module):
    """Magnifies an image by the rate it was down-sampled at.

    Args:
        num_classes, loss, pretrained, use_gpu: the host's four keywords, without effect here.
        rates: those that have a tail.
        residual: add the bicubic image (not in RCAN's paper), so that the untrained net starts near it.
        **rcan: sizes of :class:`~torchreid_xres.sr.rcan.RCAN`; 10 groups of 20 blocks, 64 features if left out.

    Example:
        >>> import torch
        >>> restorer = RateRestorer(groups=1, blocks=1, features=4, reduction=2).eval()
        >>> restorer(torch.zeros(2, 3, 40, 15), rate=3).shape
        torch.Size([2, 3, 120, 45])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        rates: Sequence[int] = (2, 3, 4),
        residual: bool = True,
        **rcan: Any,
    ) -> None:
        super().__init__()
        self.rates = tuple(rates)
        whole = RCAN(self.rates[0], residual=residual, **rcan)
        self.nets = nn.ModuleDict({f"x{self.rates[0]}": whole})
        for rate in self.rates[1:]:
            net = RCAN(rate, residual=residual, **{**rcan, "groups": 0})
            net.head, net.body = whole.head, whole.body
            self.nets[f"x{rate}"] = net

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``); the tails share their body."""
        within = parts_of_front_end(self.nets[f"x{self.rates[0]}"])
        del within["front end"]
        return {f"net {name}": Part((net,), enlarged) for name, net in self.nets.items()} | within

    def tail_of(self, rate: float, size: Sequence[int] = (1, 1), target: Sequence[int] = (2, 2)) -> int:
        """Return which tail an image takes, 1 for none: the nearest by ratio, if the image is smaller than wanted.

        Args:
            rate: what it was down-sampled by.
            size: its height and width now.
            target: what they are to become.
        """
        if all(side >= wanted for side, wanted in zip(size, target, strict=True)):
            return 1  # nothing that would be seen was lost
        return min((1, *self.rates), key=lambda tail: abs(math.log(rate / tail)))

    def forward(self, x: Tensor, rate: float = 2.0, size: tuple[int, int] | None = None) -> Tensor:
        """Restore images that were down-sampled at one rate.

        Args:
            x: (N, 3, h, w) in [0, 1].
            rate: which tail is taken (see :meth:`tail_of`).
            size: (H, W) to bring the magnified image to; that of the tail if left out.

        Returns:
            (N, 3, H, W) in [0, 1] (in training not clamped).
        """
        tail = self.tail_of(rate)
        if tail == 1:
            return resize(x, size or x.shape[-2:]).clamp(0, 1)
        return self.nets[f"x{tail}"](x, size)


def seen_rate(rate: float, low: bool, size: Sequence[int], width: int) -> float:
    """Return what an image was down-sampled by; if it is low by nature, how much narrower it is.

    Args:
        rate: 1 where the protocol made nothing smaller.
        low: whether it is low resolution.
        size: height and width that the camera saw.
        width: of the network's input.

    Example:
        >>> seen_rate(3.0, True, (40, 20), 64), seen_rate(1.0, True, (64, 32), 64), seen_rate(1.0, False, (64, 32), 64)
        (3.0, 2.0, 1.0)
    """
    return width / size[1] if low and rate == 1 else rate
