"""Omni-SR's trunk: the published network's output, its groups of pixels, any size."""

import warnings

import pytest
import torch

from torchreid_xres.models.omni_sr import Groups, OmniTrunk


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (24, 32)])
def test_the_published_networks_weights_give_its_output(size):
    pytest.importorskip("spandrel", reason="spandrel is missing: pip install torchreid_xres[sr]")
    from torchreid_xres.sr import build_front_end

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its code is older than torch
        options = {"num_feat": 16, "res_num": 2, "block_num": 2}
        theirs = build_front_end("spandrel", 4, arch="OmniSR", **options).model
    ours = OmniTrunk(features=16, groups=2, blocks=2)
    own = ours.state_dict()
    # The same tensors in the same order, but for the table of positions, which is behind the projection there.
    places = {name: i + 1.5 * ("rel_pos" in name) for i, name in enumerate(own)}
    names = sorted(places, key=places.get)
    state = [t for name, t in theirs.state_dict().items() if name.startswith(("residual_layer.", "output."))]
    ours.load_state_dict({name: t.view_as(own[name]) for name, t in zip(names, state, strict=True)})
    x = torch.randn(2, 16, *size)
    expected = x + theirs.output(theirs.residual_layer(x))
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["block", "grid", "step"])
def test_groups_come_together_again(kind):
    x = torch.randn(2, 3, 12, 8)
    groups = Groups(4, kind)
    divided = groups.divide(x)
    pixels = 3 * 2 if kind == "step" else 16
    assert divided.shape == (2 * 96 // pixels, 3, pixels)
    assert torch.equal(groups.join(divided, 12, 8), x)


def test_who_is_in_a_group_is_what_its_name_says():
    x = torch.arange(64).view(1, 1, 8, 8)
    for kind, rows in (("block", [0, 1, 2, 3]), ("grid", [0, 2, 4, 6]), ("step", [0, 4])):
        first = Groups(4, kind).divide(x)[0, 0].tolist()
        assert first == [8 * r + c for r in rows for c in rows]


def test_at_the_papers_sizes_it_has_the_published_parameters():
    # 2.936 M with the magnifying convolution for x8, 64 -> 192, and without the first one.
    assert sum(p.numel() for p in OmniTrunk().parameters()) + 64 * 192 * 9 + 192 == 2_935_552


@pytest.mark.parametrize("size", [(16, 16), (3, 21), (8, 1)])
def test_any_size_and_every_weight_learns(size):
    trunk = OmniTrunk(features=8, groups=1, blocks=1)
    x = torch.randn(2, 8, *size)
    y = trunk(x)
    assert y.shape == x.shape
    y.square().mean().backward()
    assert [name for name, p in trunk.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"features": 10}, "multiple of 4, not 10"), ({"window": 0}, "window of Omni-SR must be at least 1")],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OmniTrunk(**options)
