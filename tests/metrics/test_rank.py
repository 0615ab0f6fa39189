"""The ranking against slow readable loops, and against the host's own evaluator with a stable sort."""

import doctest
import sys
import time
import tracemalloc
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from torchreid_xres import host
from torchreid_xres.metrics import (
    distance_matrix,
    evaluate_rank,
    protocols,
    rank,
    rank_distances,
    rank_features,
    rank_tiles,
)

# The evaluators by their own names: ``evaluate_rank`` in there is ours once the host is mended.
RANK = host.module("metrics.rank")


def make(num_query, num_gallery, num_ids, num_cams, seed=0, spread=1.0):
    """Distances around the identities' centres, and labels; a few queries end up without a match."""
    rng = np.random.default_rng(seed)
    q_pids, g_pids = rng.integers(0, num_ids, num_query), rng.integers(0, num_ids, num_gallery)
    q_camids, g_camids = rng.integers(0, num_cams, num_query), rng.integers(0, num_cams, num_gallery)
    centres = rng.standard_normal((num_ids, 8))
    qf = centres[q_pids] + spread * rng.standard_normal((num_query, 8))
    gf = centres[g_pids] + spread * rng.standard_normal((num_gallery, 8))
    distmat = ((qf[:, None] - gf) ** 2).sum(axis=2).astype(np.float32)
    return distmat, q_pids, g_pids, q_camids, g_camids


def changed(case, change):
    return change(case[0]), *case[1:]


def duplicated(case):
    distmat, q_pids, g_pids, q_camids, g_camids = case
    twice = np.repeat(np.arange(len(g_pids)), 2)
    return distmat[:, twice], q_pids, g_pids[twice], q_camids, g_camids[twice]


def with_junk_and_strangers(case):
    distmat, q_pids, g_pids, q_camids, g_camids = (array.copy() for array in case)
    g_pids[::3] = -1
    q_pids[::5] = 1000
    return distmat, q_pids, g_pids, q_camids, g_camids


