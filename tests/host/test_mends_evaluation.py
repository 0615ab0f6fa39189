"""The host's evaluation: each fault on the bare host, and its cure, with our evaluator and the host's."""

import tracemalloc

import numpy as np
import pytest
import torch

from torchreid_xres import host, host_mends
from torchreid_xres.host_mends import bare_host

metrics = host.torchreid.metrics
evaluators = pytest.mark.parametrize("hosts", [False, True], ids=["ours", "hosts"])


def labelled(num_query, num_gallery, ids, cameras, seed=0):
    rng = np.random.default_rng(seed)
    distmat = rng.permutation(num_query * num_gallery).reshape(num_query, -1).astype(np.float32)  # no ties
    return (
        distmat,
        rng.integers(ids, size=num_query),
        rng.integers(ids, size=num_gallery),
        rng.integers(cameras, size=num_query),
        rng.integers(cameras, size=num_gallery),
    )


def slow_evaluation(distmat, q_pids, g_pids, q_camids, g_camids, max_rank):
    """CMC and mAP query by query, image by image."""
    curves, precisions = [], []
    for row, pid, cam in zip(distmat, q_pids, q_camids, strict=True):
        hits = [g_pids[j] == pid for j in np.argsort(row) if not (g_pids[j] == pid and g_camids[j] == cam)]
        if not any(hits):
            continue
        curves.append([any(hits[: rank + 1]) for rank in range(max_rank)])
        places = [i for i, hit in enumerate(hits) if hit]
        precisions.append(sum((n + 1) / (i + 1) for n, i in enumerate(places)) / len(places))
    return np.mean(curves, axis=0), np.mean(precisions)


@pytest.fixture
def numpy_bool(monkeypatch):
    """np.bool, which NumPy 1.24 to 1.26 lack and the bare host's cuhk03 metric needs."""
    monkeypatch.setattr(np, "bool", np.bool_, raising=False)


@pytest.mark.mend("evaluate-rank")
@evaluators
def test_ranks_beyond_the_gallery(tiny, capsys, hosts):
    with bare_host(), pytest.raises(IndexError, match="index 9 is out of bounds"):
        tiny.engine().test()
    host_mends.use_host_evaluator(hosts)
    tiny.engine().test()
    assert "Rank-20 : 100.0%" in capsys.readouterr().out


@evaluators
@pytest.mark.parametrize("num_gallery", [9, 52, 70])
def test_rankings_of_unequal_length(hosts, num_gallery):
    data = labelled(20, num_gallery, ids=5, cameras=3)
    if num_gallery < 70:
        with bare_host(), pytest.raises(ValueError, match="inhomogeneous"):
            metrics.evaluate_rank(*data)
    host_mends.use_host_evaluator(hosts)
    cmc, mAP = metrics.evaluate_rank(*data)
    slow_cmc, slow_map = slow_evaluation(*data, 50)
    np.testing.assert_allclose(cmc, slow_cmc, rtol=1e-6)
    assert mAP == pytest.approx(slow_map, rel=1e-12) and len(cmc) == 50


def test_hosts_evaluator_is_the_bare_one_where_that_works(numpy_bool):
    data = labelled(30, 300, ids=60, cameras=4)
    host_mends.use_host_evaluator()
    for single_shot in (False, True):
        np.random.seed(0)
        with bare_host():
            bare_cmc, bare_map = metrics.evaluate_rank(*data, use_metric_cuhk03=single_shot)
        np.random.seed(0)
        cmc, mAP = metrics.evaluate_rank(*data, use_metric_cuhk03=single_shot)
        assert np.array_equal(cmc, bare_cmc) and mAP == bare_map


@evaluators
def test_single_shot_with_few_identities(hosts, numpy_bool):
    data = labelled(20, 80, ids=6, cameras=3)
    with bare_host():
        assert len(metrics.evaluate_rank(*data, use_metric_cuhk03=True)[0]) == 6  # rank 10 would not exist
    host_mends.use_host_evaluator(hosts)
    cmc, _ = metrics.evaluate_rank(*data, use_metric_cuhk03=True)
    assert len(cmc) == 50 and np.all(cmc[5:] == 1) and cmc[0] < 1


