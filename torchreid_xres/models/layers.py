"""Small parts that several methods share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalization(nn.Module):
    """Between the re-ID network's normalised images and the [0, 1] images of a front end.

    Args:
        mean: of each channel, in [0, 1].
        std: of each channel.

    Example:
        >>> norm = Normalization()
        >>> x = torch.rand(1, 3, 2, 2)
        >>> torch.allclose(norm(norm.undo(x)), x, atol=1e-6)
        True
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        # Not in the state dict: they describe the loader, and a checkpoint must not change them.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, 3, H, W) in [0, 1]."""
        return (x - self.mean) / self.std

    def undo(self, x: Tensor) -> Tensor:
        """Return (N, 3, H, W) to [0, 1] (values outside, as random erasing never makes, are clipped)."""
        return (x * self.std + self.mean).clamp(0, 1)
