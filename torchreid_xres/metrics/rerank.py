"""k-reciprocal re-ranking, sparse and in bands: distances that also say who is near whom among the nearest.

Z. Zhong, L. Zheng, D. Cao, S. Li, "Re-ranking person re-identification with k-reciprocal encoding", CVPR 2017; their
sections are named at the lines that compute them.

All N = Q + G images are compared, but no N x N matrix is held: a band of rows gives each image's nearest neighbours,
and all that follows lives on those, in sparse matrices with a few dozen entries a row. Of equally distant images the
one with the lower index (queries first) is the nearer, so that the result does not depend on the processor.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from torchreid_xres.metrics.distance import MIN_ROWS, distance_tiles, squared_norms

# Distances held together: large enough that the product of a band costs more than passing over the gallery for it.
_BAND_BYTES = 64 << 20
_MAX_ROWS = 512
# Shared neighbours looked at together.
_PAIRS = 1 << 20


def reranked_distances(
    qf: Tensor, gf: Tensor, metric: str = "euclidean", k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> np.ndarray:
    """Return k-reciprocal distances made from features.

    Beside the result and one joined copy of the features (two for ``"cosine"``) some 100 MB are held. The products run
    on the features' device, the sparse part on the CPU. Distances are those of :func:`re_ranking` as long as rounding
    does not change who is a neighbour: a product of other shape may differ in the last bit, and where an image's k-th
    and next neighbour are as close as that, they may change places (``benchmarks/reranking.py`` counts the entries that
    this moves, and compares mAP).

    Args:
        qf: query features (Q, D), any float type.
        gf: gallery features (G, D), on the same device.
        metric: what they are compared by, see :func:`torchreid_xres.metrics.distance_matrix`.
        k1: neighbours among which reciprocal ones are looked for.
        k2: neighbours whose encodings are averaged (local query expansion); 1 for none.
        lambda_value: weight of the original distance, 0 to 1; the Jaccard distance has the rest.

    Returns:
        float32 (Q, G), 0 to 1.

    Raises:
        ValueError: as :func:`torchreid_xres.metrics.distance_matrix`, or for settings out of range.

    Example:
        >>> query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [0.9], [9.0]])
        >>> reranked_distances(query, gallery, k1=2, k2=1).round(2)
        array([[0., 0., 1.]], dtype=float32)
    """
    source = _FromFeatures(qf, gf, metric)
    return _reranked(source, len(qf), k1, k2, lambda_value)


def re_ranking(
    q_g_dist: np.ndarray,
    q_q_dist: np.ndarray,
    g_g_dist: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """Return k-reciprocal distances made from distances: the host's ``re_ranking``, argument for argument.

    The result is the host's to float32 rounding, where its unstable sort leaves nothing to chance. As there, the given
    distances are squared and divided by the largest of each image.

    Args:
        q_g_dist: distances between queries and gallery (Q, G).
        q_q_dist: within the queries (Q, Q).
        g_g_dist: within the gallery (G, G).
        k1, k2, lambda_value: as for :func:`reranked_distances`.

    Returns:
        float32 (Q, G), 0 to 1.

    Raises:
        ValueError: for shapes that do not fit, NaN, distances whose square overflows, or settings out of range.
    """
    source = _FromDistances(*map(np.asarray, (q_g_dist, q_q_dist, g_g_dist)))
    return _reranked(source, len(q_g_dist), k1, k2, lambda_value)


class _Source(Protocol):
    """Distances between all N images, the queries first."""

    total: int

    def bands(self) -> Iterator[Tensor]:
        """Yield (rows, N) distances from consecutive images to all, in a buffer that may be written to."""

    def pairs(self, pattern: sparse.csr_array) -> np.ndarray:
        """Return the distances at the entries of a pattern (N, N), in their order."""


class _FromFeatures:
    def __init__(self, qf: Tensor, gf: Tensor, metric: str) -> None:
        if qf.ndim != 2 or gf.ndim != 2 or qf.shape[1] != gf.shape[1]:
            raise ValueError(
                f"query and gallery features must be (Q, D) and (G, D) with one D, not {tuple(qf.shape)} and "
                f"{tuple(gf.shape)}"
            )
        dtype = torch.promote_types(torch.promote_types(qf.dtype, gf.dtype), torch.float32)
        self.features = torch.cat([qf.detach().to(dtype), gf.detach().to(dtype)])
        self.total, self.metric = len(self.features), metric
        parts = zip(self.features.split([len(qf), len(gf)]), ("query", "gallery"), strict=True)
        self.squares = torch.cat([squared_norms(*part) for part in parts]).cpu().numpy()

    def bands(self) -> Iterator[Tensor]:
        rows = min(max(MIN_ROWS, _BAND_BYTES // (self.total * self.features.element_size())), _MAX_ROWS)
        return distance_tiles(self.features, self.features, self.metric, rows)

    def pairs(self, pattern: sparse.csr_array) -> np.ndarray:
        features = self.features
        row, column = _row_of(pattern), pattern.indices
        with warnings.catch_warnings(), torch.autocast(features.device.type, enabled=False):
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            layout = (torch.from_numpy(part).to(features.device) for part in (pattern.indptr, column))
            zeros = features.new_zeros(pattern.nnz)
            wanted = torch.sparse_csr_tensor(*layout, zeros, size=(self.total, self.total), check_invariants=True)
            dots = torch.sparse.sampled_addmm(wanted, features, features.t(), beta=0.0).values().cpu().numpy()
        if self.metric == "cosine":
            lengths = np.maximum(np.sqrt(self.squares), 1e-12)
            return 1 - dots / (lengths[row] * lengths[column])
        return self.squares[row] + self.squares[column] - 2 * dots


class _FromDistances:
    """As in the host, an image's distances are its column where the matrices given are not symmetric."""

    def __init__(self, q_g: np.ndarray, q_q: np.ndarray, g_g: np.ndarray) -> None:
        if q_g.ndim != 2 or q_q.shape != (len(q_g),) * 2 or g_g.shape != (q_g.shape[1],) * 2:
            raise ValueError(
                f"distances must be (Q, G), (Q, Q) and (G, G), not {q_g.shape}, {q_q.shape} and {g_g.shape}"
            )
        self.q_g, self.q_q, self.g_g = q_g, q_q, g_g
        self.num_query, self.total = len(q_g), sum(q_g.shape)
        self.dtype = np.result_type(q_g, q_q, g_g, np.float32)

    def bands(self) -> Iterator[Tensor]:
        rows = min(max(1, _BAND_BYTES // (self.total * self.dtype.itemsize)), _MAX_ROWS)
        for to_query, to_gallery in ((self.q_q.T, self.q_g), (self.q_g.T, self.g_g.T)):
            for start in range(0, len(to_query), rows):
                part = slice(start, start + rows)
                yield torch.from_numpy(np.hstack([to_query[part], to_gallery[part]], dtype=self.dtype))

    def pairs(self, pattern: sparse.csr_array) -> np.ndarray:
        row, column = _row_of(pattern), pattern.indices
        found = np.empty(pattern.nnz, dtype=self.dtype)
        from_gallery, to_gallery = row >= self.num_query, column >= self.num_query
        row, column = row - self.num_query * from_gallery, column - self.num_query * to_gallery
        for here, matrix, i, j in (
            (~from_gallery & ~to_gallery, self.q_q, column, row),
            (~from_gallery & to_gallery, self.q_g, row, column),
            (from_gallery & ~to_gallery, self.q_g, column, row),
            (from_gallery & to_gallery, self.g_g, column, row),
        ):
            found[here] = matrix[i[here], j[here]]
        return found


def _reranked(source: _Source, num_query: int, k1: int, k2: int, lambda_value: float) -> np.ndarray:
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(
            f"k1 is {k1}, k2 is {k2}, lambda_value is {lambda_value}; re-ranking needs k1 and k2 of at least 1 and a "
            "weight from 0 to 1"
        )
    final = np.empty((num_query, source.total - num_query), dtype=np.float32)
    nearest, largest = _first_pass(source, max(k1 + 1, k2), final)
    pattern = _reciprocal_sets(nearest, k1)
    distances = np.square(source.pairs(pattern)).astype(np.float32) / largest[_row_of(pattern)]
    encoded = _encoded(pattern, distances, nearest[:, :k2])
    # Section 3.5: d* = (1 - lambda) d_J + lambda d; here d_J = 1, which most images keep.
    final *= np.float32(lambda_value)
    final += np.float32(1 - lambda_value)
    _bring_neighbours_closer(final, encoded, 1 - lambda_value)
    return final


def _first_pass(source: _Source, count: int, query_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's nearest (N, count) and largest squared distance (N,); fill in the queries' (Q, G)."""
    nearest, largest = [], []
    num_query, start = len(query_rows), 0
    for band in source.bands():
        squared = band.square_().float()
        peak = squared.amax(dim=1)  # passes NaN on
        broken = (~torch.isfinite(peak)).nonzero().flatten()
        if len(broken):
            bad = start + broken[0].item()
            where = f"query {bad}" if bad < num_query else f"gallery image {bad - num_query}"
            raise ValueError(f"the distances of {where} hold NaN, or values whose square overflows float32")
        peak.clamp_(min=torch.finfo(torch.float32).tiny)  # all distances 0: they stay 0
        squared /= peak[:, None]
        nearest.append(_lowest(squared, count).int().cpu().numpy())
        largest.append(peak.cpu().numpy())
        if start < num_query:
            queries = slice(start, min(start + len(squared), num_query))
            query_rows[queries] = squared[: queries.stop - start, num_query:].cpu().numpy()
        start += len(squared)
    return np.concatenate(nearest), np.concatenate(largest)


def _lowest(distances: Tensor, count: int) -> Tensor:
    """Return the columns of each row's lowest values, ascending, of equal ones the first."""
    count = min(count, distances.shape[1])
    found = distances.topk(min(count + 1, distances.shape[1]), largest=False)
    columns = found.indices[:, :count]
    if count < distances.shape[1]:
        # topk leaves it open which of the values equal to the last it takes.
        open_end = (found.values[:, count - 1] == found.values[:, count]).nonzero().flatten()
        for rows in open_end.split(MIN_ROWS):
            columns[rows] = distances[rows].argsort(dim=1, stable=True)[:, :count]
    columns = columns.sort(dim=1).values
    return columns.gather(1, distances.gather(1, columns).argsort(dim=1, stable=True))


def _reciprocal_sets(nearest: np.ndarray, k1: int) -> sparse.csr_array:
    """Return the sets R* (N, N): who is in whose."""
    # Section 3.2: N(p, k), and R(p, k) = {g in N(p, k): p in N(g, k)}; an image is its own neighbour.
    near = _indicator(nearest[:, : k1 + 1])
    reciprocal = near.multiply(near.T).tocsr()
    near = _indicator(nearest[:, : int(np.around(k1 / 2)) + 1])
    half = near.multiply(near.T).tocsr()
    # R* = R(p, k) and all R(q, k/2) of q in R(p, k) with |R(p, k) and R(q, k/2)| >= 2/3 |R(q, k/2)|; ">" in the code
    # that its authors published.
    shared = (reciprocal @ half.T).multiply(reciprocal).tocsr()
    size = np.diff(half.indptr)
    shared.data = (shared.data > 2.0 / 3 * size[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    sets = (reciprocal + shared @ half).tocsr()
    sets.sort_indices()
    return sets


def _encoded(pattern: sparse.csr_array, distances: np.ndarray, expansion: np.ndarray) -> sparse.csr_array:
    """Return the encodings V (N, N): section 3.3, V_p,g = exp(-d(p, g)) for g in R*(p), rows scaled to a sum of 1."""
    encoded = sparse.csr_array((np.exp(-distances), pattern.indices, pattern.indptr), shape=pattern.shape)
    # Duplicates of an image can push it out of its own neighbours, so that its set is empty.
    sums = encoded.sum(axis=1)
    encoded.data /= np.maximum(sums, np.finfo(np.float32).tiny)[_row_of(encoded)]
    if expansion.shape[1] > 1:
        # Section 3.4: the mean of the encodings of N(p, k2).
        encoded = _indicator(expansion).astype(np.float32) @ encoded
        encoded.data /= np.float32(expansion.shape[1])
    return encoded


def _bring_neighbours_closer(final: np.ndarray, encoded: sparse.csr_array, weight: float) -> None:
    """Take ``weight`` times the Jaccard similarity off the distances (Q, G), where there is any.

    Section 3.3: d_J(p, g) = 1 - sum min(V_p, V_g) / sum max(V_p, V_g). Each row of V sums to 1, so the second sum is 2
    minus the first. Only gallery images that hold one of the query's neighbours have a first sum.
    """
    num_query, num_gallery = final.shape
    queries, holders = encoded[:num_query], encoded[num_query:].tocsc()
    held_by = np.diff(holders.indptr)
    work = np.append(0, held_by[queries.indices].cumsum())[queries.indptr]  # pairs before each query
    start = 0
    while start < num_query:
        stop = max(start + 1, np.searchsorted(work, work[start] + _PAIRS, side="right") - 1)
        stop = min(stop, start + max(1, _PAIRS // num_gallery), num_query)
        part = queries[start:stop]
        count = held_by[part.indices]
        first = holders.indptr[part.indices]
        at = np.arange(count.sum()) + np.repeat(first - (count.cumsum() - count), count)
        cell = holders.indices[at] + np.repeat(_row_of(part) * num_gallery, count)
        smaller = np.minimum(holders.data[at], np.repeat(part.data, count))
        common = np.bincount(cell, smaller, minlength=(stop - start) * num_gallery)
        cells = np.flatnonzero(common)
        common = common[cells]
        final[start:stop].reshape(-1)[cells] -= weight * common / (2 - common)
        start = stop


def _indicator(columns: np.ndarray) -> sparse.csr_array:
    """Return the matrix (N, N) with a 1 at some columns (N, k) of each row."""
    total, count = columns.shape
    starts = np.arange(0, total * count + 1, count)
    return sparse.csr_array((np.ones(total * count, np.int32), columns.flatten(), starts), shape=(total, total))


def _row_of(matrix: sparse.csr_array) -> np.ndarray:
    """Return the row of each entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
