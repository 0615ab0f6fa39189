"""The mutual loss against equations 10 to 12 of DGRL, number by number."""

import math

import pytest
import torch

from torchreid_xres.losses.mutual_kl import mutual_kl


def oracle(logits):
    """Return the sum over ordered pairs, mean over images."""
    total = 0.0
    for i, mine in enumerate(logits):
        for j, other in enumerate(logits):
            if i == j:
                continue
            for row_i, row_j in zip(mine.tolist(), other.tolist(), strict=True):
                p_i, p_j = ([math.exp(s) / sum(map(math.exp, row)) for s in row] for row in (row_i, row_j))
                total += sum(b * math.log(b / a) for a, b in zip(p_i, p_j, strict=True)) / len(mine)
    return total


@pytest.mark.parametrize("branches", [2, 3])
def test_is_the_sum_over_ordered_pairs(branches):
    logits = [torch.randn(4, 7) for _ in range(branches)]
    assert mutual_kl(logits).item() == pytest.approx(oracle(logits), rel=1e-5)


def test_is_zero_where_all_agree_and_for_one_branch():
    one = torch.randn(4, 7)
    assert mutual_kl([one, one + 3.0, one]).item() == pytest.approx(0, abs=1e-6)  # a shift changes no probability
    assert mutual_kl([one]) == 0


def test_each_branch_follows_the_others_as_they_stand():
    logits = [torch.randn(2, 5, requires_grad=True) for _ in range(3)]
    mutual_kl(logits).backward()
    p = [one.detach().softmax(1) for one in logits]
    for i, one in enumerate(logits):
        # d D(p_j || p_i) / d s_i = p_i - p_j for a fixed p_j, each over N
        expected = sum(p[i] - p[j] for j in range(3) if j != i) / 2
        torch.testing.assert_close(one.grad, expected)
