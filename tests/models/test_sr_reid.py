import pytest
import tiny_net
import torch

from torchreid_xres import host
from torchreid_xres.devices.parallel import to_device
from torchreid_xres.models.sr_reid import SRReID

TINY = {
    "vdsr": {"depth": 3, "features": 4, "channels": 3},
    "bicubic": {},
    "rcan": {"groups": 1, "blocks": 1, "features": 16},
}


def build(sr="vdsr", **kwargs):
    kwargs = {"num_classes": 5, "pretrained": False, "reid": tiny_net.STAGED, "sr_options": TINY[sr], **kwargs}
    return SRReID(sr=sr, **kwargs)


@pytest.mark.parametrize("sr", TINY)
def test_shapes_in_training_and_evaluation(sr):
    model = build(sr)
    lr, hr = torch.randn(4, 3, 32, 16), torch.randn(4, 3, 32, 16)
    out = model(lr, hr)
    assert out.identity.shape == (8, 5) and out.restored.shape == out.original.shape == (4, 3, 32, 16)
    assert model(lr).shape == (4, 5)
    assert model.eval()(lr).shape == (4, 512)


def test_triplet_gives_logits_and_features():
    logits, features = build(loss="triplet")(torch.randn(2, 3, 32, 16))
    assert logits.shape == (2, 5) and features.shape == (2, 512)


def test_without_classes_it_is_a_feature_extractor_in_both_modes():
    model = build(num_classes=0)
    assert model(torch.randn(2, 3, 32, 16)).shape == (2, 512)
    assert model.eval()(torch.randn(2, 3, 32, 16)).shape == (2, 512)


def test_the_hosts_factory_builds_it_with_and_without_classes():
    for kwargs, width in (({"num_classes": 7}, 7), ({}, 512)):
        model = host.build_model("sr_reid", pretrained=False, **kwargs)
        assert model(torch.randn(2, 3, 32, 16)).shape == (2, width)


def test_only_low_images_meet_the_front_end():
    model = build().eval()
    with torch.no_grad():
        model.front_end.last.weight.fill_(0.05)  # an untrained front end would hardly change an image
    img = torch.rand(4, 3, 32, 16)
    low = torch.tensor([True, False, True, False])
    mixed = model.extract({"img": img, "low": low})
    torch.testing.assert_close(mixed[low], model(img[low]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[~low], model.reid(img[~low]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed[low], model.reid(img[low]), atol=1e-3)


def test_extract_leaves_the_batch_as_it_was():
    model, img = build().eval(), torch.rand(2, 3, 32, 16)
    kept = img.clone()
    model.extract(to_device({"img": img, "low": torch.tensor([True, True])}, "cpu"))
    assert torch.equal(img, kept)


def test_bicubic_hands_an_image_of_full_size_through():
    model = build("bicubic")
    img = model.normalize(torch.rand(2, 3, 32, 16))
    torch.testing.assert_close(model.normalize(model.restore(img)), img, rtol=0, atol=1e-5)


def test_identity_loss_reaches_the_front_end_unless_it_is_frozen():
    for freeze in (False, True):
        model = build(freeze_sr=freeze)
        model(torch.randn(2, 3, 32, 16)).sum().backward()
        got = [p.grad is not None for p in model.front_end.parameters()]
        assert all(got) if not freeze else not any(got)
        assert model.front_end.training is not freeze


def test_every_parameter_gets_a_gradient_from_pairs():
    model = build(loss="triplet", reid="osnet_x0_25")
    out = model(torch.randn(4, 3, 32, 16), torch.randn(4, 3, 32, 16))
    (out.identity[0].sum() + (out.restored - out.original).abs().mean()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_a_scaled_front_end_starts_from_the_smaller_grid():
    model, seen = build("rcan", sr_scale=2), []
    model.front_end.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    assert model.restore(torch.randn(2, 3, 32, 16)).shape == (2, 3, 32, 16)
    assert seen == [(2, 3, 16, 8)]


def test_wrong_weights_for_the_reid_network_are_refused(tmp_path):
    torch.save({"conv9.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth does not fit OSNet"):
        build(reid_weights=str(tmp_path / "w.pth"))
