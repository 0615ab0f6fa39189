"""Expected strangers are counted ones, however many of the nearest are mates; what is kept is read back or refused."""

import json
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.inference.extractor import Prepared
from torchreid_xres.search import strangers
from torchreid_xres.search.strangers import (
    FILE,
    Level,
    Strangers,
    _level,
    in_words,
    is_measured,
    lower_half,
    measure,
    notes,
)


def features(people, each, scatter, seed=0):
    """Unit features of people, around a common direction, each image beside its person."""
    draw = torch.Generator().manual_seed(seed)
    middle = 4 * torch.ones(96) + torch.randn(people, 96, generator=draw)
    own = scatter * torch.randn(people * each, 96, generator=draw)
    return F.normalize(middle.repeat_interleave(each, 0) + own, dim=1)


@pytest.fixture
def archive(tmp_path):
    """Return a function: features and heights to a gallery and an extractor whose degraded pictures say the same."""

    def make(found, height=64):
        names = [f"{number:04d}.png" for number in range(len(found))]
        for name in names:
            PIL.Image.new("RGB", (height // 2, height)).save(tmp_path / name)

        class Archive(SimpleNamespace):
            def __len__(self):
                return len(self.names)

        about = {"metric": "cosine", "weights_sha256": "a" * 64}
        gallery = Archive(
            names=names, sizes=[(height, height // 2)] * len(names), features=found, about=about, folder=tmp_path,
            rows=names, picture=lambda row, image: image(tmp_path / row), measured_of="",
        )  # fmt: skip
        seen = []

        def prepare(img):
            seen.append((img.height, img.width))
            return Prepared(torch.zeros(3, 1, 1), (img.height, img.width))

        extractor = SimpleNamespace(
            size=(64, 32), batch_size=16, query_encoder=None, image=PIL.Image.open, prepare=prepare, seen=seen,
            describe=lambda batch: found[: len(batch)],
        )  # fmt: skip
        return gallery, extractor

    return make


def test_expected_are_as_many_as_counted_though_mates_are_near(archive, monkeypatch):
    monkeypatch.setattr(strangers, "MAGNIFICATIONS", ())
    people, each = 250, 4
    gallery, extractor = archive(features(people, each, 0.3))
    measured = measure(gallery, extractor)
    queries = features(people, each, 0.3)[::each]
    distances = 1 - queries @ gallery.features.T
    others = distances[torch.arange(people).repeat_interleave(each)[None] != torch.arange(people)[:, None]]
    ordered = others.sort().values
    for wanted in (0.5, 1, 10):
        at = ordered[round(wanted * people)].item()  # so many strangers of each query are as near, counted
        assert wanted / 2 < measured.expected(at, 1.0) < 2 * wanted, wanted
    assert measured.expected(at, 1.0, images=2 * len(gallery)) == pytest.approx(2 * measured.expected(at, 1.0))


def test_a_network_with_own_statistics_has_cosines_that_are_normal(archive, monkeypatch):
    monkeypatch.setattr(strangers, "MAGNIFICATIONS", ())
    generator = torch.Generator().manual_seed(0)
    gallery, extractor = archive(F.normalize(torch.randn(800, 256, generator=generator), dim=1))
    gallery.measured_of = "a" * 64
    assert measure(gallery, extractor).levels[0].exponent == strangers.PLAIN
    measured = Strangers.read(gallery, extractor)
    queries = F.normalize(torch.randn(200, 256, generator=generator), dim=1)
    ordered = (1 - queries @ gallery.features.T).flatten().sort().values
    for wanted in (0.1, 1, 10):
        expected = measured.expected(ordered[round(wanted * 200)].item(), 1.0)
        assert wanted / 2 < expected < 2 * wanted, (wanted, expected)


def test_each_magnification_has_its_own_probes(archive):
    gallery, extractor = archive(features(60, 2, 0.3), height=32)
    measured = measure(gallery, extractor)
    assert [level.magnification for level in measured.levels] == [2, 4, 8]  # 2 is as the archive is: nothing degraded
    assert set(extractor.seen) == {(16, 8), (8, 4)} and len(extractor.seen) == 2 * len(gallery)
    low, high = (measured.levels[number].share(0.1) for number in (1, 2))
    for magnification, share in ((4, low), (8, high), (100, high)):
        assert measured.expected(0.1, magnification) == pytest.approx(share * len(gallery))
    assert measured.expected(0.1, 32**0.5) == pytest.approx((low * high) ** 0.5 * len(gallery))


def test_the_probes_that_are_degraded_stand_for_all(archive, monkeypatch):
    monkeypatch.setattr(strangers, "MAGNIFICATIONS", (4.0,))
    monkeypatch.setattr(strangers, "DEGRADED", 20)
    alike = features(20, 6, 0.1) @ torch.diag(torch.linspace(0.2, 1, 96))  # a kind of which all look alike
    gallery, extractor = archive(F.normalize(torch.cat([features(240, 1, 0.3, seed=1), F.normalize(alike, dim=1)])))
    asked = []
    extractor.image = lambda path: asked.append(int(path.stem)) or PIL.Image.open(path)
    whole = measure(gallery, extractor).levels[0]
    assert len(whole.centres) == len(gallery) and len(asked) == len(set(asked)) == 20
    some = _level(gallery, 4.0, np.array(asked), gallery.features[asked].numpy())
    for distance in (float(np.median(whole.nearest(share))) ** 2 for share in (1 / 360, 10 / 360)):
        assert some.share(distance) == pytest.approx(whole.share(distance), rel=0.25)


def test_what_is_kept_is_read_back_or_refused(archive):
    gallery, extractor = archive(features(60, 2, 0.3))
    assert Strangers.read(gallery, extractor) is None and not is_measured(gallery, extractor)
    measured, path = measure(gallery, extractor), gallery.folder / FILE
    read = Strangers.read(gallery, extractor)
    assert read.expected(0.1, 3.0) == pytest.approx(measured.expected(0.1, 3.0), rel=1e-3)
    kept = json.loads(path.read_text())
    first = kept["levels"][0]
    for change, message in (
        ({"levels": []}, "its numbers cannot be: build the gallery again"),
        ({"levels": [first | {"spreads": first["spreads"][1:]}]}, "its numbers cannot be"),
        ({"levels": [first | {"spreads": [0.0] * len(first["spreads"])}]}, "its numbers cannot be"),
        ({"levels": [first | {"exponent": 3.0}]}, "its numbers cannot be"),
        ({"levels": [{"magnification": 2}]}, "is damaged"),
        ({"weights_sha256": "b" * 64}, "of another network than the one that answers: build"),
    ):
        path.write_text(json.dumps(kept | change))
        with pytest.raises(ValueError, match=message):
            Strangers.read(gallery, extractor)
        assert not is_measured(gallery, extractor)
    path.write_text("[1")
    with pytest.raises(ValueError, match="is damaged"):
        Strangers.read(gallery, extractor)


def test_few_images_say_nothing(archive):
    gallery, extractor = archive(features(20, 2, 0.3))
    (gallery.folder / FILE).write_text("{}")
    assert measure(gallery, extractor) is None and not (gallery.folder / FILE).exists()
    assert "takes 100 images" in notes(None, 40)[0] and "again" in notes(None, 400)[0]
    old = Strangers([Level(1.0, np.ones(1), np.ones(1))], {"images": 100})
    assert len(notes(old, 110)) == 1 and "had 100 images, and it has 200" in notes(old, 200)[1]


def test_mates_up_to_their_share_change_nothing():
    rows = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)[None] * 0.1 + 0.5
    rows = (rows**2).numpy()
    near = rows.copy()
    near[:, :45] = 0
    assert np.allclose(lower_half(rows), lower_half(near))


def test_words():
    shown = [in_words(value) for value in (0, 0.01, 0.096, 0.96, 1, 1234.4)]
    assert shown == ["under 0.01", "0.01", "0.1", "1", "1", "1234"]
