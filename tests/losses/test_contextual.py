import math

import pytest
import torch

from torchreid_xres.losses.contextual import contextual_similarity


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def context(feature, bank, temperature):
    """The softmax of an image's similarities to the bank, one after the other."""
    parts = [math.exp(cosine(feature, other) / temperature) for other in bank]
    return [part / sum(parts) for part in parts]


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_is_the_divergence_of_both_contexts(temperature):
    query, gallery, bank = torch.randn(4, 6), torch.randn(4, 6), torch.randn(9, 6)
    total = 0.0
    for q, g in zip(query.tolist(), gallery.tolist(), strict=True):
        wanted, found = (context(one, bank.tolist(), temperature) for one in (g, q))
        total += sum(p * math.log(p / o) for p, o in zip(wanted, found, strict=True))
    assert contextual_similarity(query, gallery, bank, temperature).item() == pytest.approx(total / 4, rel=1e-4)


def test_is_zero_where_both_see_the_bank_alike_and_moves_the_query_alone():
    query, gallery, bank = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True), torch.eye(6)
    assert contextual_similarity(3 * gallery, gallery, bank).item() == pytest.approx(0, abs=1e-5)
    contextual_similarity(query, gallery, bank).backward()
    assert query.grad.norm() > 0 and gallery.grad is None


def test_half_precision_around_it_does_not_round_similarities():
    query, gallery, bank = torch.randn(4, 6), torch.randn(4, 6), torch.randn(9, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = contextual_similarity(query, gallery, bank)
    assert torch.equal(found, contextual_similarity(query, gallery, bank))
