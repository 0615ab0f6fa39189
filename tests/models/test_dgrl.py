"""DGRL: its heads against their formulas, what each mode runs, and which image goes where."""

import pytest
import tiny_net
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, Resize
from torchvision.transforms.functional import to_tensor

import torchreid_xres  # noqa: F401 (registers)
from torchreid_xres.comparison.complexity import complexity
from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.metrics.image import psnr
from torchreid_xres.models import build_model
from torchreid_xres.models.dgrl import GALN, GeM
from torchreid_xres.models.nonlocal_block import NonLocal

TINY_SR = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
SMALL = {"pretrained": False, "reid": tiny_net.STAGED, "sr_options": TINY_SR, "dim": 16, "groups": 3, "hidden": 8}


def batch_of(low, rate=2.0, height=64, width=32):
    count = len(low)
    size = torch.tensor([[height // 2, width // 2]] * count)
    rates = torch.where(torch.tensor(low), rate, 1.0)
    return {"img": torch.randn(count, 3, height, width), "low": torch.tensor(low), "rate": rates, "size": size}


@torch.no_grad()
def test_galn_adds_the_weighed_groups_to_the_instance():
    net, x = GALN(5, dim=4, groups=3, hidden=6).eval(), torch.randn(2, 5)
    instance = net.instance(x)
    weights = net.probabilities(instance)
    assert weights.shape == (2, 3) and (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    for n in range(2):
        expected = instance[n].clone()
        for k in range(3):  # K parallel layers
            rows = slice(4 * k, 4 * (k + 1))
            expected += weights[n, k] * (net.groups.weight[rows] @ x[n] + net.groups.bias[rows])
        torch.testing.assert_close(net(x)[n], expected)


def test_gem_is_the_generalised_mean_and_learns_its_exponent():
    x = torch.rand(1, 2, 3, 2)
    pooled = GeM(p=3.0)(x)
    for c in range(2):
        values = x[0, c].flatten().tolist()
        assert pooled[0, c].item() == pytest.approx((sum(v**3 for v in values) / 6) ** (1 / 3), rel=1e-5)
    gem = GeM()
    gem(x).sum().backward()
    assert gem.p.grad.abs() > 0
    torch.testing.assert_close(GeM(p=60.0)(x), x.amax((2, 3)), rtol=0.05, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert gem(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("up", ["bicubic", "bilinear"])
@torch.no_grad()
def test_what_the_camera_saw_is_found_in_what_the_loader_made_of_it(up, shared_data):
    """The model restores the small image, and the loader hands it an enlarged one."""
    path = next(iter(sorted((shared_data / "cuhk03_p1" / "images").glob("*.jpg"))))
    original = Image.open(path)
    small = degrade_image(original, 3.0)
    enlarged = Resize((256, 128), interpolation=InterpolationMode(up))(small)
    model = build_model("dgrl", **SMALL, interpolation=up)
    given = []
    model.restorer.forward = lambda x, rate, size: given.append((x, rate)) or torch.zeros(1, 3, *size)
    img = model.normalize(to_tensor(enlarged)[None])
    model.restore(img, [3.0], [(small.height, small.width)], [True])
    (found, tail), = given
    assert tail == 3 and found.shape[2:] == (small.height, small.width)
    assert psnr(found, to_tensor(small)[None]) > 50


@torch.no_grad()
def test_images_of_all_rates_and_sizes_are_restored_together_as_alone():
    model = build_model("dgrl", **SMALL).eval()
    for p in model.restorer.parameters():
        p.copy_(0.3 * torch.randn_like(p))
    img = 0.5 * torch.randn(5, 3, 64, 32)
    rates, sizes, low = [2.0, 3.0, 2.0, 1.0, 1.0], [[32, 16], [20, 10], [32, 16], [30, 14], [64, 32]], [True] * 5
    together = model.restore(img, rates, sizes, low)
    for i in range(5):
        alone = model.restore(img[i : i + 1], rates[i : i + 1], sizes[i : i + 1], low[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=0)
    # Rate 1 means low by nature, so 32 / 14 is restored, and 32 / 32 is not.
    changed = [(together[i] - img[i]).abs().max() > 0.1 for i in range(5)]
    assert changed == [True, True, True, True, False]


def test_the_papers_size():
    model = build_model("dgrl", num_classes=751, pretrained=False)
    assert sum(p.numel() for p in model.stems["hr"].restormer.parameters()) == 54_072
    assert [sum(p.numel() for p in side.parameters()) for side in model.sides] == [14_248_960, 14_964_736]
    assert sum(m.numel() for n, m in model.named_parameters() if "galn.groups" in n) == 3 * (2048 + 1) * 32 * 512
    assert [type(m).__name__ for m in model.stages.modules()].count("NonLocal") == 5
    assert sum(p.numel() for p in model.parameters()) == 174_380_491
    hr, sr = model.train()(torch.zeros(1, 3, 64, 32), torch.zeros(2, 3, 64, 32))
    assert hr.shallow.shape == (1, 64, 16, 8) and sr.shallow.shape == (2, 64, 16, 8)
    assert [f.shape for f in hr.features] == 3 * [(1, 512)] and [s.shape for s in sr.logits] == 3 * [(2, 751)]


def test_at_test_only_the_main_branch_runs():
    img = torch.zeros(1, 3, 64, 32)
    model = build_model("dgrl", num_classes=5, **SMALL)
    found = {part.name: part for part in complexity(model, img).parts}
    assert found["sides"].multiply_adds == 0 and found["sides"].unused == found["sides"].parameters > 0
    alone = build_model("dgrl", num_classes=5, **SMALL, sides=False)
    assert complexity(alone, img).multiply_adds == complexity(model, img).multiply_adds
    ran = []
    for part in (model.sides, model.heads[1:]):
        for module in part:
            module.register_forward_hook(lambda *_: ran.append(1))
    model.eval().extract(batch_of([True, False]))
    assert ran == []


@torch.no_grad()
def test_each_resolution_has_its_stem():
    model = build_model("dgrl", **SMALL).eval()
    seen = {}
    for view, stem in model.stems.items():
        stem.register_forward_hook(lambda _, args, out, view=view: seen.setdefault(view, []).append(args[0]))
    batch = batch_of([True, False, True, False, False])
    features = model.extract(batch)
    torch.testing.assert_close(seen["hr"][0], batch["img"][[1, 3, 4]])
    restored = model.restore(batch["img"][[0, 2]], [2.0, 2.0], [[32, 16]] * 2, [True] * 2)
    torch.testing.assert_close(seen["sr"][0], restored)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    # In the order of the batch, whichever stem they came through.
    torch.testing.assert_close(features[[1, 3, 4]], model(batch["img"][[1, 3, 4]]), rtol=1e-4, atol=1e-5)
    for i in range(5):
        one = {key: value[i : i + 1] for key, value in batch.items()}
        torch.testing.assert_close(model.extract(one)[0], features[i], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_in_training_too():
    model = build_model("dgrl", num_classes=5, **SMALL).train()
    hr, sr = torch.randn(2, 4, 3, 64, 32)
    model.stems["sr"].layers[0].conv.weight.zero_()  # a stem that sees nothing
    a, b = model(hr, sr), model(hr, sr + 1)
    torch.testing.assert_close(a.sr.shallow, b.sr.shallow)
    assert not torch.allclose(a.hr.shallow, model(hr + 1, sr).hr.shallow)
    assert not torch.allclose(a.hr.shallow, a.sr.shallow)


def test_the_stems_share_no_parameter():
    model = build_model("dgrl", **SMALL)
    hr, sr = ({id(p) for p in stem.parameters()} for stem in model.stems.values())
    assert not hr & sr and len(hr) == len(sr)
    for a, b in zip(model.stems["hr"].layers.parameters(), model.stems["sr"].layers.parameters(), strict=True):
        assert torch.equal(a, b)  # both start from the trunk


def test_side_branches_start_as_copies_of_what_they_go_past():
    model = build_model("dgrl", num_classes=5, pretrained=False, reid="resnet18", sr="bicubic", groups=2)
    (third, fourth), (last,) = model.sides
    main = [nn.Sequential(*(b[0] if isinstance(b, nn.Sequential) else b for b in stage)) for stage in model.stages]
    for side, stage in ((third, main[2]), (fourth, main[3]), (last, main[3])):
        assert len(side) == len(stage)  # ResNet-18 has two blocks, fewer than asked for
        assert all(torch.equal(a, b) for a, b in zip(side.parameters(), stage.parameters(), strict=True))
        assert not {id(p) for p in side.parameters()} & {id(p) for p in stage.parameters()}
    assert [len(part) for part in build_model("dgrl", pretrained=False, sr="bicubic").sides[0]] == [3, 2]


@pytest.mark.parametrize("part", ["restormer", "non_local", "galn", "sides"])
def test_each_part_can_be_left_out(part):
    model = build_model("dgrl", num_classes=5, **SMALL, **{part: False}).train()
    kinds = [type(module).__name__ for module in model.modules()]
    left = {"restormer": "RestormerBlock", "non_local": "NonLocal", "galn": "GALN"}
    assert {name: kind in kinds for name, kind in left.items()} == {name: name != part for name in left}
    output = model(torch.randn(4, 3, 64, 32), torch.randn(4, 3, 64, 32))
    assert len(output.hr.logits) == (1 if part == "sides" else 3)
    assert output.sr.features[0].shape == (4, 128 if part == "galn" else 16)


def test_every_parameter_gets_a_gradient_but_the_frozen_ones():
    model = build_model("dgrl", num_classes=5, **{**SMALL, "reid": "osnet_x0_25"}).train()
    assert not model.restorer.training and not model.restorer.nets["x2"].training
    for module in model.modules():
        if isinstance(module, NonLocal):
            nn.init.ones_(module.out[1].weight)
    hr = torch.randn(4, 3, 64, 32)
    sr = model.restore(torch.randn(4, 3, 64, 32), [2.0, 3.0, 4.0, 2.0], [[20, 10]] * 4, [True] * 4)
    assert not sr.requires_grad
    out = model(hr, sr)
    sum(one.logsumexp(1).mean() for view in out for one in view.logits).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert all(name.startswith("restorer.") or name.endswith(".bn.bias") for name in without)
    assert [name for name in without if name.startswith("heads")] == [f"heads.{i}.bn.bias" for i in range(3)]


def test_the_hosts_engines_get_what_they_expect():
    img = torch.randn(2, 3, 64, 32)
    assert build_model("dgrl", num_classes=5, loss="softmax", **SMALL).train()(img).shape == (2, 5)
    logits, features = build_model("dgrl", num_classes=5, loss="triplet", **SMALL).train()(img)
    assert logits.shape == (2, 5) and features.shape == (2, 16)
    assert build_model("dgrl", **SMALL).train()(img).shape == (2, 16)


@torch.no_grad()
def test_without_a_restorer_low_images_go_as_they_are():
    model = build_model("dgrl", **{**SMALL, "sr": "bicubic"}).eval()
    assert model.restorer is None
    img = torch.randn(2, 3, 64, 32)
    assert model.restore(img, [2.0, 4.0], [[20, 10]] * 2, [True] * 2) is img
    with pytest.raises(ValueError, match="no restorer 'vdsr'; allowed: rcan"):
        build_model("dgrl", **{**SMALL, "sr": "vdsr"})


@pytest.mark.slow
def test_the_papers_size_takes_a_step_and_extracts():
    model = build_model("dgrl", num_classes=751, pretrained=False)
    hr, lr = torch.rand(2, 2, 3, 256, 128)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(hr, model.restore(lr, [4.0, 4.0], [[64, 32]] * 2, [True] * 2))
    sum(one.float().logsumexp(1).mean() for view in out for one in view.logits).backward()
    assert out.hr.shallow.shape == (2, 64, 64, 32)
    with torch.no_grad():
        features = model.eval().extract(batch_of([True, False], 4.0, 256, 128))
    assert features.shape == (2, 512) and features.isfinite().all()
