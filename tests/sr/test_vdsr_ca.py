"""VDSR-CA against PS-HRNet's equations 2 to 4 and the layout of its published code."""

import math

import pytest
import torch
from pictures import clouds
from torch import nn

from torchreid_xres.data.degrade import round_trip
from torchreid_xres.models.layers import Normalization
from torchreid_xres.sr import build_front_end
from torchreid_xres.sr.rcan import ChannelAttention


def test_attention_sits_between_each_hidden_convolution_and_its_relu():
    body = build_front_end("vdsr_ca").body
    kinds = [type(layer) for layer in body]
    assert kinds == [nn.Conv2d, nn.ReLU, *[nn.Conv2d, ChannelAttention, nn.ReLU] * 18, nn.Conv2d]
    assert sum(p.numel() for p in body.parameters()) == 677_448
    assert all(layer.bias is None for layer in body if isinstance(layer, nn.Conv2d))


def test_the_attention_is_equations_2_to_4():
    attention = build_front_end("vdsr_ca", depth=3, features=6, squeezed=2).body[3]
    down, _, up, _ = attention.conv_du
    f = torch.randn(2, 6, 4, 3)
    out = torch.empty_like(f)
    for n in range(2):
        z = [sum(f[n, c, i, j].item() for i in range(4) for j in range(3)) / 12 for c in range(6)]  # eq. 2
        squeezed = [
            max(0.0, sum(down.weight[k, c, 0, 0].item() * z[c] for c in range(6)) + down.bias[k].item())
            for k in range(2)
        ]
        for c in range(6):
            raised = sum(up.weight[c, k, 0, 0].item() * squeezed[k] for k in range(2)) + up.bias[c].item()
            out[n, c] = f[n, c] / (1 + math.exp(-raised))  # eq. 3 and 4
    torch.testing.assert_close(attention(f), out)


def test_on_normalised_images_it_is_the_identity_plus_the_body():
    net = build_front_end("vdsr_ca", depth=3, features=6, squeezed=2)
    normalize = Normalization()
    x = torch.rand(1, 3, 8, 6)
    torch.testing.assert_close(normalize(net(x, size=(8, 6))), normalize(x) + net.body(normalize(x)))


def test_untrained_it_answers_with_the_image_it_got():
    net = build_front_end("vdsr_ca").eval()
    x = torch.rand(1, 3, 32, 16)
    with torch.no_grad():
        assert (net(x, size=(32, 16)) - x).abs().max() < 0.02


def test_its_convolutions_start_after_he_with_the_fan_of_their_outputs():
    net = build_front_end("vdsr_ca", depth=4, start="official")
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            expected = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            assert abs(layer.weight.std().item() / expected - 1) < 0.05


def share_left(steps, lr, optimizer=torch.optim.Adam, **options):
    """Train a net on low views of two pictures, and return the last L1 as a share of the views' own."""
    net = build_front_end("vdsr_ca", **options)
    optimizer = optimizer(net.parameters(), lr)
    truth = clouds(2, 24, 24)
    low = round_trip(truth, (12, 12))
    for _ in range(steps):
        loss = (net(low, size=(24, 24)) - truth).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item() / float((low - truth).abs().mean())


def test_it_learns_to_restore():
    assert share_left(30, 0.01, depth=4, features=8) < 0.95


@pytest.mark.slow
def test_it_learns_to_restore_at_the_papers_size():
    assert share_left(20, 3e-4) < 0.95
    # As published, gates near one half leave neither features nor gradients: the identity, whoever steps.
    assert share_left(5, 3e-4, start="official") == pytest.approx(1, abs=1e-3)
    assert share_left(5, 8.5e-4, torch.optim.SGD, start="official") == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("start", "least", "largest"), [("open", 0.1, 10), ("official", 0, 1e-4)])
def test_features_keep_their_scale_from_an_open_start(start, least, largest):
    body = build_front_end("vdsr_ca", start=start).body
    with torch.no_grad():
        first = body[1](body[0](torch.randn(1, 3, 16, 8)))
        last = body[2:-1](first.clone())
    assert least <= float(last.std() / first.std()) < largest


def test_gates_start_open_and_the_last_layer_small_unless_official():
    for start, gate in (("open", 0.98), ("official", 0.5)):
        body = build_front_end("vdsr_ca", depth=3, start=start).body
        with torch.no_grad():
            found = body[3].conv_du(torch.zeros(1, 64, 1, 1))
        assert found.mean() == pytest.approx(gate, abs=0.05)
        assert (body[-1].weight.std() < 0.01) == (start == "open")
    with pytest.raises(ValueError, match="VDSR-CA has no start 'closed'; allowed: open, official"):
        build_front_end("vdsr_ca", start="closed")
