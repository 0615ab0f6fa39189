"""Networks by the names of their weights: fetched once, checked, or the line that says where to put the file."""

import hashlib

import pytest
import torch

from torchreid_xres.data.catalogue import Offer, catalogue
from torchreid_xres.data.download import DownloadError
from torchreid_xres.inference import Extractor, published


@pytest.fixture
def offered(monkeypatch):
    """Offer one file, on a server that does not answer."""
    digest = hashlib.sha256(b"weights").hexdigest()
    of = {"sha256": digest, "network": "osnet_x0_25"}
    offer = Offer("net_msmt17", "http://127.0.0.1:1/net.pth", "net.pth", "a net", "none", **of)
    others = {"net_x4": Offer("net_x4", "http://127.0.0.1:1/x4.pth", "x4.pth", "a front end", "none")}
    monkeypatch.setattr(published, "catalogue", lambda: {"net_msmt17": offer} | others)
    return offer


def test_a_file_that_is_there_is_checked_and_taken(offered, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"weights")
    weights, seen = published.fetch_network("net_msmt17", tmp_path)
    assert weights == tmp_path / "net.pth" and seen.model.name == "osnet_x0_25"
    assert (seen.data.height, seen.data.width) == (256, 128)
    (tmp_path / "net.pth").write_bytes(b"others")
    with pytest.raises(DownloadError, match=r"not .*, as published; remove it to fetch it again$"):
        published.fetch_network("net_msmt17", tmp_path)


def test_without_a_network_it_says_where_to_put_the_file(offered, tmp_path):
    place = published.weights_folder() / "net.pth"
    with pytest.raises(DownloadError, match=f"cannot be reached.*without a network put that file at {place}, and"):
        published.fetch_network("net_msmt17")
    place.write_bytes(b"weights")
    assert published.fetch_network("net_msmt17").weights == place


@pytest.mark.parametrize("name", ["net", "net_x4", ""])
def test_other_names_are_refused(offered, name):
    with pytest.raises(ValueError, match=f"no weights for re-ID are called {name!r}"):
        published.fetch_network(name)


def test_the_network_of_vehicles_needs_no_download(tmp_path, shared_data):
    weights, seen = published.fetch_network("osnet_x0_25_vehicles", tmp_path)
    assert weights.parent == tmp_path and (seen.data.height, seen.data.interpolation) == (128, "bicubic")
    folder = shared_data / "vehicle_2cam"
    names = sorted(line for line in (folder / "val.txt").read_text().split() if line.startswith("car"))[:40]
    found = torch.nn.functional.normalize(Extractor(weights, config=seen)([folder / "images" / name for name in names]))
    first, second = found[::2], found[1::2]  # one picture of a vehicle in each camera
    right = (first @ second.T).argmax(dim=1) == torch.arange(len(first))
    assert right.float().mean() > 0.7


def test_all_of_the_zoo_is_offered_for_search():
    offers = [offer for offer in catalogue().values() if offer.network]
    assert published.DEFAULT in {offer.name for offer in offers} and len(offers) == 15
    assert all(offer.name.startswith(offer.network + "_") for offer in offers)
    assert published.is_published(published.weights_folder() / f"{published.DEFAULT}.pth")
