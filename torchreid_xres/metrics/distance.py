"""Distances between query and gallery features: the whole matrix, or a band of query rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

METRICS = ("euclidean", "cosine")

# Below this many rows BLAS picks other kernels, whose rounding differs from the one-piece product's.
MIN_ROWS = 32
# Large enough that packing the gallery for each product is cheap, small enough to stay in a shared cache.
_TILE_BYTES = 16 << 20
_NORM_ROWS = 1024


def distance_matrix(qf: Tensor, gf: Tensor, metric: str = "euclidean") -> Tensor:
    """Return all distances between query and gallery features, equal to the host's.

    Args:
        qf: query features (Q, D), any float type; halves are computed in float32, also under autocast.
        gf: gallery features (G, D), on the same device.
        metric: ``"euclidean"``, which is SQUARED Euclidean as in the host, or ``"cosine"``: one minus the
            cosine, 0 to 2.

    Returns:
        Tensor (Q, G), float32 (float64 if either input is).

    Raises:
        ValueError: for an unknown metric, shapes that do not fit, or features that are not finite.

    Example:
        >>> distance_matrix(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [[25.0, 1.0]]
    """
    return _block(*_prepare(qf, gf, metric))


def distance_tiles(
    qf: Tensor, gf: Tensor, metric: str = "euclidean", tile: int | None = None
) -> Iterator[Tensor]:
    """Yield the distance matrix in bands of query rows, from the first query to the last.

    Every band has at least 32 rows (unless there are fewer queries), so that the values are those of the
    one-piece product: a short last band joins the one before. All bands share one buffer: copy a band
    that must outlive the next. Beside it only the gallery's norms are held; ``"cosine"`` and half
    precision need a converted copy of the features.

    Args:
        qf, gf, metric: as for :func:`distance_matrix`.
        tile: query rows in a band, 32 or more; ``None`` takes about 16 MB of distances.

    Raises:
        ValueError: as :func:`distance_matrix`, and for a smaller tile.

    Example:
        >>> [len(band) for band in distance_tiles(torch.rand(70, 8), torch.rand(5, 8), tile=32)]
        [32, 38]
    """
    if tile is not None and tile < MIN_ROWS:
        raise ValueError(f"tile is {tile} query rows; at least {MIN_ROWS} are needed for exact distances")
    query, gallery = _prepare(qf.detach(), gf.detach(), metric)
    return _bands(query, gallery, tile or rows_of_tile(gallery.features))


def rows_of_tile(gf: Tensor) -> int:
    """Return how many queries are compared at a time with gallery features (G, D): about 16 MB of distances."""
    return min(max(MIN_ROWS, _TILE_BYTES // (len(gf) * gf.element_size())), 512)


def _bands(query: _Side, gallery: _Side, rows: int) -> Iterator[Tensor]:
    total = len(query.features)
    edges = [*range(0, total, rows), total]
    if len(edges) > 2 and edges[-1] - edges[-2] < MIN_ROWS:
        del edges[-2]
    longest = max(stop - start for start, stop in pairwise(edges))
    buffer = query.features.new_empty(longest, len(gallery.features))
    for start, stop in pairwise(edges):
        band = _Side(*(part if part is None else part[start:stop] for part in query))
        yield _block(band, gallery, out=buffer[: stop - start])


class _Side(NamedTuple):
    """One factor of the product; the squared norms only where the metric adds them."""

    features: Tensor
    squares: Tensor | None


def _prepare(qf: Tensor, gf: Tensor, metric: str) -> tuple[_Side, _Side]:
    require_fitting(qf, gf, metric)
    dtype = torch.promote_types(torch.promote_types(qf.dtype, gf.dtype), torch.float32)
    query = _side(qf.to(dtype), "query", metric)
    return query, query if gf is qf else _side(gf.to(dtype), "gallery", metric)


def require_fitting(qf: Tensor, gf: Tensor, metric: str) -> None:
    """Refuse features that no distances can be between.

    Raises:
        ValueError: for an unknown metric, or shapes that do not fit.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown distance metric {metric!r}; there are: {', '.join(METRICS)}")
    if qf.ndim != 2 or gf.ndim != 2 or qf.shape[1] != gf.shape[1] or not len(qf) or not len(gf):
        raise ValueError(
            "query and gallery features must be (Q, D) and (G, D) with one D and Q, G >= 1, "
            f"not {tuple(qf.shape)} and {tuple(gf.shape)}"
        )


def squared_norms(features: Tensor, role: str) -> Tensor:
    """Return the squared lengths (N,) of features (N, D).

    Raises:
        ValueError: if one is not finite; the message calls them the features of ``role``.
    """
    with torch.autocast(features.device.type, enabled=False):
        # In chunks: a temporary of the features' own size would be the largest thing in memory here.
        squares = torch.cat([chunk.pow(2).sum(dim=1) for chunk in features.split(_NORM_ROWS)])
    broken = (~torch.isfinite(squares)).nonzero().flatten()
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(features)} {role} features hold NaN, infinity or values whose square "
            f"overflows {str(features.dtype).removeprefix('torch.')} (first: row {broken[0].item()})"
        )
    return squares


def _side(features: Tensor, role: str, metric: str) -> _Side:
    squares = squared_norms(features, role)
    if metric == "cosine":
        return _Side(F.normalize(features, p=2, dim=1), None)
    return _Side(features, squares)


def _block(query: _Side, gallery: _Side, out: Tensor | None = None) -> Tensor:
    """Distances of some queries to the whole gallery, in the host's order of operations (same bits)."""
    with torch.autocast(query.features.device.type, enabled=False):
        if query.squares is None:
            dots = torch.mm(query.features, gallery.features.t(), out=out)
            return torch.sub(dots.new_ones(()), dots, out=out)
        sums = torch.add(query.squares[:, None], gallery.squares, out=out)
        return sums.addmm_(query.features, gallery.features.t(), beta=1, alpha=-2)
