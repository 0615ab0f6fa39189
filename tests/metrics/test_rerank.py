"""Re-ranking against the host's own, run with a stable sort, and against its steps written as sets."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from torchreid_xres import host
from torchreid_xres.metrics import distance_matrix, rank_distances, rerank
from torchreid_xres.metrics.rerank import re_ranking, reranked_distances

HOST = host.module("utils.rerank")
host_re_ranking = HOST.re_ranking  # by its own name: the host's engines get ours


@pytest.fixture(autouse=True)
def _stable_host(monkeypatch):
    stable = {"argsort": lambda a: np.argsort(a, kind="stable")}
    monkeypatch.setattr(HOST, "np", SimpleNamespace(**{**vars(np), **stable}))


def features(num_query=40, num_gallery=150, ids=25, dim=8, spread=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(ids, dim, generator=generator)
    pids = [torch.randint(ids, (n,), generator=generator) for n in (num_query, num_gallery)]
    return [centres[p] + spread * torch.randn(len(p), dim, generator=generator) for p in pids], pids


def matrices(qf, gf, metric="euclidean"):
    return [distance_matrix(a, b, metric).numpy() for a, b in ((qf, gf), (qf, qf), (gf, gf))]


def asymmetric(qf, gf):
    return [np.random.default_rng(0).random(matrix.shape) for matrix in matrices(qf, gf)]


CLUSTERED = features()[0]
CASES = {
    "clustered": matrices(*CLUSTERED),
    "cosine": matrices(*CLUSTERED, "cosine"),
    "random": matrices(*features(spread=9.0)[0]),
    "tied": matrices(*(part.round() for part in CLUSTERED)),
    "duplicates": matrices(*(part.repeat_interleave(30, dim=0) for part in features(3, 9, 5)[0])),
    "asymmetric": asymmetric(*CLUSTERED),
    "double": [matrix.astype(np.float64) for matrix in matrices(*CLUSTERED)],
    "integers": [np.round(matrix).astype(np.int32) for matrix in matrices(*CLUSTERED)],
    "fewer_than_k": matrices(*features(3, 7, 2)[0]),
    "one_each": matrices(torch.zeros(1, 2), torch.ones(1, 2)),
}


@pytest.mark.parametrize("setting", [(20, 6, 0.3), (10, 1, 0.5), (1, 3, 0.0), (4, 12, 1.0), (7, 3, 0.1)])
@pytest.mark.parametrize("case", CASES)
def test_given_distances_are_the_hosts(case, setting):
    ours = re_ranking(*CASES[case], *setting)
    theirs = host_re_ranking(*CASES[case], *setting)
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_features_are_as_their_distances(metric, dtype):
    # Whole numbers: any order of summation gives the same squared distances, and many ties.
    scale = 4 if metric == "euclidean" else 1
    qf, gf = ((scale * part).to(dtype) for part in CLUSTERED)
    if metric == "euclidean":
        qf, gf = qf.round(), gf.round()
    for setting in ((20, 6, 0.3), (5, 1, 0.5)):
        expected = re_ranking(*matrices(qf.double(), gf.double(), metric), *setting)
        np.testing.assert_allclose(reranked_distances(qf, gf, metric, *setting), expected, atol=1e-5)


def slow_jaccard(qf, gf, k1):
    """Section 3 as sets, without expansion of the query."""
    distances = distance_matrix(torch.cat([qf, gf]), torch.cat([qf, gf])).double().numpy() ** 2
    distances /= distances.max(axis=1, keepdims=True)
    total = range(len(distances))
    order = [sorted(total, key=lambda j, i=i: (distances[i, j], j)) for i in total]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encoded = np.zeros_like(distances)
    for i in total:
        members = set(reciprocal(i, k1))
        for j in reciprocal(i, k1):
            half = reciprocal(j, round(k1 / 2))
            if len(half & reciprocal(i, k1)) > 2 / 3 * len(half):
                members |= half
        for j in members:
            encoded[i, j] = np.exp(-distances[i, j])
        encoded[i] /= encoded[i].sum()
    q = len(qf)
    both = [
        [np.minimum(encoded[i], encoded[j]).sum() / np.maximum(encoded[i], encoded[j]).sum() for j in total[q:]]
        for i in total[:q]
    ]
    return 1 - np.array(both)


def test_features_are_the_slow_sets():
    qf, gf = features(12, 40, 6)[0]
    np.testing.assert_allclose(
        reranked_distances(qf, gf, k1=6, k2=1, lambda_value=0.0), slow_jaccard(qf, gf, 6), atol=1e-5
    )


def test_pieces_do_not_matter(monkeypatch):
    qf, gf = (4 * part for part in features(70, 150)[0])
    qf, gf = qf.round(), gf.round()
    given = matrices(qf, gf)
    expected = re_ranking(*given)
    monkeypatch.setattr(rerank, "_BAND_BYTES", 1)
    for pairs in (1, 1000):
        monkeypatch.setattr(rerank, "_PAIRS", pairs)
        np.testing.assert_array_equal(re_ranking(*given), expected)
        np.testing.assert_allclose(reranked_distances(qf, gf), expected, atol=1e-5)


def test_equal_neighbours_are_taken_by_index():
    distances = torch.tensor([[2.0, 1.0, 1.0, 0.0, 1.0, 1.0], [5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0]])
    assert rerank._lowest(distances, 3).tolist() == [[3, 1, 2], [5, 4, 3], [0, 1, 2]]
    assert rerank._lowest(distances, 9)[0].tolist() == [3, 1, 2, 4, 5, 0]


def test_features_that_are_all_alike_stay_so():
    np.testing.assert_array_equal(
        reranked_distances(torch.ones(3, 2), torch.ones(40, 2), lambda_value=1.0), np.zeros((3, 40))
    )


def test_the_lists_get_better():
    (qf, gf), (q_pids, g_pids) = features(60, 400, 20, spread=1.2)
    labels = q_pids, g_pids, np.zeros(60), np.ones(400)
    before = rank_distances(distance_matrix(qf, gf), *labels).mAP()
    assert rank_distances(reranked_distances(qf, gf), *labels).mAP() > before + 0.05


def test_memory_is_the_result_and_a_band(monkeypatch):
    (qf, gf), _ = features(100, 3000, 300)
    monkeypatch.setattr(rerank, "_PAIRS", 1 << 17)
    tracemalloc.start()  # sees NumPy's memory: the bands are torch's
    found = reranked_distances(qf, gf)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.nbytes + 12e6 < 4 * 3100**2 * 0.5


def test_errors_say_what_is_wrong():
    q_g, q_q, g_g = CASES["clustered"]
    with pytest.raises(ValueError, match=r"\(Q, G\), \(Q, Q\) and \(G, G\), not \(40, 150\), \(150, 150\)"):
        re_ranking(q_g, g_g, q_q)
    for setting in ({"k1": 0}, {"k2": 0}, {"lambda_value": 1.5}):
        with pytest.raises(ValueError, match="re-ranking needs k1 and k2 of at least 1"):
            re_ranking(q_g, q_q, g_g, **setting)
    for value in (np.nan, np.inf, 1e30):
        broken = g_g.copy()
        broken[3, 7] = value
        with pytest.raises(ValueError, match="gallery image 7 hold NaN"):
            re_ranking(q_g, q_q, broken)
    with pytest.raises(ValueError, match=r"one D, not \(3, 2\) and \(3, 4\)"):
        reranked_distances(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"1 of 150 gallery features hold NaN.*row 1\)"):
        reranked_distances(CLUSTERED[0], CLUSTERED[1].clone().index_fill_(0, torch.tensor([1]), torch.nan))
    with pytest.raises(ValueError, match="unknown distance metric 'manhattan'"):
        reranked_distances(*CLUSTERED, "manhattan")
