"""Small parts that several methods share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchreid_xres.data.degrade import degrade_tensor
from torchreid_xres.image import IMAGENET_MEAN, IMAGENET_STD
from torchreid_xres.parts import Part, enlarged, its_input
from torchreid_xres.sr.base import FrontEnd
from torchreid_xres.sr.rcan import ChannelAttention


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

    mean: Tensor
    std: Tensor

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


def restored_images(front_end: FrontEnd, normalize: Normalization, img: Tensor) -> Tensor:
    """Pass a loader's images through a front end.

    Args:
        front_end: a net on the images' own grid, or one that magnifies: it then gets the grid from which its scale
            leads back to the images' size.
        normalize: the loader's normalisation.
        img: (N, 3, H, W), normalised, at the network's size.

    Returns:
        (N, 3, H, W) in [0, 1] (in training not clamped).
    """
    size = (img.shape[-2], img.shape[-1])
    small = normalize.undo(img)
    if not front_end.pre_upsampled and front_end.scale > 1:
        # (N, 3, H, W) -> (N, 3, H/s, W/s)
        scale = front_end.scale
        small = degrade_tensor(small, (max(1, size[0] // scale), max(1, size[1] // scale)), "area")
    return front_end(small, size=size)


def parts_of_front_end(front_end: nn.Module) -> dict[str, Part]:
    """Return the named parts of a front end: the whole, and its channel attention if it has some.

    Example:
        >>> from torchreid_xres.sr import build_front_end
        >>> list(parts_of_front_end(build_front_end("vdsr_ca", depth=3)))
        ['front end', 'channel attention']
    """
    found = {"front end": Part((front_end,), enlarged)}
    attention = tuple(module for module in front_end.modules() if isinstance(module, ChannelAttention))
    return found | ({"channel attention": Part(attention, its_input)} if attention else {})
