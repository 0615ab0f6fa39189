"""PRPR as one model: what each branch sees, what comes out."""

import pytest
import torch
import torch.nn.functional as F

from torchreid_xres.metrics import distance_matrix
from torchreid_xres.models import build_model

TINY = {
    "reid": "osnet_x0_25", "size": (64, 32), "trunk": "light", "head_features": 4,
    "trunk_options": {"features": 4, "blocks": 1}, "pretrained": False,
}  # fmt: skip


def test_the_squared_distance_is_twice_the_weighted_sum_of_cosine_distances():
    model = build_model("prpr", weights=(2, 1, 3, 0.5), **TINY).eval()
    img = torch.randn(5, 3, 20, 10)
    with torch.no_grad():
        fused = model(img)
        views = model.views(img)
        alone = [model.branches[level](views[level]) for level in ("x1", "x2", "x3", "x4")]
    expected = sum(2 * w * distance_matrix(f, f, "cosine") for w, f in zip((2, 1, 3, 0.5), alone, strict=True))
    torch.testing.assert_close(distance_matrix(fused, fused), expected, atol=1e-4, rtol=1e-4)
    assert fused.shape == (5, 4 * 512)


def test_each_branch_sees_its_own_image_at_the_networks_size():
    model = build_model("prpr", **TINY).eval()
    torch.nn.init.normal_(model.restorer.heads["x3"][-1].weight)  # so that the levels differ
    img = torch.rand(2, 3, 21, 9)
    views = model.views(img)
    assert {tuple(view.shape) for view in views.values()} == {(2, 3, 64, 32)}
    seen = model.normalize.undo(img)
    restored = model.restorer(seen)
    assert restored.x3.shape == (2, 3, 63, 27)
    expected = model.normalize(F.interpolate(restored.x3, (64, 32), mode="bilinear", antialias=True))
    torch.testing.assert_close(views["x3"], expected)
    assert not torch.allclose(views["x3"], views["x2"], atol=0.01)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_loaders_batch_goes_back_to_the_pixels_the_camera_gave_it(interpolation):
    model = build_model("prpr", interpolation=interpolation, **TINY).eval()
    small = torch.rand(2, 3, 16, 8)
    batch = {
        "img": F.interpolate(small, (64, 32), mode=interpolation, antialias=True),
        "size": torch.tensor([[16, 8], [200, 90]]),
    }
    with torch.no_grad():
        both = model.extract(batch)
        first = model.extract({key: value[:1] for key, value in batch.items()})
        torch.testing.assert_close(both[1], model(batch["img"][1:])[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both[0], first[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both[0], model(small[:1])[0], atol=1e-3, rtol=1e-3)


def test_the_four_networks_are_independent_and_the_restorer_stays():
    model = build_model("prpr", num_classes=3, **TINY).train()
    logits = model(torch.rand(4, 3, 16, 8))
    assert [tuple(x.shape) for x in logits] == [(4, 3)] * 4
    logits[1].logsumexp(1).sum().backward()
    moved = {name.split(".")[1] for name, p in model.branches.named_parameters(prefix="branches") if p.grad is not None}
    assert moved == {"x2"}
    assert not model.restorer.training and not any(p.requires_grad for p in model.restorer.parameters())


@pytest.mark.slow
def test_the_papers_sizes():
    model = build_model("prpr", pretrained=False).eval()
    assert sum(p.numel() for p in model.restorer.parameters()) == pytest.approx(12.59e6, rel=0.001)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 2048)
