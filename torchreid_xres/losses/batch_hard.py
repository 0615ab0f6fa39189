"""Batch-hard triplet loss without a Python loop."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def batch_hard_triplet(
    features: Tensor, pids: Tensor, margin: float | None = 0.3, among: Tensor | None = None
) -> Tensor:
    """Return the mean over anchors of [margin + farthest positive - nearest negative]_+.

    A. Hermans, L. Beyer, B. Leibe, "In defense of the triplet loss for person re-identification", 2017, eq. 5;
    distances are Euclidean, not squared. An identity whose only image is the anchor has itself as its positive.

    Args:
        features: (N, D), N >= 2; computed in float32 whatever the type.
        pids: (N,) identities, at least two different ones.
        margin: m; None for the soft margin log(1 + exp(.)) in place of the hinge.
        among: (N, D), other views of the same images, from which positives and negatives are taken (M. Budnik, Y.
            Avrithis, "Asymmetric metric learning for knowledge transfer", CVPR 2021); None: ``features``.

    Returns:
        A scalar; nan if the batch holds a single identity, so that there is no negative.

    Example:
        >>> batch_hard_triplet(torch.tensor([[0.0], [1.0], [3.0], [3.0]]), torch.tensor([0, 0, 1, 1]), margin=1.5)
        tensor(0.1250)
    """
    same = pids[:, None] == pids  # (N, N)
    features = features.float()
    among = features if among is None else among.float()
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        # |a|^2 + |b|^2 - 2ab is good enough to say which are the hardest, and many times as fast as the differences;
        # but not far from the origin, where the difference of large numbers is all rounding.
        centre = among.mean(dim=0)
        rough = torch.cdist(features - centre, among - centre, compute_mode="use_mm_for_euclid_dist")
        positive = rough.masked_fill(~same, -torch.inf).argmax(dim=1)
        negative = rough.masked_fill(same, torch.inf).argmin(dim=1)
    # The exact differences, two for each anchor: equal features must give 0 and a finite gradient.
    positive, negative = ((features - among[i]).norm(dim=1) for i in (positive, negative))
    negative = negative.masked_fill(same.all(dim=1), torch.nan)  # an error would make a GPU wait for the answer
    if margin is None:
        return F.softplus(positive - negative).mean()
    return F.relu(margin + positive - negative).mean()
