"""How good predicted keypoints are: PCK, and how often they are rightly called visible."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def correct(predicted: Tensor, truth: Tensor, alpha: float = 0.1) -> Tensor:
    """Return which points are found: within ``alpha`` of the true place, in sides of the square network input.

    The criterion of Y. Yang, D. Ramanan, "Articulated human detection with flexible mixtures of parts", TPAMI 2013,
    with the vehicle's box, which the picture is, as the reference length.

    Args:
        predicted: (N, K, 2), fractions of width and height.
        truth: (N, K, 2), -1 -1 where a point is not visible; such points are never found.
        alpha: largest distance, as a fraction.

    Returns:
        bool (N, K).
    """
    return (truth[..., 0] >= 0) & ((predicted - truth).norm(dim=-1) <= alpha)


def pck(predicted: Tensor, truth: Tensor, alpha: float = 0.1) -> Tensor:
    """Return the percentage of correct keypoints among those that are visible.

    Args:
        predicted: (N, K, 2), fractions of width and height.
        truth: (N, K, 2), -1 -1 where a point is not visible.
        alpha: largest distance, in sides of the square network input.

    Returns:
        In per cent, (); nan if no point is visible.

    Example:
        >>> import torch
        >>> truth = torch.tensor([[[0.5, 0.5], [0.2, 0.2], [-1.0, -1.0]]])
        >>> pck(torch.tensor([[[0.55, 0.5], [0.2, 0.9], [0.0, 0.0]]]), truth)
        tensor(50.)
    """
    return _share(correct(predicted, truth, alpha).sum(), (truth[..., 0] >= 0).sum())


def visibility_accuracy(hidden: Tensor, truth: Tensor) -> Tensor:
    """Return how many points are rightly called visible or not, in per cent, ().

    Args:
        hidden: bool (N, K), the points predicted not to be visible.
        truth: (N, K, 2), -1 -1 where a point is not visible.

    Example:
        >>> import torch
        >>> visibility_accuracy(torch.tensor([[True, True]]), torch.tensor([[[-1.0, -1.0], [0.5, 0.5]]]))
        tensor(50.)
    """
    return _share((hidden == (truth[..., 0] < 0)).sum(), hidden.numel())


def pck_by_point(predicted: Tensor, truth: Tensor, names: Sequence[str], alpha: float = 0.1) -> dict[str, float]:
    """Return :func:`pck` for each point by name; points that no picture shows are left out."""
    found, visible = correct(predicted, truth, alpha).sum(0), (truth[..., 0] >= 0).sum(0)
    return {name: _share(f, v).item() for name, f, v in zip(names, found, visible, strict=True) if v}


def _share(part: Tensor, whole: Tensor | int) -> Tensor:
    return 100 * part / whole
