"""Named parts and how they are put out; that each model's can be is walked in ``test_every_model.py``."""

import pytest
import torch
from torch import nn

from torchreid_xres.parts import Part, batch_mean, enlarged, its_input, nothing, parts_of, put_out
from torchreid_xres.sr import build_front_end


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        (its_input, lambda x, y: x), (nothing, lambda x, y: torch.zeros_like(y)),
        (batch_mean, lambda x, y: y.mean(0).expand(3, 2)),
    ],
)  # fmt: skip
def test_what_stands_for_a_part(off, expected):
    layer, x = nn.Linear(2, 2), torch.rand(3, 2)
    before = layer(x)
    with put_out(Part((layer,), off)) as called:
        assert not called
        torch.testing.assert_close(layer(x), expected(x, before))
        assert called == [layer]
    assert torch.equal(layer(x), before)


def test_a_front_end_put_out_enlarges_to_the_size_asked():
    front_end, x = build_front_end("edsr", scale=2, blocks=1, features=4).eval(), torch.rand(1, 3, 8, 4)
    with put_out(Part((front_end,), enlarged)):
        found = front_end(x, size=(24, 12))
    assert torch.equal(found, build_front_end("bicubic").eval()(x, size=(24, 12)))


def test_a_loss_of_a_part_that_is_put_out_has_a_backward_pass():
    layer = nn.Linear(2, 2)
    with put_out(Part((layer,), nothing)):
        layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is None


def test_parts_without_parameters_are_none(monkeypatch):
    model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    found = {"relu": Part((model[0],)), "linear": Part((model[1],)), "missing": Part(())}
    monkeypatch.setattr(nn.Sequential, "named_parts", lambda self: found, raising=False)
    assert list(parts_of(model)) == ["linear"]
