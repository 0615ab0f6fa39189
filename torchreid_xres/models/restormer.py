"""Restormer's Transformer block: attention over channels, and a gated feed-forward network.

S. W. Zamir, A. Arora, S. Khan, M. Hayat, F. S. Khan, M.-H. Yang, "Restormer: Efficient Transformer for
High-Resolution Image Restoration", CVPR 2022 (arXiv 2111.09881). The equations' numbers are those of DGRL (X. Ye,
G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning"), which uses one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention: the channels of a head attend to each other, the pixels are what they say.

    Args:
        channels: C.
        heads: h; must divide C.

    Raises:
        ValueError: if it does not.

    Example:
        >>> MDTA(8, heads=2)(torch.rand(1, 8, 5, 3)).shape
        torch.Size([1, 8, 5, 3])
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be divided among {heads} heads")
        self.heads = heads
        self.pointwise = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        # 1 / alpha of eq. 2, one for each head.
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Return how much each channel heeds each other one of its head, (N, h, C/h, C/h); rows sum to 1.

        Args:
            query, key: (N, h, C/h, H * W).
        """
        # The length over pixels is taken out, as in the published code; the equation does not say so.
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        return (query @ key.mT * self.temperature).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Pass (N, C, H, W); the size stays."""
        # (N, 3 C, H, W) -> 3 x (N, h, C/h, H * W); eq. 1
        query, key, value = (
            part.unflatten(1, (self.heads, -1)).flatten(3) for part in self.depthwise(self.pointwise(x)).chunk(3, dim=1)
        )
        # -> (N, C, H, W)
        mixed = (self.attention(query, key) @ value).flatten(1, 2).unflatten(2, x.shape[-2:])
        return self.out(mixed)  # eq. 2


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network: one path, through GELU, lets the other one pass.

    Args:
        channels: C.
        expansion: how many times wider each path is.
    """

    def __init__(self, channels: int, expansion: float = 2.66) -> None:
        super().__init__()
        width = int(channels * expansion)
        self.pointwise = nn.Conv2d(channels, 2 * width, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.out = nn.Conv2d(width, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pass (N, C, H, W); the size stays."""
        gate, passed = self.depthwise(self.pointwise(x)).chunk(2, dim=1)
        return self.out(F.gelu(gate) * passed)  # eq. 3


class RestormerBlock(nn.Module):
    """MDTA and GDFN, each behind a layer normalisation over channels and inside a residual.

    Args:
        channels: C.
        heads: of MDTA.
        expansion: of GDFN.

    Example:
        >>> sum(p.numel() for p in RestormerBlock(64).parameters())
        54072
    """

    def __init__(self, channels: int, heads: int = 4, expansion: float = 2.66) -> None:
        from timm.layers import LayerNorm2d  # takes a second to import

        super().__init__()
        self.norm1 = LayerNorm2d(channels, eps=1e-5)
        self.attention = MDTA(channels, heads)
        self.norm2 = LayerNorm2d(channels, eps=1e-5)
        self.feed_forward = GDFN(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Pass (N, C, H, W); the size stays."""
        x = self.attention(self.norm1(x)) + x  # eq. 4
        return self.feed_forward(self.norm2(x)) + x
