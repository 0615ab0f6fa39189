"""Multi-scale reconstruction loss of MSIFLA: whatever the input's resolution, each scale is one target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def multi_scale_reconstruction(images: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return, for each scale, the sum over the input versions of the mean squared error to the scale's target.

    "Multi-Scale Image- and Feature-Level Alignment for Cross-Resolution Person Re-Identification", Remote Sensing
    16(2):278, 2024, equations 1 to 3; their sum is equation 4. A squared norm is taken as its mean over images,
    channels and pixels.

    Args:
        images: a cascade's output at each scale, (V N, 3, H, W): the N images' first version, then their second, ...
        targets: what each scale is to show, (N, 3, H, W), in the same order.

    Returns:
        (scales,), float32.

    Raises:
        ValueError: if a scale has no target or does not hold whole versions of its target's images.

    Example:
        >>> versions = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1)  # two versions of one image of one pixel
        >>> multi_scale_reconstruction([versions, versions], [torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)])
        tensor([9., 5.])
    """
    if len(images) != len(targets):
        raise ValueError(f"{len(images)} scales need a target each, not {len(targets)}")
    losses = []
    for made, target in zip(images, targets, strict=True):
        versions = len(made) // max(1, len(target))
        if made.shape != (versions * len(target), *target.shape[1:]):
            raise ValueError(
                f"{tuple(made.shape)} are no versions of {tuple(target.shape)}: the first side must be a multiple, "
                "the others the same"
            )
        # (V, N, 3, H, W)
        made = made.float().unflatten(0, (versions, len(target)))
        # All versions have the same number of values, so V times the mean is the sum of V means.
        losses.append(versions * F.mse_loss(made, target.float().expand_as(made)))
    return torch.stack(losses)
