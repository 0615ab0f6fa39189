"""VDSR-CA against PS-HRNet's equations 2 to 4 and the layout of its published code."""

import math

import torch
from torch import nn

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
    net = build_front_end("vdsr_ca", depth=4)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            expected = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            assert abs(layer.weight.std().item() / expected - 1) < 0.05
