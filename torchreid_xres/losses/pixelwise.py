"""The pixel-wise losses of images and heat maps, by the names that configurations give them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.image import IMAGENET_STD
from torchreid_xres.tensors import constant


def mse_imagenet(restored: Tensor, original: Tensor) -> Tensor:
    """Return the mean squared difference of images (N, 3, H, W) in [0, 1] as re-ID networks see them, normalised.

    Example:
        >>> import torch
        >>> round(mse_imagenet(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)).item(), 3)
        0.196
    """
    scale = constant(IMAGENET_STD, restored.dtype, restored.device)[:, None, None]
    return F.mse_loss(restored / scale, original / scale)


# Mean absolute and mean squared difference; of images the latter also in the units that networks see.
PIXELWISE = {"l1": F.l1_loss, "mse": F.mse_loss}
OF_IMAGES = {**PIXELWISE, "mse_imagenet": mse_imagenet}
