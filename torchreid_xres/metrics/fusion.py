"""Distance fusion: the distances of several branches become one, as descriptors, as matrices, or by ranks.

The weighted sum is equation 3 of PRPR (Peng et al., "Pyramid-resolution person restoration for cross-resolution person
re-identification", Science China Information Sciences, 2024): one branch for the original images, one for each
restored size, D = w_ori D_ori + sum_j w_hj D_hj, where a branch's D are cosine distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchreid_xres.metrics.distance import METRICS

# The original images' branch counts twice as much as each restored one (PRPR's published code).
PRPR_WEIGHTS = (2.0, 1.0, 1.0, 1.0)
# Sums of integers do not depend on the order of adding, so that equal scores stay equal; exact in float64 up to 2^53.
_RANK_UNITS = 2**46


def default_weights(branches: int) -> tuple[float, ...]:
    """Return PRPR's 2:1:1:1 for four branches, the original images' first, and equal weights for another number.

    Example:
        >>> default_weights(4), default_weights(2)
        ((2.0, 1.0, 1.0, 1.0), (1.0, 1.0))
    """
    return PRPR_WEIGHTS if branches == len(PRPR_WEIGHTS) else (1.0,) * branches


def checked_weights(weights: Sequence[float] | Sequence[Sequence[float]] | Tensor, branches: int) -> Tensor:
    """Return fusion weights as a tensor, once they are such.

    Args:
        weights: one for each branch, (J,), or one for each query and branch, (Q, J); 0 or more, not all 0.
        branches: J, how many there must be.

    Returns:
        float64, on the CPU, in the shape given.

    Raises:
        ValueError: for another number of weights, a negative or infinite one, NaN, or none above 0.
    """
    found = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
    if found.ndim not in (1, 2) or found.shape[-1] != branches:
        raise ValueError(f"{branches} branches need {branches} weights each query, not the shape {tuple(found.shape)}")
    bad = ~torch.isfinite(found) | (found < 0)
    if bad.any():
        raise ValueError(f"fusion weights must be finite and not negative, not {found[bad].tolist()[:4]}")
    empty = (found == 0).all(dim=-1)
    if empty.any():
        where = "" if found.ndim == 1 else f", those of query {empty.nonzero()[0].item()} are"
        raise ValueError(f"fusion weights must not all be 0{where}: nothing would be left to rank by")
    return found


def fused_features(
    features: Sequence[Tensor], weights: Sequence[float] | Tensor, metric: str = "cosine"
) -> Tensor:
    """Return one descriptor of all branches whose squared Euclidean distance is the weighted sum of theirs.

    For unit vectors ``|a - b|^2 = 2 (1 - cos)``, so a branch's features, brought to length 1 and scaled by the square
    root of its weight, put 2 w_j D_j into the squared distance of the concatenation (PRPR, equation 3, times 2). So any
    ranking, re-ranking or vector index works on the fused distance; and as all descriptors have one length, the root of
    the weights' sum, it may as well compare them by cosine. A feature that is all 0 has no direction: it stays 0, and
    its distance to others is half of what it would be in :func:`fused_distances`.

    Args:
        features: (N, D_j) of each branch, rows in one order; float32 or wider (halves become float32).
        weights: (J,), 0 or more, not all 0; their scale does not matter to a ranking.
        metric: the branches' own distance: ``"cosine"``, or ``"euclidean"`` (squared, as in the host), whose features
            are not normalised and whose weighted sum the descriptors' squared distance is without the factor 2.

    Returns:
        (N, sum of D_j), to be compared by ``"euclidean"``.

    Raises:
        ValueError: for weights as :func:`checked_weights` says, branches of different lengths, an unknown metric.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([[2.0], [2.0]])
        >>> x, y = fused_features([a, b], weights=(2, 1))  # cosine distances: 1 and 0
        >>> round((x - y).square().sum().item(), 3)
        4.0
    """
    weights = _each_branch(weights, len(features))
    features = _prepared(features, metric)
    return torch.cat([root * part for root, part in zip(weights.sqrt(), features, strict=True)], dim=1)


def query_weighted_features(
    query: Sequence[Tensor], gallery: Sequence[Tensor], weights: Sequence[Sequence[float]] | Tensor
) -> tuple[Tensor, Tensor]:
    """Return descriptors of queries and gallery that rank by a cosine fusion with weights of each query's own.

    D_q = sum_j w_j(q) (1 - <q_j, g_j>) for unit vectors: all that depends on the gallery is the inner product of
    the concatenations of w_j(q) q_j and of g_j. The second always has the length sqrt(J), and a query's list does not
    change if its own descriptor is scaled. So both are brought to length 1, where one minus the cosine is
    ``1 + (D_q - sum_j w_j(q)) / (sqrt(J) |w(q)|)``: the fused distance but for a positive factor and a constant of the
    query. One length also makes distances within the queries or within the gallery (re-ranking) comparable.

    Squared Euclidean branches have no such form, as ``|g_j|^2`` is then weighted by the query.

    Args:
        query: (Q, D_j) of each branch.
        gallery: (G, D_j) of each branch.
        weights: (Q, J), 0 or more, not all 0 for any query.

    Returns:
        (Q, sum of D_j) and (G, sum of D_j), to be compared by ``"cosine"`` or ``"euclidean"``.

    Raises:
        ValueError: for weights as :func:`checked_weights` says, branches of different lengths, another number of
            weights than queries.
    """
    weights = checked_weights(weights, len(query))
    query, gallery = _prepared(query, "cosine"), _prepared(gallery, "cosine")
    if weights.shape != (len(query[0]), len(gallery)):
        raise ValueError(
            f"{len(query[0])} queries in {len(gallery)} branches need weights of that shape, not {tuple(weights.shape)}"
        )
    scaled = [weights[:, [j]].to(part) * part for j, part in enumerate(query)]
    return F.normalize(torch.cat(scaled, dim=1), dim=1), F.normalize(torch.cat(gallery, dim=1), dim=1)


def fused_distances(
    distances: Sequence[Tensor | np.ndarray], weights: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Return the weighted sum of distance matrices (PRPR, equation 3), of any kind of distance.

    Args:
        distances: (Q, G) of each branch.
        weights: (J,), or (Q, J) for weights of each query's own; ``None`` takes :func:`default_weights`.

    Returns:
        (Q, G), float32 or the widest type given.

    Raises:
        ValueError: for weights as :func:`checked_weights` says, or matrices of different shapes.

    Example:
        >>> fused_distances([torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]])], weights=(3, 1)).tolist()
        [[1.0, 4.0]]
    """
    distances = _of_one_shape(distances)
    weights = checked_weights(default_weights(len(distances)) if weights is None else weights, len(distances))
    if weights.ndim == 2 and len(weights) != len(distances[0]):
        raise ValueError(f"there are weights for {len(weights)} queries and distances of {len(distances[0])}")
    weights = weights.unsqueeze(-1).to(distances[0])  # (J, 1) or (Q, J, 1)
    total = torch.zeros_like(distances[0])
    for j, part in enumerate(distances):
        if weights[..., j, :].any():  # 0 times an infinite distance would be NaN
            total.addcmul_(part, weights[..., j, :])
    return total


