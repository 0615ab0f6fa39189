import pytest
import torch
from torch import nn

from torchreid_xres.data.camera import Camera
from torchreid_xres.engine.routing import calibrate, find_threshold
from torchreid_xres.models.asymmetric import NEVER, Asymmetric
from torchreid_xres.models.layers import Normalization


def slow(magnification, query, gallery):
    """Try every border between two magnifications."""
    best = (-1e9, None)
    values = sorted(set(magnification.tolist()))
    borders = [NEVER, *((a * b) ** 0.5 for a, b in zip(values[-2::-1], values[:0:-1], strict=True)), 0.0]
    for border in borders:
        total = sum(
            q if m >= border else g
            for m, q, g in zip(magnification.tolist(), query.tolist(), gallery.tolist(), strict=True)
        )
        if total > best[0] + 1e-12:
            best = (total, border)
    return best[1]


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all(seed):
    torch.manual_seed(seed)
    magnification = torch.randint(1, 9, (30,)).double()
    query, gallery = torch.rand(30).double(), torch.rand(30).double() * (1.5 - 0.1 * magnification)
    assert find_threshold(magnification, query, gallery) == pytest.approx(slow(magnification, query, gallery))


def test_where_one_encoder_is_always_the_nearer():
    m, high, low = torch.tensor([1.0, 2.0, 4.0]), torch.ones(3), torch.zeros(3)
    assert find_threshold(m, high, low) == 0 and find_threshold(m, low, high) == NEVER
    assert find_threshold(m, high, high + 1e-7) == NEVER == find_threshold(m, high, high - 1e-7)  # rounding


class Mean(nn.Module):
    """The mean colours of the picture's top left part, which low resolution does not change: 3 numbers."""

    def __init__(self, fine):
        super().__init__()
        self.fine = nn.Parameter(torch.tensor(float(fine)))

    def forward(self, img):
        # What is fine in a picture, and lost at low resolution, is added to the first colour.
        fine = img.diff(dim=3).abs().mean((1, 2, 3))
        return torch.stack((img.mean((1, 2, 3)) + self.fine * fine, img.mean((1, 2, 3)), img.var((1, 2, 3)) * 0), dim=1)


def test_the_threshold_is_found_where_the_gallery_encoder_loses_the_image():
    """A constructed case: pictures of stripes 4 pixels wide, which are gone at rate 8, and the mean stays."""
    model = Asymmetric(reid=Mean(3.0), size=(64, 32)).eval()
    stripes = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).repeat(4).expand(3, 64, 32)
    imgs = torch.stack([stripes * share for share in (1.0, 0.9, 0.8, 0.7)])
    normalize = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batches = [{"img": imgs, "size": torch.tensor([[128, 64]] * 4)}]
    with torch.no_grad():  # the query encoder says what the sharp picture's would be where nothing fine is left
        fine = imgs[0].diff(dim=2).abs().mean().item()
        model.query.fine.fill_(0.0)
        model.query.register_forward_hook(
            lambda _, args, out: torch.stack((out[:, 1] * (1 + 3 * fine / imgs[0].mean()), out[:, 1], out[:, 2]), dim=1)
        )
    told = calibrate(model, batches, Camera(rates=(1.0, 16.0)), normalize)
    assert told["images"] == 4 and list(told["by_rate"]) == ["1", "1.41", "2", "2.83", "4", "5.66", "8", "11.3", "16"]
    low = told["by_rate"]["16"]
    assert low == {"views": 4, "magnification": 8.0, "query": pytest.approx(1, abs=1e-3), "gallery": low["gallery"]}
    assert low["gallery"] < 0.99 and told["by_rate"]["1"]["gallery"] == 1.0
    # At rate 2 the network's own size is left, and the picture is all there.
    assert 1 < told["threshold"] < 8 and model.threshold.item() == pytest.approx(told["threshold"], abs=1e-3)
    wanted = model.gallery(imgs).norm(dim=1).mean().item()
    assert model.length.item() == pytest.approx(wanted, rel=1e-5)


def test_views_are_not_made_smaller_than_anybody_can_be_seen_in():
    model = Asymmetric(reid=Mean(1.0), size=(64, 32)).eval()
    img = torch.rand(2, 3, 64, 32)
    batches = [{"img": img, "size": torch.tensor([[64, 32], [16, 8]])}]
    told = calibrate(model, batches, Camera(rates=(1.0, 8.0)), Normalization())
    assert {rate: part["views"] for rate, part in told["by_rate"].items()} == {
        "1": 2, "1.41": 2, "2": 2, "2.83": 1, "4": 1, "5.66": 1, "8": 1,
    }  # fmt: skip


def test_there_must_be_sharp_images():
    with pytest.raises(ValueError, match="there are none"):
        calibrate(Asymmetric(reid=Mean(1.0), size=(8, 8)), [], Camera(), Normalization())
