"""The Restormer block against DGRL's equations 1 to 4, one number after the other."""

import math

import pytest
import torch

from torchreid_xres.comparison.complexity import complexity
from torchreid_xres.models.restormer import GDFN, MDTA, RestormerBlock


def slow_depthwise(x, kernel):
    """Correlate each channel of (C, H, W) with its own 3x3 kernel, zeros beyond the border."""
    channels, height, width = x.shape
    out = torch.zeros_like(x)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                for a in range(3):
                    for b in range(3):
                        if 0 <= i + a - 1 < height and 0 <= j + b - 1 < width:
                            out[c, i, j] += kernel[c, 0, a, b] * x[c, i + a - 1, j + b - 1]
    return out


def slow_mdta(net, x):
    """Equations 1 and 2 for one image (C, H, W): the attention of head m is (C/h, C/h)."""
    channels, height, width = x.shape
    per_head = channels // net.heads
    qkv = slow_depthwise(torch.einsum("oc,chw->ohw", net.pointwise.weight[:, :, 0, 0], x), net.depthwise.weight)
    query, key, value = (part.reshape(channels, -1) for part in qkv.split(channels))
    mixed = torch.zeros(channels, height * width)
    for m in range(net.heads):
        rows = range(m * per_head, (m + 1) * per_head)
        for c in rows:
            logits = []
            for d in rows:
                length = math.sqrt(sum(query[c] ** 2)) * math.sqrt(sum(key[d] ** 2))
                logits.append(float(net.temperature[m, 0, 0]) * float(sum(query[c] * key[d])) / length)
            total = sum(math.exp(one) for one in logits)
            for d, one in zip(rows, logits, strict=True):
                mixed[c] += math.exp(one) / total * value[d]
    return torch.einsum("oc,chw->ohw", net.out.weight[:, :, 0, 0], mixed.reshape(channels, height, width))


@torch.no_grad()
def test_mdta_is_equations_1_and_2():
    net = MDTA(6, heads=2)
    net.temperature.copy_(torch.tensor([0.5, 3.0]).view(2, 1, 1))
    x = torch.randn(1, 6, 4, 3)
    torch.testing.assert_close(net(x)[0], slow_mdta(net, x[0]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mdta_attends_over_channels():
    net = MDTA(64, heads=4)
    attention = net.attention(*torch.randn(2, 3, 4, 16, 50).unbind())
    assert attention.shape == (3, 4, 16, 16)  # whatever the number of pixels
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 4, 16))
    # The attention costs 2 C^2/h multiply-adds a pixel: linear in the pixels, where pixels attending would square them.
    costs = [complexity(net, torch.zeros(1, 64, side, side)).multiply_adds for side in (8, 16)]
    assert costs[1] == 4 * costs[0]


@torch.no_grad()
def test_gdfn_is_equation_3():
    net, x = GDFN(4, expansion=2.0), torch.randn(4, 3, 5)
    paths = slow_depthwise(torch.einsum("oc,chw->ohw", net.pointwise.weight[:, :, 0, 0], x), net.depthwise.weight)
    gate, passed = paths.split(8)
    gelu = gate.clone().apply_(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))
    expected = torch.einsum("oc,chw->ohw", net.out.weight[:, :, 0, 0], gelu * passed)
    torch.testing.assert_close(net(x[None])[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_block_is_equation_4():
    block, x = RestormerBlock(8, heads=2), torch.randn(2, 8, 4, 3)

    def norm(y):  # over channels, at each pixel
        return (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()

    middle = block.attention(norm(x)) + x
    torch.testing.assert_close(block(x), block.feed_forward(norm(middle)) + middle, rtol=1e-4, atol=1e-5)


def test_channels_that_cannot_be_divided_are_named():
    with pytest.raises(ValueError, match="10 channels cannot be divided among 4 heads"):
        MDTA(10, heads=4)