def reciprocal_rank_distances(distances: Sequence[Tensor | np.ndarray], k: float = 60) -> Tensor:
    """Return reciprocal rank fusion as a distance: only the order of each branch's list counts, not its distances.

    An image's score is the sum over the branches of 1 / (k + rank), rank from 1; k keeps the first places of a single
    branch from deciding alone (Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and
    individual rank learning methods", SIGIR 2009; their k is 60). The distance is the highest score there can be minus
    the image's. Of equally distant images the first in the gallery's order has the better rank.

    Args:
        distances: (Q, G) of each branch, of any kind; or a band of their rows, as each query is fused for itself.
        k: 0 or more.

    Returns:
        (Q, G), float64, 0 to J / (k + 1); 0 = first in every branch's list.

    Raises:
        ValueError: for matrices of different shapes, NaN, or a negative ``k``.

    Example:
        >>> lists = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[7.0, 5.0, 9.0]])
        >>> reciprocal_rank_distances(lists).argsort(stable=True).tolist()  # ranks 1 and 2, 2 and 1, 3 and 3
        [[0, 1, 2]]
    """
    if not k >= 0:
        raise ValueError(f"k is {k}; reciprocal rank fusion needs 0 or more")
    distances = _of_one_shape(distances)
    ranks = torch.arange(1, distances[0].shape[1] + 1, dtype=torch.float64, device=distances[0].device)
    units = (_RANK_UNITS / (k + ranks)).round().long()
    scores = torch.zeros(distances[0].shape, dtype=torch.int64, device=distances[0].device)
    for j, part in enumerate(distances):
        if part.isnan().any():
            raise ValueError(f"the distances of branch {j} hold NaN, which has no rank")
        scores.scatter_add_(1, part.argsort(dim=1, stable=True), units.expand_as(scores))
    return (len(distances) * units[0] - scores).double() / _RANK_UNITS


