import math

import pytest
import torch

from torchreid_xres.losses.parts import part_cross_entropy, part_triplet

PIDS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_cross_entropy_by_loops(smoothing):
    logits = torch.randn(6, 4, 5, dtype=torch.float64)
    total = 0.0
    for image, pid in zip(logits.tolist(), PIDS.tolist(), strict=True):
        for part in image:  # eq. 8: sum over h
            norm = math.log(sum(math.exp(v) for v in part))
            for c, value in enumerate(part):
                q = 1 - smoothing + smoothing / 5 if c == pid else smoothing / 5  # eq. 10
                total -= q * (value - norm)
    assert float(part_cross_entropy(logits, PIDS, smoothing)) == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5, 50.0])
def test_triplet_by_loops(margin):
    parts = torch.randn(6, 4, 7)
    total = 0.0
    for h in range(4):  # eq. 12
        for a in range(6):
            distances = [math.dist(parts[a, h].tolist(), parts[b, h].tolist()) for b in range(6)]
            positive = max(d for b, d in enumerate(distances) if PIDS[b] == PIDS[a])
            negative = min(d for b, d in enumerate(distances) if PIDS[b] != PIDS[a])
            total += max(margin + positive - negative, 0.0) / 6
    assert float(part_triplet(parts, PIDS, margin)) == pytest.approx(total, rel=1e-5)


def test_each_part_has_its_own_hardest_images():
    parts = torch.randn(6, 2, 3)
    apart = part_triplet(parts[:, :1], PIDS, 50.0) + part_triplet(parts[:, 1:], PIDS, 50.0)
    torch.testing.assert_close(part_triplet(parts, PIDS, 50.0), apart)


def test_parts_and_logits_get_gradients():
    parts, logits = torch.randn(6, 4, 7, requires_grad=True), torch.randn(6, 4, 5, requires_grad=True)
    (part_triplet(parts, PIDS, 50.0) + part_cross_entropy(logits, PIDS)).backward()
    assert (parts.grad.abs().sum(2) > 0).all() and (logits.grad.abs().sum(2) > 0).all()
