"""The batch-hard triplet against its formula, pair by pair, and against the host's."""

import math

import pytest
import torch

from torchreid_xres import host
from torchreid_xres.losses.batch_hard import batch_hard_triplet


def oracle(features, pids, margin):
    """Hermans et al., eq. 5, one anchor after the other."""
    total = 0.0
    for a in range(len(pids)):
        farthest, nearest = 0.0, math.inf
        for b in range(len(pids)):
            pairs = zip(features[a].tolist(), features[b].tolist(), strict=True)
            distance = math.sqrt(sum((x - y) ** 2 for x, y in pairs))
            if pids[a] == pids[b]:
                farthest = max(farthest, distance)
            else:
                nearest = min(nearest, distance)
        gap = farthest - nearest
        total += math.log1p(math.exp(gap)) if margin is None else max(0.0, margin + gap)
    return total / len(pids)


@pytest.mark.parametrize("margin", [0.1, 0.3, 2.0, None])
def test_is_the_formula(margin):
    features, pids = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) // 3
    assert batch_hard_triplet(features, pids, margin).item() == pytest.approx(oracle(features, pids, margin), rel=1e-5)


@pytest.mark.parametrize("margin", [0.3, 2.0, None])
def test_positives_and_negatives_are_those_of_the_other_views(margin):
    anchors, others, pids = 100 + torch.randn(12, 5).double(), 100 + torch.randn(12, 5).double(), torch.arange(12) // 3
    total = 0.0
    for a in range(12):
        distances = [math.dist(anchors[a].tolist(), other.tolist()) for other in others]
        gap = max(distances[b] for b in range(12) if pids[a] == pids[b])
        gap -= min(distances[b] for b in range(12) if pids[a] != pids[b])
        total += math.log1p(math.exp(gap)) if margin is None else max(0.0, margin + gap)
    found = batch_hard_triplet(anchors, pids, margin, among=others)
    assert found.item() == pytest.approx(total / 12, rel=1e-5)


def test_the_hardest_are_found_far_from_the_origin():
    features, pids = 100 + 0.01 * torch.randn(12, 5), torch.arange(12) // 3
    assert batch_hard_triplet(features, pids, 0.3).item() == pytest.approx(oracle(features, pids, 0.3), rel=1e-5)


def test_is_the_hosts_value():
    features, pids = torch.randn(24, 64), torch.arange(24) // 6
    assert batch_hard_triplet(features, pids, 0.3).item() == pytest.approx(
        host.TripletLoss(margin=0.3)(features, pids).item(), rel=1e-4
    )


def test_only_the_hardest_pairs_get_a_gradient():
    features = torch.tensor([[0.0], [1.0], [5.0], [2.0]], requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 0, 1]), margin=10.0).backward()
    numeric = []
    for i in range(4):
        moved = [features.detach().clone() for _ in range(2)]
        moved[0][i] += 1e-3
        moved[1][i] -= 1e-3
        up, down = (oracle(m, [0, 0, 0, 1], 10.0) for m in moved)
        numeric.append((up - down) / 2e-3)
    assert features.grad.flatten().tolist() == pytest.approx(numeric, abs=1e-3)


def test_equal_features_give_the_margin_and_a_finite_gradient():
    features = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), 0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3) and features.grad.isfinite().all()


def test_half_precision_is_computed_in_full():
    features, pids = torch.randn(12, 600).bfloat16(), torch.arange(12) // 3
    with torch.autocast("cpu", torch.bfloat16):
        loss = batch_hard_triplet(features, pids, 0.3)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(oracle(features.float(), pids, 0.3), rel=1e-5)


def test_one_identity_gives_nan_which_ends_a_run():
    assert batch_hard_triplet(torch.randn(4, 2), torch.zeros(4)).isnan()
