"""Fusion against slow loops written from the formulas, through our ranking, the host's, and its re-ranking."""

import copy

import numpy as np
import pytest
import torch

from torchreid_xres import host
from torchreid_xres.metrics import distance_matrix, rank_distances, rank_features
from torchreid_xres.metrics.fusion import (
    SizeWeights,
    default_weights,
    fused_distances,
    fused_features,
    query_weighted_features,
    reciprocal_rank_distances,
)
from torchreid_xres.metrics.rerank import reranked_distances

QUERIES, GALLERY = 40, 70
WIDTHS = (8, 16, 5)
WEIGHTS = (2.0, 0.5, 1.25)


@pytest.fixture
def case():
    """Features of three branches around the identities' centres, of different lengths; labels."""
    generator = torch.Generator().manual_seed(3)
    pids = torch.randint(0, 12, (QUERIES + GALLERY,), generator=generator)
    camids = torch.cat([torch.zeros(QUERIES), torch.randint(1, 3, (GALLERY,), generator=generator)]).long()
    branches = []
    for width in WIDTHS:
        centres = torch.randn(12, width, generator=generator, dtype=torch.float64)
        noise = torch.randn(len(pids), width, generator=generator, dtype=torch.float64)
        branches.append((centres[pids] + 1.2 * noise) * (1 + torch.rand(len(pids), 1, generator=generator)))
    labels = [part.numpy() for part in (pids[:QUERIES], pids[QUERIES:], camids[:QUERIES], camids[QUERIES:])]
    return [b[:QUERIES] for b in branches], [b[QUERIES:] for b in branches], labels


def explicit(query, gallery, weights, metric):
    """PRPR, equation 3, value by value; weights (J,) or (Q, J)."""
    weights = np.broadcast_to(np.asarray(weights, dtype=float), (len(query[0]), len(query)))
    out = np.zeros((len(query[0]), len(gallery[0])))
    for j, (qf, gf) in enumerate(zip(query, gallery, strict=True)):
        for i, a in enumerate(qf.numpy()):
            for k, b in enumerate(gf.numpy()):
                cosine = 1 - a @ b / np.sqrt((a @ a) * (b @ b))
                out[i, k] += weights[i, j] * (cosine if metric == "cosine" else ((a - b) ** 2).sum())
    return out


def same_lists(a, b):
    return np.array_equal(a.first, b.first) and np.allclose(a.ap, b.ap, equal_nan=True)


@pytest.mark.parametrize("metric, factor", [("cosine", 2), ("euclidean", 1)])
def test_the_fused_descriptor_is_the_weighted_sum_of_distances(case, metric, factor):
    query, gallery, labels = case
    q, g = (fused_features(side, WEIGHTS, metric) for side in (query, gallery))
    assert q.shape == (QUERIES, sum(WIDTHS))
    expected = explicit(query, gallery, WEIGHTS, metric)
    np.testing.assert_allclose(distance_matrix(q, g), factor * expected, rtol=1e-9, atol=1e-9)
    matrices = [distance_matrix(a, b, metric) for a, b in zip(query, gallery, strict=True)]
    np.testing.assert_allclose(fused_distances(matrices, WEIGHTS), expected, rtol=1e-9, atol=1e-9)

    ours = rank_features(q, g, *labels)
    assert 0.2 < ours.mAP() < 0.99  # a case that tells rankings apart
    assert same_lists(ours, rank_distances(expected, *labels))
    if metric == "cosine":
        assert same_lists(ours, rank_features(q, g, *labels, metric="cosine"))  # all descriptors have one length


