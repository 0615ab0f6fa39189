import math

import pytest
import torch

from torchreid_xres.keypoints.scores import pck, pck_by_point, visibility_accuracy

NAMES = ("a", "b", "c")


@pytest.fixture
def case():
    truth = torch.rand(30, 3, 2)
    truth[torch.rand(30, 3) < 0.4] = -1.0
    truth[:, 2] = -1.0  # never seen
    return truth + 0.1 * torch.randn_like(truth), truth


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_pck_against_a_loop(case, alpha):
    predicted, truth = case
    counts = {name: [0, 0] for name in NAMES}
    for n in range(30):
        for k, name in enumerate(NAMES):
            (px, py), (x, y) = predicted[n, k].tolist(), truth[n, k].tolist()
            if x >= 0:
                counts[name][0] += math.hypot(px - x, py - y) <= alpha
                counts[name][1] += 1
    found, visible = map(sum, zip(*counts.values(), strict=True))
    assert pck(predicted, truth, alpha) == pytest.approx(100 * found / visible)
    by_point = {name: 100 * f / v for name, (f, v) in counts.items() if v}
    assert pck_by_point(predicted, truth, NAMES, alpha) == pytest.approx(by_point)
    assert set(by_point) == {"a", "b"}


def test_visibility_accuracy_against_a_loop(case):
    _, truth = case
    said = torch.rand(30, 3) < 0.5
    right = sum(bool(said[n, k]) == (truth[n, k, 0].item() < 0) for n in range(30) for k in range(3))
    assert visibility_accuracy(said, truth) == pytest.approx(100 * right / 90)


def test_nothing_visible_is_no_number():
    assert math.isnan(pck(torch.rand(2, 3, 2), torch.full((2, 3, 2), -1.0)))