BASE = make(90, 150, 12, 3)
CASES = {
    "clustered": BASE,
    "random": changed(BASE, lambda d: np.random.default_rng(1).random(d.shape, dtype=np.float32)),
    "quantised": changed(BASE, lambda d: np.round(d / d.max() * 6)),
    "uint8": changed(BASE, lambda d: (d / d.max() * 9).astype(np.uint8)),
    "half": changed(BASE, lambda d: d.astype(np.float16)),
    "double": changed(BASE, lambda d: d.astype(np.float64) + 1e-12),
    "all_equal": changed(BASE, np.zeros_like),
    "signed_zeros": changed(BASE, lambda d: np.where(d > np.median(d), 0.0, -0.0)),
    "infinite": changed(BASE, lambda d: np.where(d > np.median(d), np.inf, d)),
    "minus_infinite": changed(BASE, lambda d: np.where(d < np.median(d), -np.inf, -d)),
    "fortran": changed(BASE, np.asfortranarray),
    "strided": changed(BASE, lambda d: np.repeat(d, 2, axis=1)[:, ::2]),
    "duplicated_gallery": duplicated(BASE),
    "many_matches": make(70, 400, 3, 2),
    "many_matches_tied": changed(make(70, 400, 3, 2), lambda d: np.round(d)),
    "few_images": make(40, 60, 25, 2),
    "hard": make(80, 200, 10, 6, spread=4.0),
    "junk_and_strangers": with_junk_and_strangers(BASE),
    "one_image": (np.ones((1, 1)), *map(np.array, ([3], [3], [0], [1]))),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def slow_lists(distmat, q_pids, g_pids, q_camids, g_camids):
    """Each query's ranked list, junk removed, as (gallery index, is a match)."""
    for q in range(len(q_pids)):
        order = sorted(range(len(g_pids)), key=lambda g, q=q: (distmat[q, g], g))
        yield [
            (g, bool(g_pids[g] == q_pids[q]))
            for g in order
            if not (g_pids[g] == q_pids[q] and g_camids[g] == q_camids[q])
        ]


def slow_scores(matches):
    """First rank, AP and INP of one list of matches (bool), none if there is no match."""
    hits = [rank for rank, match in enumerate(matches) if match]
    if not hits:
        return -1, np.nan, np.nan
    ap = sum((i + 1) / (rank + 1) for i, rank in enumerate(hits)) / len(hits)
    return hits[0], ap, len(hits) / (hits[-1] + 1)


def slow_rank(*case):
    scores = [slow_scores([match for _, match in ranked]) for ranked in slow_lists(*case)]
    return tuple(map(np.array, zip(*scores, strict=True)))


def host_evaluate(monkeypatch, evaluator, *args):
    """One of the host's Python evaluators, with a stable sort: else ties fall as the processor likes."""
    stable = {"argsort": lambda a, axis: np.argsort(a, axis=axis, kind="stable"), "bool": np.bool_}
    with monkeypatch.context() as patch:
        patch.setattr(RANK, "np", SimpleNamespace(**{**vars(np), **stable}))
        return getattr(RANK, evaluator)(*args)


def assert_same(result, other):
    for name in ("valid", "first", "ap", "inp"):
        np.testing.assert_array_equal(getattr(result, name), getattr(other, name), err_msg=name)


def test_market_is_the_slow_loop(case):
    result = rank_distances(*case)
    first, ap, inp = slow_rank(*case)
    np.testing.assert_array_equal(result.valid, first >= 0)
    np.testing.assert_array_equal(result.first, first)
    np.testing.assert_allclose(result.ap, ap, rtol=1e-12)
    np.testing.assert_allclose(result.inp, inp, rtol=1e-12)
    assert result.mAP() == pytest.approx(np.nanmean(ap), abs=1e-12)
    assert result.mINP() == pytest.approx(np.nanmean(inp), abs=1e-12)


@pytest.mark.parametrize("counted", [0, 5, 500])
def test_counting_and_sorting_agree(case, counted, monkeypatch):
    expected = rank_distances(*case)
    monkeypatch.setattr(protocols, "_COUNTED", counted)
    for at_once in (1, 1000, 1 << 20):
        monkeypatch.setattr(protocols, "_PIECE", at_once)
        assert_same(rank_distances(*case), expected)


def test_the_host_says_the_same(case, monkeypatch):
    kept = [len(ranked) for ranked in slow_lists(*case)]
    max_rank = min(20, *kept)  # a longer curve makes the host's rows ragged, and it crashes
    cmc, mAP = evaluate_rank(*case, max_rank=max_rank)
    host_cmc, host_mAP = host_evaluate(monkeypatch, "eval_market1501", *case, max_rank)
    assert cmc.dtype == np.float32 and isinstance(mAP, float)
    np.testing.assert_array_equal(cmc, host_cmc)
    assert mAP == pytest.approx(host_mAP, abs=1e-9)


def test_ties_go_to_the_lower_gallery_index():
    labels = ([1], [2, 1, 2, 1], [0], [1, 1, 1, 1])
    result = rank_distances(np.zeros((1, 4)), *labels)
    assert result.first.tolist() == [1]
    assert result.ap[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    swapped = rank_distances(np.zeros((1, 4)), [1], [1, 2, 1, 2], [0], [1, 1, 1, 1])
    assert swapped.first.tolist() == [0]


def test_same_camera_images_of_the_identity_are_removed():
    # The nearest two are the query's own camera: they neither count as hits nor take up ranks.
    result = rank_distances(np.array([[0, 1, 2, 3.0]]), [1], [1, 1, 2, 1], [0], [0, 0, 0, 1])
    assert result.first.tolist() == [1] and result.ap.tolist() == [0.5]


def test_inp_is_matches_over_the_rank_of_the_hardest():
    result = rank_distances(np.arange(5.0)[None], [1], [1, 2, 1, 2, 2], [0], [1] * 5)
    assert result.inp.tolist() == [pytest.approx(2 / 3)]


def test_cmc_is_padded_past_the_gallery():
    cmc, _ = evaluate_rank(np.array([[0.0, 1.0], [1.0, 0.0]]), [1, 1], [1, 2], [0, 0], [1, 1], max_rank=5)
    np.testing.assert_array_equal(cmc, np.array([0.5, 1, 1, 1, 1], dtype=np.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_rank_like_arrays(dtype):
    distmat = torch.from_numpy(BASE[0]).to(dtype)
    assert_same(rank_distances(distmat, *BASE[1:]), rank_distances(distmat.double().numpy(), *BASE[1:]))


def test_labels_may_be_lists_tensors_or_strings():
    expected = rank_distances(*BASE)
    distmat, *labels = BASE
    for convert in (list, torch.from_numpy, lambda label: [f"p{value}" for value in label]):
        assert_same(rank_distances(distmat, *map(convert, labels)), expected)


@pytest.mark.parametrize("types", [(np.int64, np.uint64), (np.uint64, np.int64)])
def test_large_identities_of_two_types_do_not_run_together(types):
    """2^53 + 1 is no double: as doubles both gallery images are of the query's identity."""
    distances, (query, gallery) = np.array([[0.1, 0.2]]), types
    labels = np.array([2**53 + 1], query), np.array([2**53, 2**53 + 1], gallery), [0], [1, 1]
    assert rank_distances(distances, *labels).first.tolist() == [1]
    cameras = np.array([2**53 + 1], query), np.array([2**53, 2**53 + 1], gallery)
    assert rank_distances(distances, [5], [5, 5], *cameras).first.tolist() == [0]
    beyond = np.array([-1], np.int64), np.array([2**64 - 1, 2**64 - 2], np.uint64)
    with pytest.raises(ValueError, match="none of the 1 queries"):
        rank_distances(distances, *beyond, [0], [1, 1])


def test_figures_of_a_mask_and_by_group():
    rates = np.random.default_rng(0).choice([1.0, 2.0, 4.0], len(BASE[1]))
    for protocol in ("market", "single_shot"):
        result = rank_distances(*with_junk_and_strangers(BASE), protocol)
        parts = result.by(rates)
        assert list(parts) == [1.0, 2.0, 4.0]
        for rate, part in parts.items():
            assert part.mAP() == result.mAP(rates == rate)
            assert part.mINP() == result.mINP(rates == rate)
            np.testing.assert_array_equal(part.cmc(10), result.cmc(10, rates == rate))
        weights = [part.valid.sum() for part in parts.values()]
        assert sum(weights) == result.valid.sum() < len(rates)
        assert np.average([p.mAP() for p in parts.values()], weights=weights) == pytest.approx(result.mAP())
        cmc = np.average([p.cmc(10) for p in parts.values()], axis=0, weights=weights)
        np.testing.assert_allclose(cmc, result.cmc(10), atol=1e-6)


def test_a_group_without_valid_queries_is_kept_and_says_so():
    result = rank_distances(np.zeros((2, 1)), [1, 2], [1], [0, 0], [1])
    parts = result.by(["near", "far"])
    assert parts["near"].mAP() == 1.0
    with pytest.raises(ValueError, match="none of the 1 selected queries"):
        parts["far"].mAP()


# --- single shot ---------------------------------------------------------------------------------


def slow_single_shot(case, draws, seed):
    g_pids = case[2]
    stream = np.random.PCG64(seed)
    first = []
    for _ in range(draws):
        key = stream.random_raw(len(g_pids))
        first.append([])
        for ranked in slow_lists(*case):
            kept = {}
            for g, _ in ranked:
                pid = g_pids[g]
                if pid not in kept or key[g] < key[kept[pid]]:
                    kept[pid] = g
            matches = [match for g, match in ranked if g in kept.values()]
            first[-1].append(slow_scores(matches)[0])
    return np.array(first)


@pytest.mark.parametrize("name", ["clustered", "quantised", "junk_and_strangers", "few_images", "one_image"])
def test_single_shot_is_the_slow_loop(name):
    case = CASES[name]
    result = rank_distances(*case, "single_shot", draws=4, seed=7)
    first = slow_single_shot(case, 4, 7)
    np.testing.assert_array_equal(result.first, first)
    np.testing.assert_array_equal(result.valid, first[0] >= 0)
    ap = np.where(result.valid, 1 / np.where(result.valid, first + 1, 1), np.nan).mean(axis=0)
    np.testing.assert_allclose(result.ap, ap)
    np.testing.assert_allclose(result.inp, ap)
    cmc = [(first[:, result.valid] < k).mean() for k in range(1, 6)]
    np.testing.assert_allclose(result.cmc(5), cmc, atol=1e-6)


def test_single_shot_is_the_hosts_where_there_is_nothing_to_draw(monkeypatch):
    distmat, ids = np.random.default_rng(0).random((30, 60)), np.arange(60)
    case = (distmat, ids[:30], ids, np.zeros(30, int), np.ones(60, int))
    cmc, mAP = evaluate_rank(*case, max_rank=20, use_metric_cuhk03=True)
    host_cmc, host_mAP = host_evaluate(monkeypatch, "eval_cuhk03", *case, 20)
    np.testing.assert_allclose(cmc, host_cmc, atol=1e-6)
    assert mAP == pytest.approx(host_mAP, abs=1e-9)
    # The second image of the query's identity is under its own camera: still nothing to draw.
    case = (distmat[:1], ids[:1], ids // 2, np.zeros(1, int), ids % 2)
    cmc, _ = evaluate_rank(*changed(case, lambda d: d * 0 + ids // 2), max_rank=9, use_metric_cuhk03=True)
    np.testing.assert_array_equal(cmc, np.ones(9))


def test_single_shot_draws_every_image_alike():
    # Three matches at ranks 0, 10 and 20 among 18 single images: each is kept a third of the time.
    g_pids = np.array([0, *range(1, 10), 0, *range(10, 19), 0])
    case = (np.arange(21.0)[None], [0], g_pids, [0], np.ones(21))
    first = rank_distances(*case, "single_shot", draws=3000).first[:, 0]
    ranks, counts = np.unique(first, return_counts=True)
    assert ranks.tolist() == [0, 9, 18]
    np.testing.assert_allclose(counts / 3000, 1 / 3, atol=0.04)


def test_single_shot_depends_on_the_seed_alone():
    result = rank_distances(*BASE, "single_shot", seed=3)
    np.random.seed(99)
    state = np.random.get_state()[1].copy()
    assert_same(rank_distances(*BASE, "single_shot", seed=3), result)
    np.testing.assert_array_equal(np.random.get_state()[1], state)

    distmat, q_pids, g_pids, q_camids, g_camids = BASE
    shuffled = np.random.default_rng(0).permutation(len(q_pids))
    again = rank_distances(
        distmat[shuffled], q_pids[shuffled], g_pids, q_camids[shuffled], g_camids, "single_shot", seed=3
    )
    np.testing.assert_array_equal(again.first, result.first[:, shuffled])
    more = rank_distances(*BASE, "single_shot", draws=25, seed=3)
    np.testing.assert_array_equal(more.first[:10], result.first)
    assert (rank_distances(*BASE, "single_shot", seed=4).first != result.first).any()


# --- VehicleID -----------------------------------------------------------------------------------


def slow_vehicleid(distmat, pids, draws, seed):
    """Each draw's gallery: the image of each vehicle with the lowest key; all others are queries."""
    stream = np.random.PCG64(seed)
    first = np.full((draws, len(pids)), -1)
    for draw in range(draws):
        key = stream.random_raw(len(pids))
        gallery = [min(np.flatnonzero(pids == pid), key=lambda i: key[i]) for pid in np.unique(pids)]
        for query in set(range(len(pids))) - set(gallery):
            ranked = sorted(gallery, key=lambda g, q=query: (distmat[q, g], g))
            first[draw, query] = [pids[g] == pids[query] for g in ranked].index(True)
    return first


@pytest.mark.parametrize("quantised", [False, True])
def test_vehicleid_is_the_slow_loop(quantised):
    rng = np.random.default_rng(0)
    pids = np.append(rng.integers(0, 12, 60), [50, 51, 51])  # one vehicle with one image, one with two
    distmat = rng.random((63, 63))
    if quantised:
        distmat = np.round(distmat * 5)
    cameras = np.zeros(63)
    result = rank_distances(distmat, pids, pids, cameras, cameras, "vehicleid", draws=5, seed=3)
    first = slow_vehicleid(distmat, pids, 5, 3)
    np.testing.assert_array_equal(result.first, first)
    assert not result.valid[60] and result.valid[:60].all()
    lists = first[first >= 0]
    assert result.mAP() == pytest.approx((1 / (lists + 1)).mean())
    np.testing.assert_allclose(result.cmc(4), [(lists < k).mean() for k in range(1, 5)], atol=1e-6)
    assert len(lists) == 5 * (63 - 14)
    parts = result.by(pids < 6)
    some = first[:, pids < 6]
    assert parts[True].mAP() == pytest.approx((1 / (some[some >= 0] + 1)).mean())


def test_vehicleid_wants_one_set_twice():
    distmat, *labels = BASE
    with pytest.raises(ValueError, match="not 90 queries and 150 gallery images"):
        rank_distances(distmat, *labels, "vehicleid")
    with pytest.raises(ValueError, match="in the same order"):
        rank_distances(distmat[:, :90], labels[0], labels[0][::-1], labels[2], labels[2], "vehicleid")
    with pytest.raises(ValueError, match="none of the 3 images has another one of its identity"):
        rank_distances(distmat[:3, :3], [1, 2, 3], [1, 2, 3], [0, 1, 2], [1, 2, 0], "vehicleid")


# --- features and bands --------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["market", "single_shot"])
@pytest.mark.parametrize("num_query", [5, 33, 90])
def test_features_rank_like_their_matrix(num_query, protocol):
    # Small whole numbers: the distances are exact in any order of summation, and full of ties.
    qf, gf = torch.randint(-2, 3, (num_query, 12)).float(), torch.randint(-2, 3, (150, 12)).float()
    labels = [BASE[1][:num_query], BASE[2], BASE[3][:num_query], BASE[4]]
    expected = rank_distances(distance_matrix(qf, gf), *labels, protocol)
    assert_same(rank_features(qf, gf, *labels, tile=32, protocol=protocol), expected)
    assert_same(rank_features(qf.bfloat16(), gf.half(), *labels, protocol=protocol), expected)


def test_a_gpus_way_of_ranking_is_the_same(case, monkeypatch):
    distmat, *labels = case
    expected = rank_distances(distmat, *labels)
    monkeypatch.setattr(rank, "_stays", lambda tile: tile.is_floating_point())
    monkeypatch.setattr(protocols, "_TIED", 100)
    assert_same(rank_distances(torch.from_numpy(np.ascontiguousarray(distmat)), *labels), expected)


def test_a_gpus_bands(monkeypatch):
    monkeypatch.setattr(rank, "_stays", lambda tile: True)
    distmat, *labels = with_junk_and_strangers(BASE)
    for protocol in ("market", "single_shot"):
        expected = rank_distances(distmat, *labels, protocol)
        bands = (torch.from_numpy(distmat[start:stop]) for start, stop in pairwise([0, 1, 30, 30, 90]))
        assert_same(rank_tiles(bands, *labels, protocol), expected)
    distmat[30, 2] = np.nan
    with pytest.raises(ValueError, match="first: query 30"):
        rank_distances(torch.from_numpy(distmat), *labels)


def test_features_by_cosine():
    qf, gf = torch.randn(90, 16), torch.randn(150, 16)
    expected = rank_distances(distance_matrix(qf, gf, "cosine"), *BASE[1:]).mAP()
    assert rank_features(qf, gf, *BASE[1:], metric="cosine", tile=32).mAP() == pytest.approx(
        expected, abs=1e-6
    )
    assert rank_features(qf, gf, *BASE[1:]).mAP() != pytest.approx(expected, abs=1e-4)


def test_bands_of_any_height():
    expected = rank_distances(*BASE)
    edges = [0, 1, 30, 30, 77, 90]
    bands = (BASE[0][start:stop] for start, stop in pairwise(edges))
    assert_same(rank_tiles(bands, *BASE[1:]), expected)


def test_memory_is_a_band_and_no_matrix_of_indices():
    distmat = np.random.default_rng(0).random((600, 6000), dtype=np.float32)
    labels = make(600, 6000, 300, 6)[1:]
    tracemalloc.start()
    evaluate_rank(distmat, *labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < distmat.nbytes / 10


@pytest.mark.slow
def test_market_size_takes_a_fraction_of_a_second():
    distmat = np.random.default_rng(0).random((3368, 15913), dtype=np.float32)
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, high, size) for high in (751, 6) for size in (3368, 15913)]
    evaluate_rank(distmat[:100], labels[0][:100], labels[1], labels[2][:100], labels[3])
    start = time.process_time()
    evaluate_rank(distmat, *labels)
    assert time.process_time() - start < 1.5  # about 0.2 s; one argsort of the rows alone is above this


# --- errors --------------------------------------------------------------------------------------


def test_one_camera_for_all_is_explained():
    distmat, q_pids, g_pids, q_camids, g_camids = BASE
    with pytest.raises(
        ValueError, match=r"none of the 90 queries.*own camera are removed.*one camera id"
    ) as e:
        rank_distances(distmat, q_pids, g_pids, q_camids * 0 + 4, g_camids * 0 + 4)
    assert "90 queries have their identity" in str(e.value) and "4 in the queries" in str(e.value)
    with pytest.raises(ValueError, match="0 queries have their identity"):
        evaluate_rank(distmat, q_pids + 1000, g_pids, q_camids, g_camids)


@pytest.mark.parametrize("protocol", ["market", "single_shot"])
def test_nan_is_an_error_even_for_a_query_without_match(protocol):
    for query in (0, 71):  # query 0 is a stranger
        case = changed(with_junk_and_strangers(BASE), np.copy)
        case[0][query, 3] = np.nan
        with pytest.raises(ValueError, match=rf"of 1 of the queries .* hold NaN \(first: query {query}\)"):
            rank_distances(*case, protocol)
    qf = torch.randn(90, 4)
    qf[[3, 8]] = torch.nan
    with pytest.raises(ValueError, match="2 of 90 query features"):
        rank_features(qf, torch.randn(150, 4), *BASE[1:])


def test_shapes_are_named():
    distmat, q_pids, g_pids, q_camids, g_camids = BASE
    with pytest.raises(ValueError, match=r"\(150, 90\).*\(90, 150\)"):
        rank_distances(distmat.T, *BASE[1:])
    with pytest.raises(ValueError, match=r"q_camids \(89,\)"):
        rank_distances(distmat, q_pids, g_pids, q_camids[:-1], g_camids)
    with pytest.raises(ValueError, match=r"g_pids \(150, 1\)"):
        rank_distances(distmat, q_pids, g_pids[:, None], q_camids, g_camids)
    with pytest.raises(ValueError, match=r"g_pids \(0,\)"):
        rank_distances(distmat[:, :0], q_pids, g_pids[:0], q_camids, g_camids[:0])
    with pytest.raises(ValueError, match=r"\(89, 4\) and \(150, 4\).*90 queries and 150"):
        rank_features(torch.zeros(89, 4), torch.zeros(150, 4), *BASE[1:])
    with pytest.raises(ValueError, match="cover 60 of 90 queries"):
        rank_tiles([distmat[:60]], *BASE[1:])
    with pytest.raises(ValueError, match=r"\(60, 150\) from query 60"):
        rank_tiles([distmat[:60], distmat[:60]], *BASE[1:])
    with pytest.raises(ValueError, match=r"\(60, 149\) from query 0"):
        rank_tiles([distmat[:60, 1:]], *BASE[1:])


def test_options_are_checked():
    result = rank_distances(*BASE)
    with pytest.raises(ValueError, match="'cuhk'; there are: market, single_shot, vehicleid"):
        rank_distances(*BASE, "cuhk")
    with pytest.raises(ValueError, match="draws is 0"):
        rank_distances(*BASE, "single_shot", draws=0)
    with pytest.raises(ValueError, match="max_rank is 0"):
        result.cmc(0)
    with pytest.raises(ValueError, match=r"mask must be bool.*int64"):
        result.mAP(np.arange(90))
    with pytest.raises(ValueError, match=r"one label per query, shape \(90,\), not \(3,\)"):
        result.by([1, 2, 3])


def test_examples():
    outcome = doctest.testmod(sys.modules[rank_distances.__module__])
    assert outcome.attempted > 5 and not outcome.failed
