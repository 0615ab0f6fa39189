"""PRPR as one model: what each branch sees, what comes out."""

import numpy as np
import PIL.Image
import pytest
import tiny_net
import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode, Resize
from torchvision.transforms.functional import to_pil_image, to_tensor

from torchreid_xres.data.batches import mirrored
from torchreid_xres.metrics import distance_matrix
from torchreid_xres.models import build_model
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.prpr import eight_bits_again

TINY = {
    "reid": tiny_net.STAGED, "size": (64, 32), "trunk": "light", "head_features": 4,
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
    assert (views["x3"] - expected).abs().max() < 2 / 255 / 0.22  # rounded as files are, twice
    assert not torch.allclose(views["x3"], views["x2"], atol=0.01)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_loaders_batch_is_restored_from_the_cameras_own_pixels(interpolation):
    """As the stages do it: restored at its own size, kept in 8 bits, brought to the network's size by Pillow."""
    model = build_model("prpr", interpolation=interpolation, **TINY).eval()
    for head in model.restorer.heads.values():
        torch.nn.init.normal_(head[-1].weight, std=0.02)
    pictures = [PIL.Image.fromarray(np.random.randint(90, 170, size, np.uint8)) for size in ((16, 8, 3), (200, 90, 3))]
    resize = Resize((64, 32), InterpolationMode(interpolation))

    def as_read(picture):
        return model.normalize(to_tensor(resize(picture))[None])

    batch = {
        "img": torch.cat([as_read(picture) for picture in pictures]),
        "size": torch.tensor([[16, 8], [200, 90]]),
        "native": [np.asarray(picture) for picture in pictures],
    }
    views = {"x1": batch["img"]}
    for level, restored in zip(("x2", "x3", "x4"), zip(*map(model.restorer, (
        to_tensor(picture)[None] for picture in pictures)), strict=True), strict=True):  # fmt: skip
        views[level] = torch.cat([as_read(to_pil_image(image[0])) for image in restored])
    with torch.no_grad():
        expected, found = model(views), model.extract(batch)
        assert F.cosine_similarity(found, expected).min() > 0.9999
        other = model({level: view.flip(-1) for level, view in views.items()})
        assert F.cosine_similarity(model.extract(mirrored(batch)), other).min() > 0.9999
        # A batch without these pixels: a small image is brought back to them.
        plain = {key: value for key, value in batch.items() if key != "native"}
        assert F.cosine_similarity(model.extract(plain)[0], expected[0], dim=0) > 0.999
        seen = model.captured(plain)
        assert (255 * (seen[0] - to_tensor(pictures[0]))).abs().max() < 1.01 and seen[1].shape == (3, 64, 32)


def test_the_four_networks_are_independent_and_the_restorer_stays():
    model = build_model("prpr", num_classes=3, **{**TINY, "reid": "osnet_x0_25"}).train()
    logits = model(torch.rand(4, 3, 16, 8))
    assert [tuple(x.shape) for x in logits] == [(4, 3)] * 4
    logits[1].logsumexp(1).sum().backward()
    moved = {name.split(".")[1] for name, p in model.branches.named_parameters(prefix="branches") if p.grad is not None}
    assert moved == {"x2"}
    assert not model.restorer.training and not any(p.requires_grad for p in model.restorer.parameters())


def test_a_half_of_a_grey_level_goes_up_whatever_single_precision_made_of_it():
    """Where a picture of 8 bits is brought to half its size, each 64th value lies between two grey levels."""
    norm, pixels = Normalization(), torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    halved = F.interpolate(pixels.double() / 255, (32, 16), mode="bilinear", antialias=True)
    wanted = (halved * 255 + 0.5 + 1e-9).floor() / 255  # between exact ones there is 1/64
    assert ((halved * 255 % 1 - 0.5).abs() < 1e-9).sum() > 20
    single = F.interpolate(pixels.float() / 255, (32, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(eight_bits_again(norm.undo(norm(single))).double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_papers_sizes():
    model = build_model("prpr", pretrained=False).eval()
    assert sum(p.numel() for p in model.restorer.parameters()) == pytest.approx(12.59e6, rel=0.001)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 2048)
