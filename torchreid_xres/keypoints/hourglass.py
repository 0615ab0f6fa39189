"""The stacked hourglass network, which finds keypoints.

A. Newell, K. Yang, J. Deng, "Stacked Hourglass Networks for Human Pose Estimation", ECCV 2016. KGNet (A. Zheng et al.,
Engineering Applications of Artificial Intelligence 2025, Section 3.2) trains it for 20 points of vehicles: pictures of
128 x 128 to maps of 32 x 32. It does not say how many stacks; three fit the parameters and operations of its Table 7.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.keypoints.heatmaps import TARGETS
from torchreid_xres.keypoints.vehicle20 import KEYPOINTS
from torchreid_xres.parts import Part, batch_mean


class Residual(nn.Module):
    """Pre-activated bottleneck (Newell et al., Figure 4, left): 1x1 to half the width, 3x3, 1x1 back."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.body = nn.Sequential(
            *_activated(inputs), nn.Conv2d(inputs, half, 1, bias=False),
            *_activated(half), nn.Conv2d(half, half, 3, padding=1, bias=False),
            *_activated(half), nn.Conv2d(half, outputs, 1),
        )  # fmt: skip
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


def _activated(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU(inplace=True)


class Hourglass(nn.Module):
    """Down to 1/2^depth of the side and back, with a branch at every size (Newell et al., Figure 3).

    Args:
        depth: how many times the sides are halved; the input's must be multiples of 2^depth.
        width: channels, everywhere.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.branch = Residual(width, width)
        inner = Hourglass(depth - 1, width) if depth > 1 else Residual(width, width)
        self.low = nn.Sequential(nn.MaxPool2d(2), Residual(width, width), inner, Residual(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + F.interpolate(self.low(x), scale_factor=2.0, mode="nearest")


class StackedHourglass(nn.Module):
    """Several hourglasses in a row, each with heat maps of its own, all supervised.

    Args:
        stacks: how many.
        depth: of each hourglass; the pictures' sides must be multiples of 4 * 2^depth.
        width: channels of the hourglasses; an even number of at least 4.
        points: how many heat maps.
        targets: what they are trained to be: ``gaussian`` (what is not visible peaks in the corner) or ``binary``.

    Example:
        >>> import torch
        >>> model = StackedHourglass(stacks=2, depth=2, width=16).eval()
        >>> model(torch.zeros(1, 3, 128, 128)).shape
        torch.Size([1, 20, 32, 32])
    """

    def __init__(
        self,
        stacks: int = 3,
        depth: int = 4,
        width: int = 256,
        points: int = len(KEYPOINTS),
        targets: str = "gaussian",
    ) -> None:
        super().__init__()
        for name, value, least in (("stacks", stacks, 1), ("depth", depth, 1), ("width", width, 4)):
            if value < least:
                raise ValueError(f"{name} of a stacked hourglass is at least {least}, not {value}")
        if width % 4:
            raise ValueError(f"width of a stacked hourglass is a multiple of 4, not {width}")
        if targets not in TARGETS:
            raise ValueError(f"no targets {targets!r}; there are: {', '.join(TARGETS)}")
        self.depth, self.targets = depth, targets
        # 3 x H x W -> width x H/4 x W/4; the paper's 64, 128, 256 channels are a quarter, a half and all of the width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 4, 7, stride=2, padding=3, bias=False), *_activated(width // 4),
            Residual(width // 4, width // 2), nn.MaxPool2d(2),
            Residual(width // 2, width // 2), Residual(width // 2, width),
        )  # fmt: skip
        self.hourglasses = nn.ModuleList(
            nn.Sequential(
                Hourglass(depth, width), Residual(width, width), nn.Conv2d(width, width, 1, bias=False),
                *_activated(width),
            )
            for _ in range(stacks)
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Conv2d(width, points, 1) for _ in range(stacks))
        for head in self.heads:
            # Nearly all of a target is zero; from random maps the first steps would only learn that.
            nn.init.normal_(head.weight, std=0.001)
            nn.init.zeros_(head.bias)
        # Features and maps of one stack go on into the next.
        self.features_on = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(stacks - 1))
        self.maps_on = nn.ModuleList(nn.Conv2d(points, width, 1) for _ in range(stacks - 1))

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``)."""
        stacks = {f"stack {i}": Part((stack,), batch_mean) for i, stack in enumerate(self.hourglasses, start=1)}
        on = Part((self.features_on, self.maps_on))
        return {"stem": Part((self.stem,)), **stacks, "heads": Part((self.heads,)), "ways to the next stack": on}

    def forward(self, img: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return heat maps of size H/4 x W/4.

        Args:
            img: (N, 3, H, W), normalised as the loader gives it.

        Returns:
            In evaluation the last stack's maps (N, points, H/4, W/4), in training those of every stack.

        Raises:
            ValueError: for a size that the hourglasses cannot halve ``depth`` times.
        """
        unit = 4 * 2**self.depth
        if img.shape[-2] % unit or img.shape[-1] % unit:
            raise ValueError(f"the sides of the pictures must be multiples of {unit}, not {tuple(img.shape[-2:])}")
        x, maps = self.stem(img), []
        for stack, (hourglass, head) in enumerate(zip(self.hourglasses, self.heads, strict=True)):
            features = hourglass(x)
            maps.append(head(features))
            if stack < len(self.maps_on):
                x = x + self.features_on[stack](features) + self.maps_on[stack](maps[-1])
        return tuple(maps) if self.training else maps[-1]
