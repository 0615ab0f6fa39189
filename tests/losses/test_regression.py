import math

import pytest
import torch

from torchreid_xres.losses.regression import regression


def test_is_the_mean_of_one_minus_the_cosine():
    query, gallery = torch.randn(5, 7), torch.randn(5, 7)
    total = 0.0
    for q, g in zip(query.tolist(), gallery.tolist(), strict=True):
        product = sum(x * y for x, y in zip(q, g, strict=True))
        total += 1 - product / (math.hypot(*q) * math.hypot(*g))
    assert regression(query, gallery).item() == pytest.approx(total / 5, rel=1e-5)


def test_only_the_query_encoder_learns():
    query, gallery = torch.randn(2, 4, 3, requires_grad=True).unbind()
    query.retain_grad(), gallery.retain_grad()
    regression(query, gallery).backward()
    assert query.grad.norm() > 0 and gallery.grad is None