@evaluators
def test_no_query_with_a_match_is_explained(hosts):
    data = labelled(6, 9, ids=2, cameras=1)
    with bare_host(), pytest.raises(AssertionError, match="do not appear in gallery"):
        metrics.evaluate_rank(*data)
    host_mends.use_host_evaluator(hosts)
    with pytest.raises(ValueError, match=r"none of the 6 queries has a match.*own camera.*one camera id"):
        metrics.evaluate_rank(*data)


@pytest.mark.mend("numpy-bool")
def test_cuhk03_metric_without_numpy_bool(monkeypatch):
    class NumpyOf2023:  # NumPy itself may need the np.bool that it has from 2.0 on, so it stays there
        def __getattr__(self, name):
            if name == "bool":
                raise AttributeError("module 'numpy' has no attribute 'bool'")
            return getattr(np, name)

    data = labelled(20, 80, ids=30, cameras=3)
    with bare_host(), monkeypatch.context() as older:
        older.setattr(metrics.rank, "np", NumpyOf2023())
        with pytest.raises(AttributeError, match="bool"):
            metrics.evaluate_rank(*data, use_metric_cuhk03=True)
    host_mends.use_host_evaluator()
    assert vars(type(metrics.rank.np))["bool"] is np.bool_
    cmc, mAP = metrics.evaluate_rank(*data, use_metric_cuhk03=True)
    assert 0 < cmc[0] < 1 and 0 < mAP < 1


@pytest.mark.mend("distance-matrix")
def test_bfloat16_features(tiny, monkeypatch):
    def engine():
        made = tiny.engine()
        features = made.extract_features
        made.extract_features = lambda images: features(images).bfloat16()
        return made

    with bare_host(), pytest.raises(TypeError, match="BFloat16"):
        engine().test(ranks=[1])
    engine().test()
    features = torch.randn(5, 8).bfloat16()
    exact = torch.cdist(features.double(), features.double()) ** 2
    for metric in ("euclidean", "cosine"):
        with bare_host():
            bare = metrics.compute_distance_matrix(features.float(), features.float(), metric)
        assert torch.equal(metrics.compute_distance_matrix(features, features, metric), bare)
    found = metrics.compute_distance_matrix(features, features)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(tiny, value):
    def engine():
        made = tiny.engine()
        features = made.extract_features
        made.extract_features = lambda images: features(images) * value
        return made

    with bare_host():
        assert 0 <= engine().test(ranks=[1]) <= 1  # a number like any other
    with pytest.raises(ValueError, match="4 of 4 query features hold NaN"):
        engine().test()


@pytest.mark.mend("re-ranking")
def test_re_ranking_takes_no_square_matrices():
    centres = torch.randn(40, 8)
    qf, gf = centres + 0.3 * torch.randn(40, 8), centres.repeat(20, 1) + 0.3 * torch.randn(800, 8)
    parts = [metrics.compute_distance_matrix(a, b).numpy() for a, b in ((qf, gf), (qf, qf), (gf, gf))]

    def run():
        tracemalloc.start()
        found = host.re_ranking(*parts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, peak / (4 * 840**2)

    with bare_host():
        bare, matrices = run()
        assert matrices > 4
    found, matrices = run()
    assert matrices < 3  # its working space is a fixed one, no matter how many images there are
    np.testing.assert_allclose(found, bare, atol=1e-5)
    host_mends.use_host_evaluator()
    np.testing.assert_array_equal(host.re_ranking(*parts), bare)


@pytest.mark.mend("accuracy")
def test_accuracy_at_several_k():
    output, target = torch.randn(12, 7), torch.randint(7, (12,))
    with bare_host():
        (bare,) = metrics.accuracy(output, target)
        with pytest.raises(RuntimeError, match="view"):
            metrics.accuracy(output, target, topk=(1, 5))
    order = output.argsort(dim=1, descending=True)
    slow = [100 * np.mean([t in row[:k] for row, t in zip(order, target, strict=True)]) for k in (1, 5)]
    found = metrics.accuracy((output, None), target, topk=(1, 5))
    assert [value.item() for value in found] == pytest.approx(slow)
    torch.testing.assert_close(found[0], bare)
    assert metrics.accuracy(output, target, topk=(9,))[0].item() == 100  # more places than classes
