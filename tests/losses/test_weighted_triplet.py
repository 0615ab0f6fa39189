"""The weighted regularised triplet loss against its formula, pair by pair."""

import math

import pytest
import torch

from torchreid_xres.losses.weighted_triplet import weighted_regularised_triplet


def oracle(features, pids):
    """Equation 8 of DGRL, one anchor after the other; the anchor is among its positives."""
    total = 0.0
    for a in range(len(pids)):
        positives, negatives = [], []
        for b in range(len(pids)):
            pairs = zip(features[a].tolist(), features[b].tolist(), strict=True)
            distance = math.sqrt(sum((x - y) ** 2 for x, y in pairs))
            (positives if pids[a] == pids[b] else negatives).append(distance)
        hard = sum(math.exp(d) * d for d in positives) / sum(math.exp(d) for d in positives)
        near = sum(math.exp(-d) * d for d in negatives) / sum(math.exp(-d) for d in negatives)
        total += math.log(1 + math.exp(hard - near))
    return total / len(pids)


@pytest.mark.parametrize("identities", [2, 4])
def test_is_equation_8(identities):
    features, pids = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) % identities
    expected = oracle(features, pids)
    assert weighted_regularised_triplet(features, pids).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_goes_through_the_weights():
    features = torch.randn(6, 3, requires_grad=True)
    pids = torch.tensor([0, 0, 0, 1, 1, 2])
    weighted_regularised_triplet(features, pids).backward()
    for i, j in ((0, 0), (3, 1), (5, 2)):
        moved = [features.detach().double().clone() for _ in range(2)]
        moved[0][i, j] += 1e-4
        moved[1][i, j] -= 1e-4
        up, down = (oracle(m, pids) for m in moved)
        assert features.grad[i, j].item() == pytest.approx((up - down) / 2e-4, abs=1e-4)


def test_far_and_equal_features_stay_finite():
    features = 1e4 * torch.randn(8, 4)
    features.requires_grad_(True)
    loss = weighted_regularised_triplet(features, torch.arange(8) // 2)
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    same = torch.ones(4, 3, requires_grad=True)
    loss = weighted_regularised_triplet(same, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and same.grad.isfinite().all()


def test_half_precision_is_computed_in_full():
    features, pids = torch.randn(12, 600).bfloat16(), torch.arange(12) // 3
    with torch.autocast("cpu", torch.bfloat16):
        loss = weighted_regularised_triplet(features, pids)
    assert loss.dtype == torch.float32
    # Distances of about 35 are rounded by 4e-6, and the weights are exponentials of them.
    assert loss.item() == pytest.approx(oracle(features.float(), pids), rel=1e-4)


def test_one_identity_gives_nan_which_ends_a_run():
    assert weighted_regularised_triplet(torch.randn(4, 2), torch.zeros(4)).isnan()
