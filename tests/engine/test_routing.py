from statistics import correlation

import pytest
import torch
from torch import nn

from torchreid_xres.data.camera import Camera
from torchreid_xres.engine.routing import agreement, calibrate, counted, find_threshold
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
    assert find_threshold(m, high, high + 1e-6) == NEVER == find_threshold(m, high, high - 1e-6)  # rounding


# Agreements of degraded views by rate, of OSNet x0.25 from MSMT17 and of query encoders that follow it, and from where
# on these are better by labels (benchmarks/routing.py): on persons of two views, 256x128, with an input of all and of
# half the sides; on vehicles, 128x128, where their manner costs.
RATES = torch.tensor([1, 1.4, 2, 2.8, 4, 5.6, 8], dtype=torch.float64)
PERSONS = [0.998, 0.991, 0.977, 0.935, 0.877, 0.780, 0.651]
VEHICLES = [0.999, 0.995, 0.986, 0.964, 0.918, 0.834, 0.727]
WHOLE = [0.948, 0.948, 0.944, 0.933, 0.915, 0.889, 0.851]
HALF = [0.884, 0.885, 0.884, 0.880, 0.872, 0.855, 0.827]
OF_VEHICLES = [0.897, 0.895, 0.892, 0.881, 0.856, 0.820, 0.757]


@pytest.mark.parametrize(
    ("query", "gallery", "caution", "least", "most"),
    [
        (WHOLE, PERSONS, 0.25, 1.2, 2), (HALF, PERSONS, 0.25, 1.4, 2.4), (OF_VEHICLES, VEHICLES, 1.0, 5.6, 8),
        (WHOLE, PERSONS, 1.0, 2, 4), (HALF, PERSONS, 1.0, 4, 5.6),  # by caution, later than by labels
    ],
)  # fmt: skip
def test_where_query_encoders_begin_to_answer(query, gallery, caution, least, most):
    query, gallery = (torch.tensor(values, dtype=torch.float64) for values in (query, gallery))
    assert least < find_threshold(RATES, counted(query, query[:1], caution), gallery) <= most


class Stripes(nn.Module):
    """How strong the stripes of each colour are, or how strong the colour is, and something that all pictures have."""

    def __init__(self, fine):
        super().__init__()
        self.fine = nn.Parameter(torch.tensor(float(fine)))

    def forward(self, img):
        fine = img.diff(dim=3).abs().mean((2, 3))  # (N, 3); lost at low resolution
        return self.fine * fine + (1 - self.fine) * img.mean((2, 3)) + torch.tensor([0.05, 0.0, 0.0])


def striped(manner, caution=1.0):
    """A constructed case: pictures of stripes 4 pixels wide, which are gone at rate 16, and the mean colour stays."""
    model = Asymmetric(reid=Stripes(1.0), size=(64, 32)).eval()
    with torch.no_grad():
        model.query.fine.fill_(1.0 - manner)
    colours = torch.tensor([[1, 0.1, 0.5], [0.2, 1, 0.4], [0.3, 0.6, 1], [1, 1, 0.2], [0.5, 0.9, 0.1], [0.9, 0.2, 0.8]])
    stripes = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).repeat(4).expand(64, 32)
    imgs = colours[:, :, None, None] * stripes
    plain = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    sizes = torch.tensor([[128, 64]] * 6)
    batches = [{"img": imgs[part], "size": sizes[part]} for part in (slice(4), slice(4, 6))]
    return model, imgs, calibrate(model, batches, Camera(rates=(1.0, 16.0)), plain, caution=caution)


def test_the_threshold_is_found_where_the_gallery_encoder_loses_the_image():
    model, imgs, told = striped(1.0)
    quarters = [f"{2 ** (step / 4):.3g}" for step in range(17)]
    assert told["images"] == 6 and list(told["by_rate"]) == quarters
    sharp, low = (told["by_rate"][rate] for rate in ("1", "16"))
    assert (low["views"], low["magnification"]) == (6, 8.0)
    assert sharp["agreement"]["gallery"] > sharp["agreement"]["query"] and sharp["cosine"]["gallery"] == 1
    assert low["agreement"]["query"] > low["agreement"]["gallery"] + 0.1
    assert 0.5 < told["threshold"] < 8 and model.threshold.item() == pytest.approx(told["threshold"], abs=1e-3)
    assert model.length.item() == pytest.approx(model.gallery(imgs).norm(dim=1).mean().item(), rel=1e-5)


def test_less_caution_asks_the_query_encoder_earlier():
    found = [striped(1.0, caution)[2]["threshold"] for caution in (1.0, 0.25)]
    assert found[0] > found[1]
    assert striped(0.0, caution=0.0)[2]["threshold"] is None  # it says the same of sharp images: nothing is given back


def test_an_agreement_is_that_over_the_other_images():
    features, sharp = torch.randn(3, 5), torch.randn(6, 5)
    cosine, found = agreement(features, sharp, own=[4, 0, 4])
    for row, own in enumerate([4, 0, 4]):
        views = features[row], sharp[own]
        told, right = ([torch.cosine_similarity(one, other, dim=0).item() for other in sharp] for one in views)
        assert cosine[row].item() == pytest.approx(told.pop(own), rel=1e-5)
        right.pop(own)
        assert found[row].item() == pytest.approx(correlation(told, right), rel=1e-4)
    # Whatever all cosines have in common does not count.
    flat = torch.cat((features, torch.full((3, 1), 9.0)), dim=1)
    assert agreement(flat, torch.cat((sharp, torch.zeros(6, 1)), dim=1), [4, 0, 4])[1].tolist() == pytest.approx(
        found.tolist()
    )
    assert agreement(sharp, sharp, range(6))[1].tolist() == pytest.approx([1.0] * 6)


def test_views_are_not_made_smaller_than_anybody_can_be_seen_in():
    model = Asymmetric(reid=Stripes(1.0), size=(64, 32)).eval()
    img = torch.rand(3, 3, 64, 32)
    batches = [{"img": img, "size": torch.tensor([[64, 32], [16, 8], [64, 32]])}]
    told = calibrate(model, batches, Camera(rates=(1.0, 8.0)), Normalization())
    assert {rate: part["views"] for rate, part in told["by_rate"].items()} == {
        "1": 3, "1.19": 3, "1.41": 3, "1.68": 3, "2": 3, "2.38": 2, "2.83": 2, "3.36": 2, "4": 2, "4.76": 2, "5.66": 2,
        "6.73": 2, "8": 2,
    }  # fmt: skip


def test_there_must_be_sharp_images():
    with pytest.raises(ValueError, match="at least 3 sharp images, and there are 0"):
        calibrate(Asymmetric(reid=Stripes(1.0), size=(8, 8)), [], Camera(), Normalization())
