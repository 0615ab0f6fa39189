"""Mutual Kullback-Leibler loss: the branches of a network agree on what they see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F


def mutual_kl(logits: Sequence[Tensor]) -> Tensor:
    """Return the sum over ordered pairs i != j of D_KL(p_j || p_i), each the mean over images.

    Equations 10 to 12 of DGRL (X. Ye, G. Gao), which sum over images. As in DHM (D. Li, Q. Chen, "Dynamic hierarchical
    mimicking towards consistent optimization objectives", CVPR 2020) it is the mean, and p_j gets no gradient from a
    pair: it is what branch i learns from.

    Args:
        logits: of each branch, (N, C), before the softmax; computed in float32 whatever the type.

    Returns:
        A scalar, 0 where all agree, and for a single branch.

    Example:
        >>> mutual_kl([torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])])
        tensor(0.2311)
    """
    logs = [one.float().log_softmax(dim=1) for one in logits]  # eq. 10
    terms = [
        F.kl_div(mine, other.detach(), reduction="batchmean", log_target=True)  # eq. 11
        for mine, other in permutations(logs, 2)
    ]
    return torch.stack(terms).sum() if terms else logs[0].new_zeros(())  # eq. 12
