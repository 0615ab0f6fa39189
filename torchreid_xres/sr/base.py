"""What a super-resolution front end is: any image in, the asked size out, and facts about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchreid_xres.image import pad_to, resize, rgb_to_ycbcr, ycbcr_to_rgb
from torchreid_xres.registry import Registry

FRONT_ENDS = Registry("front end")


@dataclass(frozen=True)
class FrontEndInfo:
    """Facts about a front end, kept in the registry as ``FRONT_ENDS[name].meta["info"]``.

    Attributes:
        paper: authors, title, venue and year.
        licence: of the code that runs; weights keep the licence of whoever trained them.
        scales: the magnifications it can be built for; empty means any whole number.
        parameters: how many the paper counts at its own sizes; None where it counts none.
        counted: what that count includes (scale, channels, biases).
        reads_weights: it needs the checkpoint to know what to build.
    """

    paper: str
    licence: str = "MIT"
    scales: tuple[int, ...] = ()
    parameters: int | None = None
    counted: str = ""
    reads_weights: bool = False


class FrontEnd(nn.Module, ABC):
    """An image of any size in [0, 1] in, the same image at the asked size out.

    A subclass writes :meth:`net`, the bare network, and says here what the network needs. The rest
    is done once, in :meth:`forward`: pad by repeating the border, run the net at its whole-number
    scale, crop, and resize to the asked size (:func:`~torchreid_xres.image.resize`, antialiased
    bicubic). The caller's tensor is never written to. In training the output is not clamped, so
    that a pixel out of range keeps its gradient; in evaluation it is clamped to [0, 1].

    The cost grows with the input: an image that has the asked size already is still magnified and
    shrunk again. Whether to pass such images through is the model's decision.

    Args:
        scale: magnification of the net (and of the output, where no size is asked).
        channels: 3 for a net that sees RGB; 1 for a net that sees luminance, beside which Cb and Cr
            are resized bicubically.
        pre_upsampled: the net keeps the size of its input and works on the target grid: the image
            is resized bicubically to the asked size first.
        residual: the bicubic image is added to the net's output.
        multiple: the net's input sides must be multiples of this.
        minimum: the net's input sides must be at least this, in pixels.
        square: the net's input must be square.

    Raises:
        ValueError: if the scale or the number of channels is not one the net can have.
    """

    info: ClassVar[FrontEndInfo]

    def __init__(
        self,
        scale: int,
        *,
        channels: int = 3,
        pre_upsampled: bool = False,
        residual: bool = False,
        multiple: int = 1,
        minimum: int = 1,
        square: bool = False,
    ) -> None:
        super().__init__()
        name, scales = type(self).__name__, self.info.scales
        if scale != int(scale) or scale < 1 or (scales and scale not in scales):
            allowed = ", ".join(map(str, scales)) if scales else "any whole number from 1"
            raise ValueError(f"{name} has no scale {scale!r}; allowed: {allowed}")
        if channels not in (1, 3):
            raise ValueError(f"{name} cannot see {channels!r} channels; allowed: 1 (luminance), 3 (RGB)")
        self.scale = int(scale)
        self.channels = channels
        self.pre_upsampled = pre_upsampled
        self.residual = residual
        self.multiple = multiple
        self.minimum = minimum
        self.square = square

    @abstractmethod
    def net(self, x: Tensor) -> Tensor:
        """Run the bare network.

        Args:
            x: (N, channels, h, w), padded as declared; must not be written to.

        Returns:
            (N, channels, h * scale, w * scale), or (N, channels, h, w) where ``pre_upsampled``.
        """

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Restore a batch of images.

        Args:
            x: (N, 3, h, w), RGB in [0, 1], floating point, any size.
            size: (H, W) in pixels; ``scale`` times the input if left out.

        Returns:
            (N, 3, H, W), RGB, of the input's type; clamped to [0, 1] in evaluation only.

        Raises:
            TypeError: if the tensor is not floating point.
            ValueError: if its shape is not (N, 3, h, w), or the asked size is not positive.
        """
        if not x.is_floating_point():
            raise TypeError(f"a front end takes images in [0, 1], not {x.dtype}; divide 8-bit images by 255")
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
            raise ValueError(f"a front end takes images of shape (N, 3, h, w), not {tuple(x.shape)}")
        if size is None:
            size = (x.shape[-2] * self.scale, x.shape[-1] * self.scale)
        elif len(size) != 2 or min(size) < 1:
            raise ValueError(f"the size asked of a front end is (height, width) in pixels, not {size!r}")

        if self.channels == 1:
            planes = rgb_to_ycbcr(x)
            luminance = self._magnify(planes[:, :1], size)
            chrominance = resize(planes[:, 1:], size)
            y = ycbcr_to_rgb(torch.cat((luminance, chrominance), dim=1))
        else:
            y = self._magnify(x, size)
        return y if self.training else y.clamp(0, 1)

    def _magnify(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        small = resize(x, size) if self.pre_upsampled else x
        magnification = 1 if self.pre_upsampled else self.scale
        height, width = (side * magnification for side in small.shape[-2:])
        y = self.net(pad_to(small, self.multiple, self.minimum, self.square))
        # Under autocast the net answers in 16 bit; what follows is done in the image's own precision.
        y = resize(y[..., :height, :width].to(x.dtype), size)
        return y + resize(x, size) if self.residual else y

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a published checkpoint under this front end's parameter names.

        Names that need no change are passed on, so that checkpoints of our own load as well.
        """
        return state

    def at_scale(self, scale: int) -> FrontEnd | None:
        """Return a net of another scale with these weights; None where their shapes tell the scale, or there is none.

        Where all scales have tensors of the same shapes, only what they make of an image tells them apart.
        """
        return None

    def extra_repr(self) -> str:
        facts = ["scale", "channels", "pre_upsampled", "residual", "multiple", "minimum"]
        return ", ".join(f"{fact}={getattr(self, fact)}" for fact in facts)


def init_small(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Draw a layer's weights from N(0, 0.001^2) and set its bias to zero, in place.

    As the last layer of a residual net it makes the untrained output differ from the bicubic image
    by a few grey levels at most, while every earlier layer still receives a gradient.
    """
    nn.init.normal_(layer.weight, std=1e-3)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
