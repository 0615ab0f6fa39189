"""Weighted regularised triplet loss: all pairs of an anchor, the hard ones weighing more, and no margin."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def weighted_regularised_triplet(features: Tensor, pids: Tensor) -> Tensor:
    """Return the mean over anchors i of log(1 + exp(sum_j w^p_ij d_ij - sum_k w^n_ik d_ik)).

    M. Ye et al., "Deep Learning for Person Re-Identification: A Survey and Outlook", TPAMI 2021; equation 8 of DGRL
    (X. Ye, G. Gao). w^p is the softmax of the Euclidean distances to the positives, w^n that of the negated distances
    to the negatives; gradients go through both. As in the published code, the anchor is among its own positives.

    Args:
        features: (N, D), N >= 2, not normalised; computed in float32 whatever the type.
        pids: (N,) identities, at least two different ones.

    Returns:
        A scalar; nan if the batch holds a single identity, so that there is no negative.

    Example:
        >>> weighted_regularised_triplet(torch.tensor([[0.0], [0.0], [3.0], [3.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(0.0486)
    """
    same = pids[:, None] == pids  # (N, N)
    with torch.autocast(features.device.type, enabled=False):
        # The exact differences, not |a|^2 + |b|^2 - 2ab: equal features must give 0 and a finite gradient.
        distances = torch.cdist(features.float(), features.float(), compute_mode="donot_use_mm_for_euclid_dist")
        positive = distances.masked_fill(~same, -torch.inf).softmax(dim=1)  # w^p, 0 for negatives
        negative = (-distances).masked_fill(same, -torch.inf).softmax(dim=1)  # w^n, 0 for positives
        return F.softplus(((positive - negative) * distances).sum(dim=1)).mean()
