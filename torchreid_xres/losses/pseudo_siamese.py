"""Pseudo-siamese loss of PS-HRNet: the student's outputs follow the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pseudo_siamese_loss(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], terms: Sequence[str]) -> Tensor:
    """Return the sum over the chosen outputs of the mean absolute difference.

    G. Zhang et al., "Deep High-Resolution Representation Learning for Cross-Resolution Person Re-Identification",
    IEEE TIP 2021, eq. 11. The paper's equation sums over a batch; as its published code we take the mean.

    Args:
        teacher: output name -> tensor; no gradient goes there.
        student: the same names and shapes.
        terms: the names to compare, C in the equation.

    Returns:
        A scalar, 0 where both agree.

    Raises:
        ValueError: for no terms, or one that is no output.

    Example:
        >>> pseudo_siamese_loss({"a": torch.zeros(2)}, {"a": torch.tensor([1.0, -3.0])}, ["a"])
        tensor(2.)
    """
    unknown = [term for term in terms if term not in student]
    if unknown or not terms:
        raise ValueError(f"terms of the pseudo-siamese loss are some of {', '.join(student)}, not {list(terms)}")
    losses = [F.l1_loss(student[term].float(), teacher[term].detach().float()) for term in terms]
    return torch.stack(losses).sum()
