import copy

import pytest
import tiny_net
import torch
from torch.nn import functional as F

from torchreid_xres import host
from torchreid_xres.data.degrade import low_size, round_trip
from torchreid_xres.losses.multi_scale_reconstruction import multi_scale_reconstruction
from torchreid_xres.metrics import distance_matrix
from torchreid_xres.metrics.fusion import fused_features
from torchreid_xres.models import build_model
from torchreid_xres.models.cmsr2 import CMSR2, ReconstructionNet, resolution_versions
from torchreid_xres.models.msifla import MSIFLA, PartReID

TINY = {"pretrained": False, "reid": tiny_net.STAGED, "widths": (4, 8)}


def build(**kwargs):
    return MSIFLA(**{"num_classes": 5, **TINY, **kwargs})


def test_a_reconstruction_network_has_the_papers_layers():
    net = ReconstructionNet()
    encoders = [[m for m in part.modules() if isinstance(m, torch.nn.Conv2d)] for part in (net.encoder1, net.encoder2)]
    assert [len(part) for part in encoders] == [4, 4]
    assert all(conv.kernel_size == (3, 3) for part in encoders for conv in part)
    assert sum(isinstance(m, torch.nn.ConvTranspose2d) for m in net.modules()) == 2
    half, quarter = torch.zeros(1, 64, 16, 8), torch.zeros(1, 128, 8, 4)
    assert net.encoder1(torch.zeros(1, 3, 32, 16)).shape == half.shape and net.encoder2(half).shape == quarter.shape


def test_residual_connections_go_around_the_second_encoder_part_and_to_the_decoder():
    net, x = ReconstructionNet((4, 8)), torch.rand(1, 3, 16, 8)
    for part in (net.encoder2[-2], net.up1):  # silence what lies between
        torch.nn.init.zeros_(part.weight), torch.nn.init.constant_(part.bias, -1)
    half = net.encoder1(x)
    torch.testing.assert_close(net(x), net.last(net.up2(half).relu()))
    strided = F.conv2d(half, net.between.weight, net.between.bias, stride=2)
    seen = []
    net.up1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(x)
    torch.testing.assert_close(seen[0], strided)


def test_an_image_keeps_about_its_strength_through_an_untrained_network():
    x = torch.randn(4, 3, 64, 32)
    with torch.no_grad():
        assert 0.3 < float(ReconstructionNet()(x).std() / x.std()) < 3


def test_with_skip_an_untrained_cascade_hands_the_image_through():
    x = torch.randn(2, 3, 16, 8)
    assert all(torch.equal(y, x) for y in CMSR2(widths=(4, 8), skip=True)(x))


def test_sides_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(ValueError, match="multiples of 4, not 30x16"):
        ReconstructionNet((4, 8))(torch.zeros(1, 3, 30, 16))


def test_the_cascade_feeds_each_network_what_the_one_before_made():
    cascade, x = CMSR2((3, 2, 1), (4, 8)), torch.rand(2, 3, 16, 8)
    first, second, third = cascade.nets
    expected = [first(x), second(first(x)), third(second(first(x)))]
    for made, wanted in zip(cascade(x), expected, strict=True):
        torch.testing.assert_close(made, wanted)
    assert not torch.equal(first.last.weight, second.last.weight)


@pytest.mark.parametrize("scales", [[], [1, 2, 3], [2, 2, 1], [0.5]])
def test_scales_that_do_not_rise_are_refused(scales):
    with pytest.raises(ValueError, match=r"scales|rate"):
        CMSR2(scales)


def test_versions_hold_what_each_images_own_size_leaves_of_it():
    x, sizes = torch.rand(3, 3, 32, 16), torch.tensor([[32, 16], [20, 10], [32, 16]])
    versions = resolution_versions(x, sizes, (4, 3, 2, 1), "area")
    for rate in (4, 3, 2):
        for i, (height, width) in enumerate(sizes.tolist()):
            expected = round_trip(x[i], low_size(height, width, rate), "area", "bilinear")
            torch.testing.assert_close(versions[rate][i], expected)
    assert versions[1] is x


