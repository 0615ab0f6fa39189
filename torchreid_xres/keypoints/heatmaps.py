"""Heat maps of keypoints: the targets a network learns, the filter of invisible points, and the way back to points.

Equations: A. Zheng et al., "Keypoint-guided feature enhancement and alignment for cross-resolution vehicle
re-identification" (KGNet), Engineering Applications of Artificial Intelligence 2025, Section 3.2. Points are fractions
of the picture's width and height, so they hold at every size; a cell of a map stands for the part of the picture that
it covers, and its coordinates for the centre of that part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchreid_xres.losses.pixelwise import PIXELWISE


def to_cells(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Return where fractions of a picture lie in a map: 0 is the centre of the first cell, W - 1 that of the last.

    Args:
        points: (..., 2), x and y in [0, 1]; what is negative (not visible) comes out as (0, 0), as Eq. 1 has it.
        size: height and width of the map.

    Example:
        >>> to_cells(torch.tensor([[0.5, 0.25], [-1.0, -1.0]]), (32, 32))
        tensor([[15.5000,  7.5000],
                [ 0.0000,  0.0000]])
    """
    x, y = points.unbind(-1)
    cells = torch.stack((x * size[1], y * size[0]), dim=-1) - 0.5
    return cells.masked_fill(points[..., :1] < 0, 0)


def to_fractions(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the inverse of :func:`to_cells` for visible points: (..., 2) cells to fractions."""
    column, row = (cells.float() + 0.5).unbind(-1)
    return torch.stack((column / size[1], row / size[0]), dim=-1)


def gaussian_maps(points: Tensor, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
    """Return the target heat maps of Eq. 1: a Gaussian at each point, in the corner (0, 0) for what is not visible.

    Args:
        points: (N, K, 2), fractions; -1 -1 where not visible.
        size: height and width of the maps.
        sigma: in cells.

    Returns:
        (N, K, H, W) in [0, 1]; 1 where a point lies at a cell's centre.

    Example:
        >>> gaussian_maps(torch.tensor([[[0.625, 0.125]]]), (4, 4))[0, 0, 0]
        tensor([0.1353, 0.6065, 1.0000, 0.6065])
    """
    x, y = to_cells(points, size).unbind(-1)
    columns = torch.arange(size[1], device=points.device)
    rows = torch.arange(size[0], device=points.device)
    # Eq. 1, which factors into a row and a column: (N, K, H, 1) * (N, K, 1, W)
    across = torch.exp(-((columns - x[..., None]) ** 2) / (2 * sigma**2))
    down = torch.exp(-((rows - y[..., None]) ** 2) / (2 * sigma**2))
    return down[..., :, None] * across[..., None, :]


def binary_maps(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the maps that KGNet's Gaussians replace: 1 in the visible point's cell, 0 elsewhere.

    They are those of P. Khorramshahi et al., "A dual-path model with adaptive attention for vehicle
    re-identification" (AAVER), ICCV 2019.

    Args:
        points: (N, K, 2), fractions; -1 -1 where not visible.
        size: height and width of the maps.

    Returns:
        (N, K, H, W), 0 or 1.

    Example:
        >>> binary_maps(torch.tensor([[[0.7, 0.1]]]), (4, 4))[0, 0, 0]
        tensor([0., 0., 1., 0.])
    """
    H, W = size
    # A point on the right or lower border of the picture is in the last cell.
    column, row = (
        (points[..., axis] * side).long().clamp(0, side - 1) for axis, side in enumerate((W, H))
    )
    visible = (points[..., 0] >= 0).to(points.dtype)
    maps = points.new_zeros(*points.shape[:-1], H * W)
    return maps.scatter_(-1, (row * W + column)[..., None], visible[..., None]).unflatten(-1, (H, W))


TARGETS = {"gaussian": gaussian_maps, "binary": binary_maps}


def heatmap_loss(outputs: Sequence[Tensor], target: Tensor, loss: str = "l1") -> Tensor:
    """Return the regression loss of Eq. 2 with intermediate supervision.

    Summed over points and cells as in Eq. 2, then the mean over the batch and the sum over the stacks.

    Args:
        outputs: the maps (N, K, H, W) of each stack.
        target: (N, K, H, W).
        loss: ``l1`` as in Eq. 2; ``mse`` squares the differences instead (the median of a sparse map is zero, so
            ``l1`` may stay there for long when a point's place is uncertain).

    Raises:
        ValueError: for another loss.
    """
    if loss not in PIXELWISE:
        raise ValueError(f"no heat map loss {loss!r}; there are: {', '.join(PIXELWISE)}")
    distance = PIXELWISE[loss]
    stacks = [distance(maps.float(), target, reduction="sum") for maps in outputs]
    return torch.stack(stacks).sum() / max(len(target), 1)


def peaks(maps: Tensor) -> Tensor:
    """Return the cell of each map's maximum, the first of equals: (N, K, H, W) to (N, K, 2) of column and row."""
    first = maps.flatten(-2).argmax(-1)
    return torch.stack((first % maps.shape[-1], first // maps.shape[-1]), dim=-1)


def to_points(maps: Tensor) -> Tensor:
    """Return the points where the maps are largest: (N, K, H, W) to fractions (N, K, 2) of width and height."""
    return to_fractions(peaks(maps), (maps.shape[-2], maps.shape[-1]))


def hidden(maps: Tensor, targets: str = "gaussian", tolerance: float = 0.0) -> Tensor:
    """Return which points the maps say are not visible.

    Args:
        maps: (N, K, H, W).
        targets: what the maps were trained to be. ``gaussian``: the maximum is at (0, 0), the condition of Eq. 3.
            ``binary``: the map sums to less than a half (trained under ``mse``, a cell holds the chance that the point
            is in it).
        tolerance: ``gaussian`` only: the maximum may be this many cells away from (0, 0).

    Returns:
        bool (N, K).

    Raises:
        ValueError: for other targets.
    """
    if targets == "binary":
        return maps.sum((-2, -1)) < 0.5
    if targets == "gaussian":
        return peaks(maps).float().norm(dim=-1) <= tolerance
    raise ValueError(f"no targets {targets!r}; there are: {', '.join(TARGETS)}")


def filter_hidden(maps: Tensor, tolerance: float = 0.0) -> Tensor:
    """Return the maps with those of invisible points set to zero (Eq. 3).

    Args:
        maps: (N, K, H, W); binary ones pass unchanged but for a point in the corner cell.
        tolerance: how many cells from (0, 0) a maximum still counts as there; the equation has 0.

    Example:
        >>> maps = gaussian_maps(torch.tensor([[[0.4, 0.6], [-1.0, -1.0]]]), (8, 8))
        >>> filter_hidden(maps).sum((-2, -1)) > 0
        tensor([[ True, False]])
    """
    return maps.masked_fill(hidden(maps, tolerance=tolerance)[..., None, None], 0)
