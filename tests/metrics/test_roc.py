"""The verification figures against all thresholds tried one after the other."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from torchreid_xres.metrics import Roc, rank, rank_distances, rank_features, rank_tiles, roc

FPR = (0.0, 0.001, 0.01, 0.1, 0.29, 0.5, 1.0)


def make(num_query=60, num_gallery=150, ids=12, cameras=3, seed=0):
    rng = np.random.default_rng(seed)
    q_pids, g_pids = rng.integers(0, ids + 3, num_query), rng.integers(0, ids, num_gallery)
    q_camids, g_camids = rng.integers(0, cameras, num_query), rng.integers(0, cameras, num_gallery)
    same = q_pids[:, None] == g_pids
    return (rng.random((num_query, num_gallery)) - 0.3 * same).astype(np.float32), q_pids, g_pids, q_camids, g_camids


def slow(distmat, q_pids, g_pids, q_camids, g_camids, rate, some=None):
    """The best TPR of all thresholds whose FPR is not above the rate."""
    right, wrong = [], []
    for q in range(len(q_pids)):
        junk = (g_pids == q_pids[q]) & (g_camids == q_camids[q])
        match = (g_pids == q_pids[q]) & ~junk
        if match.any() and (some is None or some[q]):
            right.extend(distmat[q, match])
            wrong.extend(distmat[q, g_pids != q_pids[q]])
    right, wrong = np.sort(right), np.sort(wrong)
    thresholds = np.array([-np.inf, *right, *wrong, *np.nextafter(wrong, -np.inf)])
    accepted_right = right.searchsorted(thresholds, side="right") / len(right)
    accepted_wrong = wrong.searchsorted(thresholds, side="right") / len(wrong)
    return accepted_right[accepted_wrong <= rate].max()


def slow_distance(distmat, q_pids, g_pids, q_camids, g_camids, rate, some=None):
    """The largest distance with which not too many wrong pairs are accepted, of all pairs that count."""
    right, wrong = [], []
    for q in range(len(q_pids)):
        match = (g_pids == q_pids[q]) & (g_camids != q_camids[q])
        if match.any() and (some is None or some[q]):
            right.extend(distmat[q, match])
            wrong.extend(distmat[q, g_pids != q_pids[q]])
    return max((one for one in {*right, *wrong} if sum(w <= one for w in wrong) <= rate * len(wrong)), default=None)


BASE = make()
CASES = {
    "random": BASE,
    "tied": (np.round(BASE[0] * 20), *BASE[1:]),
    "all_equal": (np.zeros_like(BASE[0]), *BASE[1:]),
    "double": (BASE[0].astype(np.float64) + 1e-12, *BASE[1:]),
    "infinite": (np.where(BASE[0] > 0.5, np.inf, BASE[0]), *BASE[1:]),
    "wrong_infinite": (np.where(BASE[1][:, None] == BASE[2], BASE[0], np.inf), *BASE[1:]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_distance_is_that_of_the_slow_search(case, monkeypatch):
    monkeypatch.setattr(roc, "_SLACK", 0)
    monkeypatch.setattr(rank, "_ROWS", 7)
    distmat, q_pids, g_pids, q_camids, g_camids = CASES[case]
    distmat, labels = distmat[:20, :60], [q_pids[:20], g_pids[:60], q_camids[:20], g_camids[:60]]
    rates = np.array([1.0, 4.0] * 10)
    seen = Roc(*labels, fpr=FPR, groups=rates)
    rank_distances(distmat, *labels, roc=seen)
    assert seen.distance() == {rate: slow_distance(distmat, *labels, rate) for rate in FPR}
    for group, found in seen.distance_by().items():
        assert found == {rate: slow_distance(distmat, *labels, rate, rates == group) for rate in FPR}
    assert list(seen.distance_by()) == [1.0, 4.0]


@pytest.mark.parametrize("slack", [1 << 18, 0], ids=["all_kept", "few_kept"])
@pytest.mark.parametrize("case", CASES)
def test_is_the_slow_search(case, slack, monkeypatch):
    monkeypatch.setattr(roc, "_SLACK", slack)
    monkeypatch.setattr(rank, "_ROWS", 7)
    distmat, *labels = CASES[case]
    rates = np.random.default_rng(1).choice([1.0, 2.0, 4.0], len(distmat))
    seen = Roc(*labels, fpr=FPR, groups=rates)
    rank_distances(distmat, *labels, roc=seen)
    expected = {rate: slow(distmat, *labels, rate) for rate in FPR}
    assert seen.tpr() == pytest.approx(expected)
    for group, found in seen.by().items():
        assert found == pytest.approx({rate: slow(distmat, *labels, rate, rates == group) for rate in FPR})
    assert list(seen.by()) == [1.0, 2.0, 4.0]


def test_few_rates_keep_few_distances(monkeypatch):
    """What is thrown away on the way must not matter to the lower rates, nor be kept."""
    monkeypatch.setattr(roc, "_SLACK", 0)
    distmat, *labels = make(200, 400)
    seen = Roc(*labels)
    bands = (distmat[start:stop] for start, stop in pairwise(range(0, 201, 5)))
    rank_tiles(bands, *labels, roc=seen)
    assert seen.tpr() == pytest.approx({rate: slow(distmat, *labels, rate) for rate in (1e-2, 1e-3)})
    assert sum(map(len, seen._all._wrong)) < 0.02 * distmat.size


def test_tensors_are_as_arrays(monkeypatch):
    distmat, *labels = BASE
    groups = labels[2]
    expected = Roc(*labels, groups=groups)
    rank_distances(distmat, *labels, roc=expected)
    monkeypatch.setattr(rank, "_stays", lambda tile: True)
    for dtype in (torch.float32, torch.float64):
        seen = Roc(*labels, groups=groups)
        rank_distances(torch.from_numpy(distmat).to(dtype), *labels, roc=seen)
        assert seen.tpr() == expected.tpr() and seen.by() == expected.by()


def test_features_show_their_bands():
    labels = BASE[1:]
    qf, gf = torch.randint(-2, 3, (60, 6)).float(), torch.randint(-2, 3, (150, 6)).float()
    seen = Roc(*labels, fpr=(0.1,))
    rank_features(qf, gf, *labels, tile=32, protocol="single_shot", roc=seen)
    distances = ((qf[:, None] - gf) ** 2).sum(dim=2).numpy()
    assert seen.tpr()[0.1] == pytest.approx(slow(distances, *labels, 0.1))


def test_no_image_is_its_own_match_under_vehicleid():
    """Query i is gallery image i: its distance to itself says nothing, whatever cameras the set gives the two sides."""
    rng = np.random.default_rng(0)
    pids = np.append(rng.integers(0, 8, 40), [50])  # 50 has one image, so no match
    distmat = rng.random((41, 41))
    np.fill_diagonal(distmat, 0)
    ones = np.ones(41)
    labels = pids, pids, 0 * ones, ones
    seen = Roc(*labels, fpr=FPR, protocol="vehicleid", groups=pids)
    rank_distances(distmat, *labels, "vehicleid", roc=seen)
    apart = np.arange(41)  # as Market's rule says it: each image under a camera of its own
    for rate in FPR:
        assert seen.tpr()[rate] == pytest.approx(slow(distmat, pids, pids, apart, apart, rate))
        assert seen.distance()[rate] == slow_distance(distmat, pids, pids, apart, apart, rate) or rate == 1
        assert seen.by()[3][rate] == pytest.approx(slow(distmat, pids, pids, apart, apart, rate, pids == 3))
    assert 50 not in seen.by()
    for protocol, other in (("market", "vehicleid"), ("vehicleid", "market")):
        with pytest.raises(ValueError, match=f"counts other pairs than the protocol {other}"):
            rank_distances(distmat, *labels, other, roc=Roc(*labels, protocol=protocol))


def test_a_group_without_a_match_has_no_figures():
    labels = [1, 2], [1, 3], [0, 0], [1, 1]
    seen = Roc(*labels, fpr=(0.5,), groups=["near", "far"])
    rank_distances(np.array([[0.0, 1.0], [0.0, 0.0]]), *labels, roc=seen)
    assert seen.by() == {"near": {0.5: 1.0}}


def test_errors():
    labels = BASE[1:]
    for rates in ((), (1.5,), (-0.1,), (float("nan"),)):
        with pytest.raises(ValueError, match="at least one number from 0 to 1"):
            Roc(*labels, fpr=rates)
    with pytest.raises(ValueError, match=r"shape \(60,\), not \(2,\)"):
        Roc(*labels, groups=[1, 2])
    seen = Roc(*labels)
    with pytest.raises(ValueError, match="seen 0 of 60 queries"):
        seen.tpr()
    with pytest.raises(ValueError, match="seen 0 of 60 queries"):
        seen.distance()
    rank_distances(BASE[0], *labels, roc=seen)
    with pytest.raises(ValueError, match=r"seen 60 queries, cannot take in .* from query 0 on"):
        rank_distances(BASE[0], *labels, roc=seen)
    with pytest.raises(ValueError, match="60 queries and 150 gallery images, which has seen 0"):
        rank_distances(BASE[0][:, :100], *(part[:100] if len(part) > 60 else part for part in labels),
                       roc=Roc(*labels))  # fmt: skip
    with pytest.raises(ValueError, match="none of the 60 queries has a match"):
        Roc(labels[0] + 99, *labels[1:])
