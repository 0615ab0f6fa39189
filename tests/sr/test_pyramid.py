"""The pyramid restorer and its trunks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchreid_xres import host
from torchreid_xres.image import resize
from torchreid_xres.metrics.image import psnr
from torchreid_xres.models import build_model
from torchreid_xres.sr.han import ChannelSpatialAttention, HANTrunk, LayerAttention
from torchreid_xres.sr.pyramid import SCALES, TRUNKS, Pyramid, PyramidRestorer, training_pair
from torchreid_xres.sr.swinir import SwinIRTrunk
from torchreid_xres.sr.trunk import LightTrunk

TINY = {
    "swinir": {"features": 12, "depths": (2, 2), "heads": 2, "window": 4},
    "han": {"groups": 2, "blocks": 1, "features": 16, "reduction": 4},
    "light": {"features": 8, "blocks": 1},
}
every_trunk = pytest.mark.parametrize("trunk", TINY)


def build(trunk, **options):
    return PyramidRestorer(trunk, TINY[trunk], head_features=4, **options)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_table_above_covers_the_registry():
    assert set(TINY) == set(TRUNKS)


@every_trunk
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (7, 5), (8, 8), (13, 22)])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_exactly_two_three_and_four_times_the_input(trunk, size, training):
    x = torch.rand(2, 3, *size)
    kept = x.clone()
    with torch.no_grad():
        pyramid = build(trunk).train(training)(x)
    assert pyramid._fields == ("x2", "x3", "x4")
    for image, scale in zip(pyramid, (2, 3, 4), strict=True):
        assert image.shape == (2, 3, scale * size[0], scale * size[1])
        assert image.isfinite().all()
    assert torch.equal(x, kept)


@every_trunk
def test_every_parameter_and_the_image_get_a_gradient_from_each_head(trunk):
    restorer = build(trunk).train()
    for name, parameter in restorer.named_parameters():
        if name.endswith(".scale"):  # at their start, 0, they hide what they weigh
            nn.init.constant_(parameter, 0.5)
    for head in SCALES:
        restorer.zero_grad()
        x = torch.rand(2, 3, 9, 6, requires_grad=True)
        getattr(restorer(x), head).square().sum().backward()
        reached = {n for n, p in restorer.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        others = {n for n, _ in restorer.named_parameters() if n.startswith("heads.") and f".{head}." not in n}
        assert reached | others == set(dict(restorer.named_parameters())) and not reached & others
        assert x.grad.abs().sum() > 0


@every_trunk
def test_an_untrained_restorer_starts_near_the_bicubic_image(trunk):
    x = resize(torch.rand(1, 3, 6, 4), (24, 16)).clamp(0, 1)
    with torch.no_grad():
        for image, scale in zip(build(trunk).eval()(x), SCALES.values(), strict=True):
            assert psnr(image, resize(x, (24 * scale, 16 * scale)).clamp(0, 1)).item() > 35


def test_without_residual_the_heads_answer_alone():
    restorer = build("light", residual=False)
    nn.init.zeros_(restorer.heads["x2"][-1].weight)
    nn.init.zeros_(restorer.heads["x2"][-1].bias)
    image = restorer(torch.rand(1, 3, 4, 4)).x2
    torch.testing.assert_close(image, restorer.mean.expand_as(image))


@every_trunk
def test_evaluation_is_clamped_and_independent_of_the_batch(trunk):
    restorer = build(trunk).double().eval()
    x = torch.rand(3, 3, 7, 10, dtype=torch.float64).round()
    with torch.no_grad():
        together = restorer(x)
        alone = [restorer(image) for image in x.split(1)]
    for i, image in enumerate(together):
        assert image.min() >= 0 and image.max() <= 1
        torch.testing.assert_close(image, torch.cat([one[i] for one in alone]), rtol=0, atol=1e-8)
    assert restorer.train()(x).x4.max() > 1


@every_trunk
def test_bfloat16_autocast_keeps_the_images_precision(trunk):
    restorer, x = build(trunk).eval(), torch.rand(1, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pyramid = restorer(x)
    assert all(image.dtype == torch.float32 for image in pyramid)
    with torch.no_grad():
        torch.testing.assert_close(pyramid.x3, restorer(x).x3, rtol=0, atol=0.01)


def test_published_counts():
    with torch.device("meta"):
        restorer, han = PyramidRestorer(), HANTrunk()
    assert count(restorer) == 12_591_213  # 12.59 M
    assert [round(count(head) / 1e6, 3) for head in restorer.heads.values()] == [0.253, 0.438, 0.401]
    # HAN x4 has 16,071,745; its magnifying end: two convolutions 64 -> 256 and one 64 -> 3.
    assert count(han) == 16_071_745 - 2 * (64 * 256 * 9 + 256) - (64 * 3 * 9 + 3)


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["swinir", "han"])
def test_paper_sizes_take_a_step_and_evaluate(trunk):
    restorer = build_model("prpr_restorer", trunk=trunk)
    lr, target = training_pair(torch.rand(2, 3, 64, 32))
    optimizer = torch.optim.Adam(restorer.parameters(), lr=2e-4)

    def loss():
        return sum(F.l1_loss(image, truth) for image, truth in zip(restorer(lr), target, strict=True))

    before = loss()
    before.backward()
    assert all(p.grad is not None for p in restorer.parameters())
    optimizer.step()
    with torch.no_grad():
        assert loss().isfinite() and restorer.eval()(lr).x4.shape == (2, 3, 64, 32)


def test_it_is_a_model_of_the_hosts_factory():
    restorer = host.build_model("prpr_restorer", num_classes=5)
    assert isinstance(restorer, PyramidRestorer) and restorer.trunk.features == 180


def test_errors_name_what_is_allowed():
    with pytest.raises(KeyError, match="no trunk named 'swinr'; did you mean 'swinir'"):
        PyramidRestorer("swinr")
    with pytest.raises(TypeError, match="depth"):
        PyramidRestorer("light", {"depth": 3})
    with pytest.raises(ValueError, match="5 attention heads cannot share 12 features"):
        SwinIRTrunk(features=12, heads=5)
    with pytest.raises(ValueError, match="8 features cannot be reduced 16"):
        HANTrunk(features=8)
    restorer = build("light")
    with pytest.raises(TypeError, match="divide 8-bit images by 255"):
        restorer(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    for shape in [(3, 4, 4), (1, 1, 4, 4), (1, 3, 0, 4)]:
        with pytest.raises(ValueError, match="shape"):
            restorer(torch.zeros(shape))


# -- trunks --------------------------------------------------------------------------------------------------


def published_swinir(**sizes):
    pytest.importorskip("spandrel", reason="spandrel is missing: pip install torchreid_xres[sr]")
    from spandrel.architectures.SwinIR import SwinIR

    sizes = {"embed_dim": 12, "depths": [2, 3], "num_heads": [2, 2], "window_size": 4, "mlp_ratio": 2.0, **sizes}
    net = SwinIR(upscale=4, upsampler="pixelshuffle", **sizes).eval()
    for parameter in net.parameters():  # also those that start at 0 or 1
        nn.init.normal_(parameter, std=0.2)
    return net


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema"])
def test_published_swinir_weights_give_the_same_features(tmp_path, wrapper):
    net = published_swinir()
    state = net.state_dict()
    torch.save(state if wrapper is None else {wrapper: state}, tmp_path / "swinir.pth")
    sizes = {"features": 12, "depths": (2, 3), "heads": 2, "window": 4}
    trunk = PyramidRestorer("swinir", sizes, tmp_path / "swinir.pth", head_features=4).trunk.eval()
    for size in [(8, 8), (12, 20), (16, 8)]:
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            shallow = net.conv_first(x)
            expected = net.conv_after_body(net.forward_features(shallow)) + shallow
            torch.testing.assert_close(trunk(x), expected, rtol=1e-4, atol=1e-4)


def test_swinir_weights_of_another_size_are_refused(tmp_path):
    torch.save(published_swinir().state_dict(), tmp_path / "swinir.pth")
    with pytest.raises(ValueError, match=r"not fit SwinIRTrunk\(features=24\).*conv_first\.weight \(12, 3, 3, 3\)"):
        PyramidRestorer("swinir", {**TINY["swinir"], "features": 24}, tmp_path / "swinir.pth")
    with pytest.raises(ValueError, match=r"has besides groups\.1\.blocks\.2"):
        PyramidRestorer("swinir", TINY["swinir"], tmp_path / "swinir.pth")
    with pytest.raises(ValueError, match="does not fit LightTrunk"):
        PyramidRestorer("light", TINY["light"], tmp_path / "swinir.pth")


@every_trunk
def test_a_trunk_starts_from_another_restorers(trunk, tmp_path):
    other = build(trunk)
    torch.save({"models": {"model": other.state_dict()}}, tmp_path / "last.pth.tar")
    mine = build(trunk, trunk_weights=tmp_path / "last.pth.tar")
    for name, tensor in other.trunk.state_dict().items():
        assert torch.equal(mine.trunk.state_dict()[name], tensor)


def test_every_other_swin_layer_is_shifted_by_half_a_window():
    trunk = SwinIRTrunk(features=12, depths=(3,), heads=2, window=8)
    assert [block.attn.shift_size for block in trunk.groups[0].blocks] == [[0, 0], [4, 4], [0, 0]]
    chances = [block.stochastic_depth.p for group in SwinIRTrunk(12, (2, 2), 2).groups for block in group.blocks]
    assert chances == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])


def test_layer_attention_is_the_papers_sum():
    lam, x = LayerAttention(), torch.rand(2, 3, 4, 2, 2) / 4
    nn.init.constant_(lam.scale, 0.7)
    y = lam(x)
    for n in range(2):
        for j in range(3):
            likeness = [float((x[n, j] * x[n, i]).sum()) for i in range(3)]
            weights = [math.exp(max(likeness) - value) for value in likeness]
            mixed = sum(w / sum(weights) * x[n, i] for i, w in enumerate(weights))
            torch.testing.assert_close(y[n, j], 0.7 * mixed + x[n, j])


def test_channel_spatial_attention_is_the_papers_product():
    csam, x = ChannelSpatialAttention(), torch.rand(2, 4, 3, 5)
    assert torch.equal(csam(x), x)
    nn.init.constant_(csam.scale, 0.5)
    y = csam(x)
    for n in range(2):
        padded = F.pad(x[n], (1, 1, 1, 1, 1, 1))
        for c in range(4):
            for i in range(3):
                for j in range(5):
                    seen = padded[c : c + 3, i : i + 3, j : j + 3]
                    weight = ((seen * csam.conv.weight[0, 0]).sum() + csam.conv.bias[0]).sigmoid()
                    torch.testing.assert_close(y[n, c, i, j], 0.5 * weight * x[n, c, i, j] + x[n, c, i, j])


def test_han_joins_both_attentions_before_the_long_skip():
    trunk, x = HANTrunk(**TINY["han"]), torch.rand(1, 3, 5, 4)
    first = trunk.first(x)
    group1 = trunk.body[0](first)
    group2 = trunk.body[1](group1)
    last = trunk.body[2](group2)
    merged = trunk.merge_layers(torch.cat((group1, group2, last), dim=1))  # both attentions start switched off
    torch.testing.assert_close(trunk(x), first + trunk.merge(torch.cat((last, merged), dim=1)))


def test_the_light_trunk_has_one_long_skip():
    trunk, x = LightTrunk(features=4, blocks=2), torch.rand(1, 3, 5, 4)
    nn.init.zeros_(trunk.body[-1].weight)
    nn.init.zeros_(trunk.body[-1].bias)
    assert torch.equal(trunk(x), trunk.first(x))


def test_the_training_pair_is_made_from_one_image():
    hr = torch.rand(2, 3, 34, 19)
    lr, target = training_pair(hr)
    assert isinstance(target, Pyramid) and lr.shape == (2, 3, 8, 4)
    torch.testing.assert_close(lr, resize(hr, (8, 4)).clamp(0, 1))
    for image, scale in zip(target, (2, 3, 4), strict=True):
        assert image.shape == (2, 3, 8 * scale, 4 * scale) and image.min() >= 0 and image.max() <= 1
    assert torch.equal(training_pair(hr[..., :32, :16])[1].x4, hr[..., :32, :16])
    with pytest.raises(ValueError, match="3x9 pixels have no quarter"):
        training_pair(torch.rand(1, 3, 3, 9))
