"""A gallery whose network has batch statistics of the gallery's own images."""

import shutil

import pytest
import torch

from torchreid_xres.inference import Extractor
from torchreid_xres.search import Gallery, own_network
from torchreid_xres.search.own_network import NETWORK


@pytest.fixture(scope="module")
def extractor(run_of):
    return Extractor(run_of("osnet_x0_25"), batch_size=4)


@pytest.fixture
def images(tiny_root, tmp_path, monkeypatch):
    monkeypatch.setattr(own_network, "LEAST", 18)
    return shutil.copytree(tiny_root / "gallery", tmp_path / "images")


def test_it_describes_by_statistics_of_its_images_and_keeps_them(images, extractor, home, tmp_path):
    built = Gallery(home, extractor)
    built.update(images, own_statistics=True)
    paths = sorted(images.rglob("*.png"))
    own = extractor.with_own_statistics(paths, tmp_path / "own.pth.tar")
    torch.testing.assert_close(built.features, own(paths), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(built.features, extractor(paths), rtol=1e-1)
    assert built.is_measured_of(extractor) and (built.folder / NETWORK).is_file()
    before = built.features.clone()
    # What comes later is described by the same statistics, whatever it is.
    shutil.copy(paths[0], images / "again.png")
    again = Gallery(home)
    again.extractor = again.make_extractor()
    again.update(images, own_statistics=True)
    assert torch.equal(again.features[:18], before)
    torch.testing.assert_close(again.features[again.names.index("again.png")], before[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("home", ["files"], indirect=True)
def test_it_moves_with_its_folder(images, extractor, home, tmp_path):
    built = Gallery(home, extractor)
    built.update(images, own_statistics=True)
    before = built.features
    built.folder.rename(tmp_path / "moved")
    moved = Gallery(tmp_path / "moved")
    assert moved.weights == tmp_path / "moved" / NETWORK
    torch.testing.assert_close(moved.make_extractor()(sorted(images.rglob("*.png"))), before)


@pytest.mark.parametrize("home", ["files"], indirect=True)
def test_few_images_leave_the_network_as_it_is(images, extractor, home, monkeypatch):
    monkeypatch.setattr(own_network, "LEAST", 19)
    built = Gallery(home, extractor)
    built.update(images, own_statistics=True)
    assert built.extractor is extractor and not built.is_measured_of(extractor)
    assert not (built.folder / NETWORK).exists()


def test_a_picture_that_cannot_be_read_is_not_measured_on(images, extractor, tmp_path):
    (images / "broken.png").write_bytes(b"no picture")
    built = Gallery(tmp_path / "gallery", extractor)
    done = built.update(images, own_statistics=True)
    assert list(done.faults) == ["broken.png"] and len(built) == 18 and built.measured_of


def test_a_damaged_network_says_what_to_do(images, extractor, tmp_path):
    built = Gallery(tmp_path / "gallery", extractor)
    built.update(images, own_statistics=True)
    (built.folder / NETWORK).write_bytes((built.folder / NETWORK).read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"damaged.*measured on this gallery's images: build another gallery of them"):
        Gallery(tmp_path / "gallery").make_extractor()