def textures(count, height, width):
    """Smooth random pictures with edges in them, normalised."""
    noise = torch.randn(count, 3, height // 4, width // 4)
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    edges = torch.nn.functional.interpolate(noise.sign().flip(0), (height, width), mode="nearest")
    return smooth + 0.7 * edges


def compared(cascade, x):
    """What L_IR is at each scale, as a share of that of handing the image through."""
    sizes = torch.tensor([list(x.shape[-2:])] * len(x))
    versions = resolution_versions(x, sizes, (4, 3, 2, 1))
    inputs, targets = torch.cat(list(versions.values())), [versions[rate] for rate in (3, 2, 1)]
    through = multi_scale_reconstruction([inputs] * 3, targets)
    return multi_scale_reconstruction(cascade(inputs), targets) / through


def dead(cascade, x):
    """The share of the channels behind the activations of the encoders that are 0 on all of these images."""
    still = []
    with torch.no_grad():
        for net in cascade.nets:
            image = x
            for layer in (*net.encoder1, *net.encoder2):
                image = layer(image)
                if isinstance(layer, torch.nn.ReLU):
                    still.append(image.amax(dim=(0, 2, 3)) <= 0)
    return torch.cat(still).float().mean().item()


@pytest.mark.parametrize(
    "widths, size", [((8, 16), (32, 16)), pytest.param((64, 128), (32, 16), marks=pytest.mark.slow)]
)
def test_the_cascade_learns_more_than_to_hand_images_through(widths, size):
    """At the learning rate, with the warm-up and from the start that the configurations have."""
    cascade = CMSR2(widths=widths, skip=True)
    learned, held_out = textures(32, *size), textures(16, *size)
    optimizer = torch.optim.Adam(cascade.parameters(), lr=1e-3, weight_decay=5e-4)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 20)
        loss = compared(cascade, learned[torch.randperm(32)[:4]]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (compared(cascade, held_out) < 0.95).all()
    assert dead(cascade, held_out) < 0.2


@pytest.mark.parametrize("height, width", [(128, 64), (96, 96), (192, 192)])
def test_every_scale_is_another_image_whatever_the_network_s_size(height, width):
    x = textures(12, height, width)
    sizes = torch.randint(40, 400, (12, 2))
    versions = resolution_versions(x, sizes, (3, 2, 1))
    for rate, finer in ((3, 2), (2, 1)):
        same = (versions[rate] == versions[finer]).all(dim=2).any(dim=2).all(dim=1)  # along an axis
        assert same.float().mean() < 0.1


@pytest.mark.parametrize("scales", [(1,), (2, 1), (3, 2, 1), (4, 3, 2, 1)])
@pytest.mark.parametrize("shared", [False, True])
def test_any_number_of_scales(scales, shared):
    model = build(scales=scales, shared=shared)
    assert len(model.reid) == (1 if shared else len(scales))
    img = torch.randn(4, 3, 64, 32)
    output = model.identify(model.cascade(img))
    assert output.parts.shape == (4, len(scales), 4, 128) and output.logits.shape == (4, len(scales), 4, 5)
    assert model.eval()(img).shape == (4, len(scales) * 4 * 128)


def test_each_scale_has_its_own_network_or_all_have_one():
    img = torch.randn(2, 3, 64, 32)
    apart, together = build().eval(), build(shared=True).eval()
    for model in (apart, together):
        images = model.cascade(img)
        output = model.identify(images)
        for i, image in enumerate(images):
            parts, logits = model.reid[0 if model.shared else i](image)
            torch.testing.assert_close(output.parts[:, i], parts, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(output.logits[:, i], logits, rtol=1e-4, atol=1e-5)


def test_stripes_run_from_top_to_bottom_and_have_their_own_classifiers():
    net = PartReID(3, False, tiny_net.STAGED).eval()
    img = torch.randn(2, 3, 128, 64)
    parts, logits = net(img)
    tensor = net.backbone.featuremaps(img)  # (2, 128, 8, 4)
    for h in range(4):
        mean = tensor[:, :, 2 * h : 2 * h + 2].mean((2, 3))
        torch.testing.assert_close(parts[:, h], mean)
        torch.testing.assert_close(logits[:, h], net.classifiers[h](mean))


def test_parts_can_be_reduced():
    net = PartReID(3, False, tiny_net.STAGED, reduce_dim=16)
    parts, logits = net(torch.randn(2, 3, 64, 32))
    assert parts.shape == (2, 4, 16) and logits.shape == (2, 4, 3) and parts.min() >= 0
    assert net.classifiers[0].in_features == 16


@pytest.mark.parametrize("unit", ["whole", "scale", "part"])
def test_the_squared_distance_is_the_sum_over_the_scales(unit):
    weights = (3.0, 2.0, 0.5)
    model = build(num_classes=0, unit=unit, scale_weights=weights).eval()
    parts = torch.randn(6, 3, 4, 128)
    f = model.descriptor(parts)
    total = torch.zeros(6, 6)
    for i, weight in enumerate(weights):
        scale = parts[:, i].flatten(1)
        if unit == "whole":
            scale = scale / parts.flatten(1).norm(dim=1, keepdim=True)
        elif unit == "scale":
            scale = F.normalize(scale, dim=1)
        else:
            scale = torch.cat([F.normalize(parts[:, i, h], dim=1) for h in range(4)], dim=1)
        total += weight * torch.cdist(scale, scale).square()
    torch.testing.assert_close(distance_matrix(f, f, "euclidean"), total, rtol=1e-4, atol=1e-4)


def test_weighted_scales_are_the_fusion_of_their_cosine_distances():
    weights, parts = (2.0, 1.0, 1.0), torch.randn(5, 3, 4, 128)
    fused = fused_features([scale.flatten(1) for scale in parts.unbind(1)], weights, metric="cosine")
    torch.testing.assert_close(build(unit="scale", scale_weights=weights).descriptor(parts), fused)


def test_by_default_the_descriptor_is_the_twelve_parts_in_order_at_length_one():
    parts = torch.randn(2, 3, 4, 128)
    expected = torch.cat([parts[:, i, h] for i in range(3) for h in range(4)], dim=1)
    torch.testing.assert_close(build().descriptor(parts), F.normalize(expected, dim=1))


def test_wrong_units_and_weights_are_refused():
    with pytest.raises(ValueError, match="no unit 'half'; allowed: whole, scale, part"):
        build(unit="half")
    with pytest.raises(ValueError, match="3 branches need 3 weights"):
        build(scale_weights=(1.0, 2.0))


def test_low_and_high_images_go_the_same_way():
    model, img = build().eval(), torch.randn(2, 3, 64, 32)
    assert not hasattr(model, "extract")  # which would see who is low
    alone = torch.cat([model(one[None]) for one in img])
    torch.testing.assert_close(model(img), alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    model = build()
    logits = model(torch.randn(4, 3, 64, 32))
    assert len(logits) == 12 and logits[0].shape == (4, 5)
    sum(one.logsumexp(1).sum() for one in logits).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_the_hosts_losses_take_what_it_gives():
    logits, features = build(loss="triplet")(torch.randn(2, 3, 64, 32))
    assert len(logits) == len(features) == 12 and features[0].shape == (2, 128)


def test_the_hosts_factory_builds_it_without_classes():
    model = host.build_model("msifla", pretrained=False)
    assert len(model.reid[0].classifiers) == 0 and model.reid[0].part_dim == 2048
    with pytest.raises(TypeError, match="depth"):
        build_model("msifla", pretrained=False, depth=3)


@pytest.mark.parametrize(
    "name, channels",
    [
        ("resnet18", 512),
        ("resnet50_fc512", 2048),
        ("osnet_ain_x0_25", 128),
        ("mobilenetv2_x1_0", 1280),
        ("pcb_p4", 2048),
    ],
)
def test_backbones_are_any_net_of_the_zoo_with_a_map_and_nothing_behind_it(name, channels):
    net = PartReID(3, False, name)
    parts, logits = net(torch.randn(2, 3, 64, 32))
    assert parts.shape == (2, 4, channels)
    (parts.sum() + logits.sum()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name, why", [("hacnn", "no map"), ("resnet50mid", "several maps")])
def test_networks_without_one_map_are_refused(name, why):
    with pytest.raises(ValueError, match=f"'{name}' of torchreid gives {why}"):
        PartReID(3, False, name)


def test_the_default_backbone_keeps_resolution_in_its_last_stage():
    tensor = PartReID(0, False).eval().backbone.featuremaps(torch.zeros(1, 3, 256, 128))
    assert tensor.shape == (1, 2048, 16, 8)


def test_weights_of_the_zoos_network_start_every_scale(tmp_path):
    source = host.build_model("osnet_x0_25", num_classes=9, pretrained=False)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = build(reid="osnet_x0_25", reid_weights=str(tmp_path / "w.pth"))
    for net in model.reid:
        torch.testing.assert_close(net.backbone.conv1.conv.weight, source.conv1.conv.weight)


def test_a_seed_decides_the_weights_and_a_state_round_trips():
    def made():
        torch.manual_seed(3)
        return build().eval()

    one, two, img = made(), made(), torch.randn(1, 3, 64, 32)
    assert torch.equal(one(img), two(img))
    other = build().eval()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one(img), other(img))


@pytest.mark.slow
def test_paper_size():
    model = MSIFLA(num_classes=751, pretrained=False)
    count = sum(p.numel() for net in model.reid for p in net.classifiers.parameters() if p.dim() == 2)
    assert count == 12 * 751 * 2048
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 256, 128))
    sum(one.float().logsumexp(1).sum() for one in logits).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        features = model.eval()(torch.randn(1, 3, 256, 128))
    assert features.shape == (1, 24576) and features.isfinite().all()
