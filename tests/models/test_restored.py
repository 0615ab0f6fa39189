import pytest
import tiny_net
import torch

from torchreid_xres.models import build_model
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.restored import restored_view

RCAN = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
SR = {"sr": "vdsr", "sr_options": {"depth": 3, "features": 4, "channels": 3}}
TINY = {
    "sr_reid": {"reid": tiny_net.STAGED, **SR},
    "psh_rnet": {"backbone": "hrnet_w18_small", **SR},
    "dgrl": {"reid": tiny_net.STAGED, "groups": 2, "sr_options": RCAN},
    "kgnet": {
        "reid": tiny_net.STAGED, "kgr_blocks": 1, "kga_blocks": 1, "hourglass": {"stacks": 1, "width": 8},
        "sr_options": {"features": 8, "groups": 1, "blocks": 1},
    },
    "msifla": {"reid": tiny_net.STAGED, "widths": (4, 8)},
    "prpr": {"reid": tiny_net.STAGED, "size": (128, 128), "trunk": "light", "head_features": 4, "residual": True},
}  # fmt: skip
# The first image is a low query, the second a gallery image as captured; who restores which:
RESTORED = {
    "sr_reid": [True, False], "psh_rnet": [True, True], "dgrl": [True, False], "kgnet": [True, False],
    "msifla": [True, True], "prpr": [True, True],
}  # fmt: skip


@pytest.fixture
def batch():
    return {
        "img": torch.randn(2, 3, 128, 128) / 2,
        "rate": torch.tensor([4.0, 1.0], dtype=torch.float64),
        "low": torch.tensor([True, False]),
        "size": torch.tensor([[32, 32], [128, 128]]),
        "role": ["query", "gallery"],
    }


def noisy(model):
    """Leave no layer at zero, so that every front end changes its image."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", TINY)
def test_each_method_restores_the_images_that_its_front_end_gets(name, batch):
    model = noisy(build_model(name, pretrained=False, **TINY[name]))
    view = restored_view(model, batch)
    plain = Normalization().undo(batch["img"])
    assert view.shape == plain.shape and view.min() >= 0 and view.max() <= 1 and not view.requires_grad
    changed = [not torch.equal(one, other) for one, other in zip(view, plain, strict=True)]
    assert changed == RESTORED[name]


def test_it_is_what_the_reid_network_sees(batch):
    norm = Normalization((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    model = noisy(build_model("sr_reid", pretrained=False, mean=(0.4,) * 3, std=(0.2,) * 3, **TINY["sr_reid"]))
    seen = []
    hook = model.reid.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model.extract(batch)
    hook.remove()
    torch.testing.assert_close(restored_view(model, batch, norm), norm.undo(seen[0]))


def test_kgnet_goes_by_role_or_by_rate(batch):
    captured = {**batch, "low": torch.tensor([False, False])}
    plain = Normalization().undo(batch["img"])
    for route, changed in (("role", True), ("rate", False)):
        model = noisy(build_model("kgnet", pretrained=False, route=route, **TINY["kgnet"]))
        assert torch.equal(restored_view(model, captured)[0], plain[0]) != changed
    nobody_knows = {**batch, "role": ["", ""]}
    model = noisy(build_model("kgnet", pretrained=False, **TINY["kgnet"]))
    assert torch.equal(restored_view(model, nobody_knows)[1], plain[1])


def test_a_query_encoder_answers_without_the_front_end(batch):
    gallery = noisy(build_model("sr_reid", pretrained=False, **TINY["sr_reid"]))
    model = Asymmetric(reid=gallery, size=(128, 128)).eval()
    plain = Normalization().undo(batch["img"])
    for threshold, restored in ((5.0, True), (4.0, False)):  # the low query is enlarged 4 times
        model.threshold.fill_(threshold)
        assert torch.equal(restored_view(model, batch)[0], plain[0]) != restored
        assert torch.equal(restored_view(model, batch)[1], plain[1])


def test_models_without_a_front_end_have_no_view(batch):
    assert restored_view(build_model(tiny_net.STAGED, 2, pretrained=False).eval(), batch) is None
    bicubic = build_model("dgrl", pretrained=False, reid=tiny_net.STAGED, groups=2, sr="bicubic").eval()
    assert restored_view(bicubic, batch) is None