@dataclass(frozen=True)
class SizeWeights:
    """Fusion weights that depend on a query's size: given at some sizes, in between linear in the logarithm.

    Smaller and larger queries than those get the weights of the nearest.

    Args:
        sides: square roots of height times width, pixels, ascending; (K,).
        weights: (K, J), 0 or more, not all 0; each size's are brought to a sum of 1, or the mean of two sizes' weights
            would be mostly that of the larger numbers.

    Raises:
        ValueError: for weights as :func:`checked_weights` says, or sides that do not ascend from above 0.

    Example:
        >>> weights = SizeWeights(sides=(32.0, 128.0), weights=((1.0, 0.0), (2.0, 2.0)))
        >>> weights([[16, 16], [128, 32], [400, 200]]).round(decimals=3).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.5, 0.5]]
    """

    sides: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0.0, *self.sides), self.sides, strict=False))
        if not self.sides or not rising or len(self.weights) != len(self.sides):
            raise ValueError(
                f"there must be weights for each of at least one side, ascending from above 0 pixels, not "
                f"{len(self.weights)} for {self.sides}"
            )
        found = checked_weights(self.weights, len(self.weights[0]))
        object.__setattr__(self, "weights", tuple(map(tuple, (found / found.sum(dim=1, keepdim=True)).tolist())))

    def __call__(self, sizes: np.ndarray | Tensor | Sequence[Sequence[float]]) -> Tensor:
        """Return the weights (Q, J), float64, of queries of some native sizes (Q, 2): height, width in pixels."""
        sides = np.log(np.asarray(sizes, dtype=np.float64).prod(axis=1)) / 2
        known = np.log(self.sides)
        columns = [np.interp(sides, known, column) for column in zip(*self.weights, strict=True)]
        return torch.from_numpy(np.stack(columns, axis=1))


def _each_branch(weights: Sequence[float] | Tensor, branches: int) -> Tensor:
    found = checked_weights(weights, branches)
    if found.ndim != 1:
        raise ValueError("weights of each query's own fit query_weighted_features, not fused_features")
    return found


def _prepared(features: Sequence[Tensor], metric: str) -> list[Tensor]:
    if metric not in METRICS:
        raise ValueError(f"unknown distance metric {metric!r}; there are: {', '.join(METRICS)}")
    for j, part in enumerate(features):
        if part.ndim != 2 or len(part) != len(features[0]):
            raise ValueError(
                f"branch {j} has features of the shape {tuple(part.shape)}, branch 0 of {tuple(features[0].shape)}: "
                "fusion needs (N, D) with one N, the same images in the same order"
            )
    features = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in features]
    return [F.normalize(part, dim=1) for part in features] if metric == "cosine" else features


def _of_one_shape(distances: Sequence[Tensor | np.ndarray]) -> list[Tensor]:
    if not len(distances):
        raise ValueError("there are no distances to fuse")
    found = [torch.as_tensor(part) for part in distances]
    for j, part in enumerate(found):
        if part.ndim != 2 or part.shape != found[0].shape:
            raise ValueError(
                f"branch {j} has distances of the shape {tuple(part.shape)}, branch 0 of {tuple(found[0].shape)}: "
                "fusion needs (Q, G) of the same queries and gallery images"
            )
    dtype = reduce(torch.promote_types, (part.dtype for part in found), torch.float32)
    return [part.to(dtype) for part in found]