def test_the_fused_descriptor_goes_through_the_hosts_ranking(case):
    query, gallery, labels = case
    q, g = (fused_features(side, WEIGHTS).float() for side in (query, gallery))
    host_distances = host.module("metrics.distance").compute_distance_matrix(q, g, "euclidean").numpy()
    # By its own name: ``evaluate_rank`` in there is ours once the host is mended.
    evaluate = host.module("metrics.rank").eval_market1501
    fused_cmc, fused_map = evaluate(host_distances, *labels, max_rank=20)
    explicit_cmc, explicit_map = evaluate(explicit(query, gallery, WEIGHTS, "cosine"), *labels, max_rank=20)
    np.testing.assert_array_equal(fused_cmc, explicit_cmc)
    assert fused_map == pytest.approx(explicit_map, abs=1e-9)


@pytest.mark.parametrize("weights", [WEIGHTS, "by query"])
def test_re_ranking_of_fused_features_is_that_of_fused_matrices(case, weights):
    query, gallery, labels = case
    if weights == "by query":
        weights = torch.rand(QUERIES, len(WIDTHS), dtype=torch.float64) + 0.1
        q, g = query_weighted_features(query, gallery, weights)
        alike = [q @ g.T, q @ q.T, g @ g.T]
        matrices = [1 - part for part in alike]
    else:
        q, g = (fused_features(side, weights) for side in (query, gallery))
        pairs = ((query, gallery), (query, query), (gallery, gallery))
        matrices = [torch.from_numpy(explicit(a, b, weights, "cosine")) for a, b in pairs]
    from_matrices = host.re_ranking(*(part.float().numpy() for part in matrices))
    from_features = reranked_distances(q.float(), g.float())
    np.testing.assert_allclose(from_features, from_matrices, atol=2e-3)
    assert same_lists(rank_distances(from_features, *labels), rank_distances(from_matrices, *labels))
    assert not same_lists(rank_distances(from_features, *labels), rank_features(q, g, *labels))


@pytest.mark.parametrize("branch", range(len(WIDTHS)))
def test_weight_on_one_branch_alone_is_that_branch(case, branch):
    query, gallery, labels = case
    only = [3.0 * (j == branch) for j in range(len(WIDTHS))]
    alone = rank_features(query[branch], gallery[branch], *labels, metric="cosine")
    assert same_lists(alone, rank_features(fused_features(query, only), fused_features(gallery, only), *labels))
    matrices = [distance_matrix(a, b, "cosine") for a, b in zip(query, gallery, strict=True)]
    one = [float(j == branch) for j in range(len(WIDTHS))]
    assert torch.equal(fused_distances(matrices, one), matrices[branch])
    q, g = query_weighted_features(query, gallery, [only] * QUERIES)
    assert same_lists(alone, rank_features(q, g, *labels))


def test_a_branch_of_weight_zero_may_be_infinite():
    finite, infinite = torch.rand(2, 3), torch.full((2, 3), torch.inf)
    assert torch.equal(fused_distances([finite, infinite], (1, 0)), finite)


def test_a_constant_added_to_a_branch_changes_nothing(case):
    query, gallery, labels = case
    matrices = [distance_matrix(a, b, "cosine") for a, b in zip(query, gallery, strict=True)]
    shifted = [matrices[0], matrices[1] + 7.5, matrices[2]]
    assert same_lists(
        rank_distances(fused_distances(matrices, WEIGHTS), *labels),
        rank_distances(fused_distances(shifted, WEIGHTS), *labels),
    )
    assert torch.equal(reciprocal_rank_distances(matrices), reciprocal_rank_distances(shifted))


def test_weights_of_each_query_are_explicit_fusion_but_for_a_scale_and_a_constant_of_the_query(case):
    query, gallery, labels = case
    weights = torch.rand(QUERIES, len(WIDTHS), dtype=torch.float64)
    weights[0] = torch.tensor([0.0, 1.0, 0.0])
    expected = explicit(query, gallery, weights, "cosine")
    q, g = query_weighted_features(query, gallery, weights)
    for side in (q, g):
        torch.testing.assert_close(side.norm(dim=1), torch.ones(len(side), dtype=torch.float64))
    scale = np.sqrt(len(WIDTHS)) * weights.norm(dim=1, keepdim=True)
    found = (distance_matrix(q, g, "cosine") - 1) * scale + weights.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    explicit_lists = rank_distances(expected, *labels)
    for metric in ("cosine", "euclidean"):
        assert same_lists(explicit_lists, rank_features(q, g, *labels, metric=metric))
    matrices = [distance_matrix(a, b, "cosine") for a, b in zip(query, gallery, strict=True)]
    np.testing.assert_allclose(fused_distances(matrices, weights), expected, atol=1e-9)
    # The same weights for everybody would have given other lists.
    assert not same_lists(explicit_lists, rank_distances(fused_distances(matrices, (1, 1, 1)), *labels))


