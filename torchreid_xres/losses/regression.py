"""Absolute distillation: a feature of a degraded image is to be that of the sharp one."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def regression(query: Tensor, gallery: Tensor) -> Tensor:
    """Return the mean over images of 1 - cosine of a feature and the one it is to be.

    The regression of M. Budnik, Y. Avrithis, "Asymmetric metric learning for knowledge transfer", CVPR 2021, as used
    across resolutions by P. Suma, G. Tolias, "Large-to-small image resolution asymmetry in deep metric learning",
    WACV 2023.

    Args:
        query: (N, D), of the degraded images; computed in float32 whatever the type.
        gallery: (N, D), of the same images when sharp; gets no gradient.

    Returns:
        A scalar from 0 to 2.

    Example:
        >>> import torch
        >>> regression(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor(0.5000)
    """
    return (1 - F.cosine_similarity(query.float(), gallery.detach().float(), dim=1)).mean()
