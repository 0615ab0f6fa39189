"""Omni-SR's trunk: attention over pixels and over channels in turn, in blocks and across the whole map.

H. Wang, X. Chen, B. Ni, Y. Liu, J. Liu, "Omni Aggregation Networks for Lightweight Image Super-Resolution", CVPR 2023
(arXiv 2304.10244): local, meso and global interactions in one group, each over space and channels. What the paper
leaves open is as in the published network, whose weights give the same output here.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.image import pad_to
from torchreid_xres.models.restormer import GDFN, MDTA

HEADS = 4
# The gate of a group halves the map once and then looks at pieces of 7 x 7.
SMALLEST = 15


class Groups(NamedTuple):
    """How the pixels of a map are divided into groups that attend to each other.

    Attributes:
        window: side w of a window.
        kind: ``block``: the w x w pixels of a window. ``grid``: w x w pixels, apart by equal steps over the whole map.
            ``step``: all pixels w apart.
    """

    window: int
    kind: str

    def divide(self, x: Tensor) -> Tensor:
        """Turn (N, C, H, W), sides multiples of w, into (N * groups, C, pixels).

        Example:
            >>> import torch
            >>> x = torch.arange(36).view(1, 1, 6, 6)
            >>> [Groups(2, kind).divide(x)[0, 0].tolist() for kind in ("block", "grid", "step")]
            [[0, 1, 6, 7], [0, 3, 18, 21], [0, 2, 4, 12, 14, 16, 24, 26, 28]]
        """
        a, b = self._outer(*x.shape[-2:])
        # (N, C, H, W) -> (N, C, a, H / a, b, W / b); the pixels of a group are the last two of the new order
        parts = x.unflatten(3, (b, -1)).unflatten(2, (a, -1))
        order = (0, 2, 4, 1, 3, 5) if self.kind == "block" else (0, 3, 5, 1, 2, 4)
        return parts.permute(order).flatten(4).flatten(0, 2)

    def join(self, groups: Tensor, height: int, width: int) -> Tensor:
        """Invert :meth:`divide`: (N * groups, C, pixels) to (N, C, height, width)."""
        a, b = self._outer(height, width)
        p, q = height // a, width // b
        if self.kind == "block":
            parts = groups.view(-1, a, b, groups.shape[1], p, q).permute(0, 3, 1, 4, 2, 5)
        else:
            parts = groups.view(-1, p, q, groups.shape[1], a, b).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(-1, groups.shape[1], height, width)

    def _outer(self, height: int, width: int) -> tuple[int, int]:
        w = self.window
        return (w, w) if self.kind == "grid" else (height // w, width // w)


class PixelAttention(nn.Module):
    """The pixels of a group attend to each other, with a bias for each relative position."""

    def __init__(self, channels: int, groups: Groups) -> None:
        from timm.layers import RelPosBias  # takes a second to import
        from timm.models.maxxvit import AttentionCl

        super().__init__()
        self.groups = groups
        bias = partial(RelPosBias, window_size=(groups.window, groups.window))
        self.attention = AttentionCl(
            channels, dim_head=channels // HEADS, bias=False, head_first=False, rel_pos_cls=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.groups.divide(x).mT  # (N * groups, pixels, C)
        return self.groups.join(self.attention(tokens).mT.contiguous(), *x.shape[-2:])


class ChannelAttention(MDTA):
    """The channels of a head attend to each other, in each group of pixels for itself."""

    def __init__(self, channels: int, groups: Groups) -> None:
        super().__init__(channels, HEADS)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        # (N, 3 C, H, W) -> 3 x (N * groups, heads, C / heads, pixels)
        query, key, value = (
            self.groups.divide(part).unflatten(1, (self.heads, -1))
            for part in self.depthwise(self.pointwise(x)).chunk(3, dim=1)
        )
        mixed = (self.attention(query, key) @ value).flatten(1, 2)
        return self.out(self.groups.join(mixed, *x.shape[-2:]))


class Residual(nn.Module):
    """A layer behind a normalisation over channels (if any), inside a skip."""

    def __init__(self, layer: nn.Module, channels: int = 0) -> None:
        from timm.layers import LayerNorm2d  # takes a second to import

        super().__init__()
        # As published: torch's own LayerNorm before pixels' attention, one with a smaller constant elsewhere.
        eps = 1e-5 if isinstance(layer, PixelAttention) else 1e-6
        self.norm = LayerNorm2d(channels, eps=eps) if channels else nn.Identity()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.norm(x))


class OmniBlock(nn.Sequential):
    """The omni-scale block: a convolution for what is near, attention in blocks, then attention across the map.

    Args:
        channels: C, a multiple of 4.
        window: side of a window; the map's sides must be multiples of it.

    Example:
        >>> import torch
        >>> OmniBlock(8, window=4)(torch.zeros(1, 8, 16, 8)).shape
        torch.Size([1, 8, 16, 8])
    """

    def __init__(self, channels: int, window: int = 8) -> None:
        from timm.layers import SqueezeExcite  # takes a second to import

        local = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.GELU(),
            SqueezeExcite(channels, rd_channels=channels // 4, bias=False, act_layer=nn.SiLU),
            nn.Conv2d(channels, channels, 1),
        )  # fmt: skip
        attentions = (
            PixelAttention(channels, Groups(window, "block")),
            ChannelAttention(channels, Groups(window, "block")),
            PixelAttention(channels, Groups(window, "grid")),
            ChannelAttention(channels, Groups(window, "step")),
        )
        layers = [layer for attention in attentions for layer in (attention, GDFN(channels, expansion=1))]
        super().__init__(Residual(local), *(Residual(layer, channels) for layer in layers))


class SpatialGate(nn.Module):
    """Weigh each value by what is around it (enhanced spatial attention, Liu et al., CVPR 2020, without its pyramid).

    Args:
        channels: in and out.
        squeezed: channels of the gate's own map.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.near = nn.Conv2d(squeezed, squeezed, 1)
        self.down = nn.Conv2d(squeezed, squeezed, 3, stride=2)
        self.wide = nn.Conv2d(squeezed, squeezed, 3, padding=1)
        self.widen = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = self.squeeze(x)
        wide = self.wide(F.max_pool2d(self.down(small), 7, stride=3))
        wide = F.interpolate(wide, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * self.widen(wide + self.near(small)).sigmoid()


class OmniGroup(nn.Module):
    """Blocks and a 1x1 convolution under a skip, then a gate."""

    def __init__(self, channels: int, blocks: int, window: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(OmniBlock(channels, window) for _ in range(blocks)), nn.Conv2d(channels, channels, 1)
        )
        self.gate = SpatialGate(channels, max(channels // 4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x + self.body(x))


class OmniTrunk(nn.Module):
    """Omni-SR between its first convolution and its magnifying end: features in, features out.

    Args:
        features: channels C of the maps, a multiple of 4.
        groups: how many groups.
        blocks: omni-scale blocks of each; the published network has one.
        window: side of a window, in pixels.

    Raises:
        ValueError: for sizes that cannot be.

    Example:
        >>> import torch
        >>> OmniTrunk(features=8, groups=1, blocks=1)(torch.zeros(1, 8, 16, 20)).shape
        torch.Size([1, 8, 16, 20])
    """

    def __init__(self, features: int = 64, groups: int = 5, blocks: int = 4, window: int = 8) -> None:
        super().__init__()
        if features < HEADS or features % HEADS:
            raise ValueError(f"features of Omni-SR are a multiple of {HEADS}, not {features}")
        for name, value in (("groups", groups), ("blocks", blocks), ("window", window)):
            if value < 1:
                raise ValueError(f"{name} of Omni-SR must be at least 1, not {value}")
        self.window = window
        self.groups = nn.Sequential(*(OmniGroup(features, blocks, window) for _ in range(groups)))
        self.last = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Pass (N, C, h, w) of any size; it is padded to whole windows by repeating its border."""
        padded = pad_to(x, self.window, minimum=SMALLEST)
        return (padded + self.last(self.groups(padded)))[..., : x.shape[-2], : x.shape[-1]]