def test_reciprocal_ranks_against_a_loop(case):
    query, gallery, _ = case
    # Quantised, so that there are ties, which the gallery's order breaks.
    matrices = [distance_matrix(a, b, "cosine").mul(10).round() for a, b in zip(query, gallery, strict=True)]
    k = 60
    expected = np.zeros((QUERIES, GALLERY))
    for matrix in matrices:
        for q, row in enumerate(matrix.tolist()):
            for place, (_, g) in enumerate(sorted((distance, g) for g, distance in enumerate(row)), start=1):
                expected[q, g] += 1 / (k + place)
    found = reciprocal_rank_distances(matrices)
    np.testing.assert_allclose(len(matrices) / (k + 1) - found.numpy(), expected, atol=1e-13)
    assert torch.equal(found, torch.cat([reciprocal_rank_distances([m[i : i + 7] for m in matrices])
                                         for i in range(0, QUERIES, 7)]))  # fmt: skip


def test_equal_sums_of_reciprocal_ranks_are_ties_whatever_the_order_of_adding():
    # Gallery image g has in the three branches the ranks of one permutation of (a, b, c) each.
    a, b, c = 1, 4, 6
    ranks = torch.tensor([[a, b, c, 2, 3, 5], [b, c, a, 3, 5, 2], [c, a, b, 5, 2, 3]]).double()
    found = reciprocal_rank_distances([row[None] for row in ranks])[0]
    assert found[0] == found[1] == found[2] and found[3] == found[4] == found[5] and found[0] != found[3]


def test_reciprocal_ranks_see_order_only_and_small_k_trusts_the_first_place():
    lists = [torch.tensor([[0.0, 1, 2, 3]]), torch.tensor([[9.0, 1, 2, 3]])]  # image 0: 1 and 4, image 1: 2 and 1
    assert reciprocal_rank_distances(lists)[0].argmin() == 1
    lists[1] = torch.tensor([[9.0, 2, 1, 3]])  # image 0: 1 and 4, image 2: 3 and 1, image 1: 2 and 2
    assert reciprocal_rank_distances(lists, k=0)[0].argsort().tolist()[:2] == [2, 0]
    monotone = [lists[0].exp() * 100, lists[1].pow(3)]
    assert torch.equal(reciprocal_rank_distances(lists), reciprocal_rank_distances(monotone))


def test_default_weights_are_prprs_for_four_branches():
    matrices = [torch.rand(2, 3) for _ in range(4)]
    expected = 2 * matrices[0] + matrices[1] + matrices[2] + matrices[3]
    torch.testing.assert_close(fused_distances(matrices), expected)
    torch.testing.assert_close(fused_distances(matrices[:3]), sum(matrices[:3]))
    assert default_weights(7) == (1.0,) * 7


def test_half_precision_is_fused_in_single_and_gradients_flow():
    a, b = torch.rand(4, 6, dtype=torch.bfloat16), torch.rand(4, 3, requires_grad=True)
    fused = fused_features([a, b], (1, 2))
    assert fused.dtype == torch.float32
    fused.square()[:, 6:].sum().backward()
    assert b.grad is not None and torch.isfinite(b.grad).all()


