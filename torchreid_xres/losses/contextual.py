"""Relational distillation: a degraded image is as near to others as the sharp one is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contextual_similarity(query: Tensor, gallery: Tensor, bank: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the mean over images of D_KL(p || q), p and q the softmax of similarities to a bank of gallery features.

    H. Wu, M. Wang, W. Zhou, H. Li, Q. Tian, "Contextual similarity distillation for asymmetric image retrieval", CVPR
    2022: p is of the gallery encoder's feature, q of the query encoder's. Similarities are cosines.

    Args:
        query: (N, D), of the degraded images; computed in float32 whatever the type.
        gallery: (N, D), of the same images when sharp; gets no gradient.
        bank: (M, D), features of sharp images.
        temperature: by which similarities are divided, above 0.

    Returns:
        A scalar, 0 where both see the bank alike.

    Example:
        >>> bank = torch.eye(2)
        >>> contextual_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), bank, temperature=1.0)
        tensor(0.4621)
    """
    bank = F.normalize(bank.detach().float(), dim=1)
    with torch.autocast(bank.device.type, enabled=False):  # a bfloat16 cosine over the temperature is off by 5 %
        wanted, found = (
            (F.normalize(one.float(), dim=1) @ bank.T / temperature).log_softmax(dim=1)  # (N, M)
            for one in (gallery.detach(), query)
        )
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)
