"""Identity losses of several parts of an image, each with its own feature and its own classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.losses.batch_hard import batch_hard_triplet


def part_cross_entropy(logits: Tensor, pids: Tensor, smoothing: float = 0.1) -> Tensor:
    """Return the cross entropy with smoothed labels, mean over images, summed over parts.

    "Multi-Scale Image- and Feature-Level Alignment for Cross-Resolution Person Re-Identification" (MSIFLA), Remote
    Sensing 16(2):278, 2024, equations 8 to 11: the true class gets 1 - smoothing + smoothing / C, any other
    smoothing / C. The paper does not say its smoothing.

    Args:
        logits: (N, P, C), before the softmax; computed in float32 whatever the type.
        pids: (N,), 0 to C - 1.
        smoothing: epsilon, 0 to 1.

    Returns:
        A scalar.

    Example:
        >>> part_cross_entropy(torch.zeros(2, 4, 8), torch.tensor([0, 5])) / torch.tensor(8.0).log()
        tensor(4.)
    """
    # (N, P, C) -> (N, C, P), as cross_entropy has positions
    every = F.cross_entropy(
        logits.float().mT, pids[:, None].expand(logits.shape[:2]), label_smoothing=smoothing, reduction="none"
    )
    return every.sum(dim=1).mean()


def part_triplet(parts: Tensor, pids: Tensor, margin: float = 0.5) -> Tensor:
    """Return the batch-hard triplet loss of each part (with its own hardest images), summed.

    MSIFLA (as above), equation 12; margin 0.5 is the paper's.

    Args:
        parts: (N, P, D), features; computed in float32 whatever the type.
        pids: (N,), at least two identities.
        margin: m.

    Returns:
        A scalar; nan if the batch holds a single identity.

    Example:
        >>> part_triplet(torch.tensor([[0.0], [1.0], [3.0], [3.0]])[:, None].expand(4, 2, 1),
        ...              torch.tensor([0, 0, 1, 1]), margin=1.5)
        tensor(0.2500)
    """
    return torch.stack([batch_hard_triplet(part, pids, margin) for part in parts.unbind(dim=1)]).sum()
