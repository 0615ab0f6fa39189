"""VPFA's modules against their equations, written out."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.models.vpfa import PANNINGS, Conditioned, MeanDirection, PerRate, VPBlock

RATES = (2.0, 3.0, 4.0)


def oracle(block, x):
    """Equation 1 for one feature, number by number."""
    weights = [(layer.weight.tolist(), layer.bias.tolist()) for layer in block.offset if hasattr(layer, "weight")]
    linear, norms = weights[0::2], weights[1::2]
    h = x.tolist()
    for layer, (weight, bias) in enumerate(linear):
        out = [sum(w * v for w, v in zip(row, h, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        if layer == 3:
            return torch.tensor([v + math.tanh(o) for v, o in zip(x.tolist(), out, strict=False)])
        mean = sum(out) / len(out)
        spread = math.sqrt(sum((o - mean) ** 2 for o in out) / len(out) + 1e-5)
        scale, shift = norms[layer]
        h = [max(0.0, float((o - mean) / spread * a + b)) for o, a, b in zip(out, scale, shift, strict=True)]


def test_the_perceptron_computes_its_equation():
    block = VPBlock(features=5, hidden=7)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        x = torch.randn(3, 5)
        assert torch.allclose(block(x), torch.stack([oracle(block, row) for row in x]), atol=1e-5)


def test_published_sizes_have_the_published_number_of_parameters():
    # L1 to L4 with biases, and three layer norms, for TransReID's 3840 features.
    expected = (3840 * 2048 + 2048) + 2 * (2048**2 + 2048) + (2048 * 3840 + 3840) + 3 * 2 * 2048
    assert sum(p.numel() for p in VPBlock().parameters()) == expected
    assert sum(p.numel() for p in PerRate(3840, RATES).parameters()) == 3 * expected
    assert sum(p.numel() for p in Conditioned(3840, RATES).parameters()) == expected + 2048
    assert sum(p.numel() for p in MeanDirection(3840, RATES).parameters()) == 0


def test_every_parameter_gets_a_gradient_and_an_offset_is_bounded():
    block = VPBlock(features=6, hidden=8, conditions=1)
    x = torch.randn(4, 7) * 100
    F.mse_loss(block(x), torch.zeros(4, 6)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    assert ((block(x) - x[:, :6]).abs() <= 1).all()


@pytest.mark.parametrize("name", list(PANNINGS))
def test_only_low_features_move_and_the_input_stays(name):
    module = PANNINGS.build(name, features=6, rates=RATES, hidden=8)
    x, rate = torch.randn(5, 6), torch.tensor([1.0, 2.0, 1.0, 4.0, 7.5])
    if name == "mean":
        module.offsets.normal_()
    kept = x.clone()
    out = module(x, rate)
    assert out.shape == x.shape and not out.requires_grad and torch.equal(x, kept)
    assert (out != x).any(dim=1).tolist() == [False, True, False, True, True]
    again = PANNINGS.build(name, features=6, rates=RATES, hidden=8)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x, rate), out)


def test_a_query_takes_the_perceptron_of_the_nearest_rate_on_a_log_scale():
    module = PerRate(4, RATES, hidden=8)
    x = torch.randn(6, 4)
    out = module(x, torch.tensor([1.3, 1.5, 2.4, 2.5, 3.6, 100.0]))
    # 1.3 < sqrt(1 * 2) < 1.5; 2.4 < sqrt(2 * 3) < 2.5; sqrt(3 * 4) < 3.6
    with torch.no_grad():
        expected = [x[0], *(module.blocks[k](x[i][None])[0] for i, k in enumerate((0, 0, 1, 2, 2), start=1))]
    assert torch.allclose(out, torch.stack(expected), atol=1e-6)


def test_the_conditioned_perceptron_sees_the_logarithm_of_the_rate():
    module = Conditioned(4, RATES, hidden=8)
    x = torch.randn(1, 4)
    seen = module(x, torch.tensor([2.5]))
    assert torch.allclose(seen[0], oracle(module.block, torch.cat([x[0], torch.tensor([math.log(2.5)])])), atol=1e-5)
    assert not torch.equal(seen, module(x, torch.tensor([3.0])))


def test_the_mean_direction_is_the_least_squares_constant():
    module = MeanDirection(3, RATES)
    x, target = torch.randn(30, 3), torch.randn(30, 3)
    rate = torch.tensor(RATES).repeat(10)
    module.learn(x, rate, target, train=None)
    for k, own in enumerate(RATES):
        difference = (target - x)[rate == own].double().numpy()
        solved, *_ = np.linalg.lstsq(np.ones((10, 1)), difference, rcond=None)
        assert np.allclose(module.offsets[k], solved[0], atol=1e-6)


def test_the_mean_direction_is_interpolated_over_log_rate():
    module = MeanDirection(1, [2.0, 4.0])
    module.offsets.copy_(torch.tensor([[1.0], [5.0]]))
    rate = torch.tensor([1.0, 2**0.5, 2.0, 2**1.5, 4.0, 16.0])
    assert torch.allclose(module(torch.zeros(6, 1), rate)[:, 0], torch.tensor([0, 0.5, 1, 3, 5, 5]), atol=1e-6)


@pytest.mark.parametrize("rates", [[], [1.0, 2.0], [0.5]])
def test_rates_that_are_no_loss_are_refused(rates):
    with pytest.raises(ValueError, match=r"rates above 1, at least one, not \["):
        PerRate(4, rates)