def test_weights_between_two_sizes_are_linear_in_the_logarithm():
    weights = SizeWeights(sides=(10.0, 40.0, 80.0), weights=((4.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    assert weights.weights == ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    found = weights(torch.tensor([[10, 10], [40, 10], [20, 20], [80, 20], [160, 40], [1, 2], [900, 900]]))
    first = [1.0, 0.75, 0.75, 0.5, 0.0, 1.0, 0.0]
    torch.testing.assert_close(found, torch.tensor([[w, 1 - w] for w in first], dtype=torch.float64))
    assert SizeWeights((50.0,), ((1.0, 3.0),))([[5, 5], [500, 500]]).tolist() == [[0.25, 0.75]] * 2


@pytest.mark.parametrize(
    "weights, message",
    [
        ((1.0, 1.0), r"3 branches need 3 weights"),
        ((1.0, -0.5, 1.0), r"not negative, not \[-0.5"),
        ((1.0, float("nan"), 1.0), r"finite .*nan"),
        ((1.0, float("inf"), 1.0), r"finite .*inf"),
        ((0.0, 0.0, 0.0), "must not all be 0"),
    ],
)
def test_weights_that_are_none(case, weights, message):
    query, gallery, _ = case
    matrices = [torch.rand(2, 3)] * 3
    for fuse in (
        lambda: fused_features(query, weights),
        lambda: fused_distances(matrices, weights),
        lambda: query_weighted_features(query, gallery, [weights] * QUERIES),
    ):
        with pytest.raises(ValueError, match=message):
            fuse()


def test_a_query_without_any_weight_is_named(case):
    query, gallery, _ = case
    weights = torch.ones(QUERIES, 3)
    weights[5] = 0
    with pytest.raises(ValueError, match="those of query 5 are"):
        query_weighted_features(query, gallery, weights)


@pytest.mark.parametrize(
    "fuse, message",
    [
        (lambda: fused_features([torch.rand(4, 2), torch.rand(5, 2)], (1, 1)), r"branch 1 .*\(5, 2\), branch 0"),
        (lambda: fused_features([torch.rand(4, 2)], (1,), "manhattan"), "unknown distance metric 'manhattan'"),
        (lambda: fused_features([torch.rand(4, 2)], torch.ones(4, 1)), "query_weighted_features"),
        (lambda: fused_distances([torch.rand(4, 2), torch.rand(4, 3)], (1, 1)), r"branch 1 .*\(4, 3\)"),
        (lambda: fused_distances([]), "no distances"),
        (lambda: fused_distances([torch.rand(4, 2)], torch.ones(3, 1)), "weights for 3 queries and distances of 4"),
        (lambda: query_weighted_features([torch.rand(4, 2)], [torch.rand(3, 2)], torch.ones(5, 1)), "4 queries in 1"),
        (lambda: reciprocal_rank_distances([torch.tensor([[float("nan"), 1]])]), "branch 0 hold NaN"),
        (lambda: reciprocal_rank_distances([torch.rand(2, 2)], k=-1), "k is -1"),
        (lambda: SizeWeights((20.0, 10.0), ((1.0,), (1.0,))), "ascending"),
        (lambda: SizeWeights((10.0,), ((1.0,), (1.0,))), "not 2 for"),
        (lambda: SizeWeights((10.0,), ((1.0, -1.0),)), "not negative"),
    ],
)
def test_what_does_not_fit_is_named(fuse, message):
    with pytest.raises(ValueError, match=message):
        fuse()


def test_nothing_given_is_changed(case):
    query, gallery, _ = case
    before = copy.deepcopy((query, gallery))
    fused_features(query, WEIGHTS)
    query_weighted_features(query, gallery, torch.ones(QUERIES, 3))
    matrices = [distance_matrix(a, b) for a, b in zip(query, gallery, strict=True)]
    kept = [part.clone() for part in matrices]
    fused_distances(matrices, WEIGHTS)
    reciprocal_rank_distances(matrices)
    for now, then in zip([*query, *gallery, *matrices], [*before[0], *before[1], *kept], strict=True):
        assert torch.equal(now, then)
