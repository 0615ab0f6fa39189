"""The search against the distance matrix, sorted."""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from torchreid_xres.metrics import distance_matrix

pytest.importorskip("faiss")
from torchreid_xres.metrics.search import GalleryIndex, merge_shards


def features(count, dim=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, dim, generator=generator)
    pids = torch.randint(30, (count,), generator=generator)
    return centres[pids] + 0.4 * torch.randn(count, dim, generator=generator)


GALLERY, QUERIES = features(500, seed=1), features(37, seed=2)
G_CAMERAS, Q_CAMERAS = np.random.default_rng(0).integers(0, 4, 500), np.random.default_rng(1).integers(0, 4, 37)


def slow(metric, k, allowed=None):
    distances = distance_matrix(QUERIES, GALLERY, metric).numpy()
    if allowed is not None:
        distances = np.where(allowed, distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def assert_found(found, expected):
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.fixture(params=["cosine", "euclidean"])
def metric(request):
    return request.param


def exact(metric, cameras=None):
    index = GalleryIndex(12, metric)
    index.add(GALLERY, cameras)
    return index


def by_lists(metric, cameras=None):
    index = GalleryIndex(12, metric, lists=16, seed=3)
    index.train(GALLERY)
    index.add(GALLERY, cameras)
    return index


@pytest.mark.parametrize("build", [exact, by_lists])
def test_all_probes_find_the_nearest(build, metric):
    index = build(metric)
    assert len(index) == 500
    for queries in (QUERIES, QUERIES.numpy(), QUERIES.double(), QUERIES[:1]):
        found = index.search(queries, 5, probes=16)
        assert_found(found, [part[: len(queries)] for part in slow(metric, 5)])
        assert found[0].dtype == np.float32 and found[1].dtype == np.int64


def test_more_probes_find_more(metric):
    index = by_lists(metric)
    nearest = slow(metric, 10)[1]
    recall = [
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(index.search(QUERIES, 10, n)[1], nearest, strict=True)])
        for n in (1, 4, 16)
    ]
    assert 0.2 < recall[0] < recall[1] <= recall[2] == 1
    again = by_lists(metric)
    np.testing.assert_array_equal(index.search(QUERIES, 10, 1)[1], again.search(QUERIES, 10, 1)[1])


@pytest.mark.parametrize("build", [exact, by_lists])
def test_images_under_the_querys_camera_are_left_out(build, metric):
    found = build(metric, G_CAMERAS).search(QUERIES, 6, probes=16, cameras=Q_CAMERAS)
    assert_found(found, slow(metric, 6, Q_CAMERAS[:, None] != G_CAMERAS))


def test_a_querys_own_image_is_left_out(metric):
    own = slow(metric, 3)[1][:, 1].copy()
    own[::4] = 499 - np.arange(len(own[::4]))  # mostly not among the nearest
    own[1::4] = -1
    allowed = np.arange(500) != own[:, None]
    assert_found(exact(metric).search(QUERIES, 3, own=own), slow(metric, 3, allowed))
    both = allowed & (Q_CAMERAS[:, None] != G_CAMERAS)
    assert_found(exact(metric, G_CAMERAS).search(QUERIES, 3, cameras=Q_CAMERAS, own=own), slow(metric, 3, both))


def test_fewer_images_than_wanted(metric):
    index = GalleryIndex(12, metric)
    index.add(GALLERY[:3], [0, 0, 1])
    distances, places = index.search(QUERIES[:2], 4, cameras=[1, 7])
    assert (places >= 0).sum(axis=1).tolist() == [2, 3] and np.isinf(distances[places < 0]).all()
    distances, places = index.search(QUERIES[:2], 4, own=[0, -1])
    assert (places >= 0).sum(axis=1).tolist() == [2, 3] and 0 not in places[0]


@pytest.mark.parametrize("build", [exact, by_lists])
def test_saved_and_loaded(build, metric, tmp_path):
    index = build(metric, G_CAMERAS)
    index.save(tmp_path / "gallery")
    again = GalleryIndex.load(tmp_path / "gallery")
    assert (again.metric, again.dimension, again.lists, len(again)) == (metric, 12, index.lists, 500)
    assert_found(again.search(QUERIES, 5, cameras=Q_CAMERAS), index.search(QUERIES, 5, cameras=Q_CAMERAS))
    again.add(GALLERY[:2], [0, 1])
    assert len(again) == 502
    assert {file.name for file in (tmp_path / "gallery").iterdir()} == {"index.faiss", "about.json", "cameras.npy"}


def test_files_that_do_not_fit_are_refused(tmp_path):
    folder = tmp_path / "gallery"
    exact("cosine").save(folder)
    about = json.loads((folder / "about.json").read_text())
    for change, message in (
        ({"dimension": 13}, "does not fit"),
        ({"images": 400}, "does not fit"),
        ({"lists": 16}, "does not fit"),
        ({"metric": "manhattan"}, "unknown distance metric"),
        ({"format": 9}, "format 9; this version reads 1"),
    ):
        (folder / "about.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match=message):
            GalleryIndex.load(folder)
    (folder / "about.json").write_text(json.dumps(about))
    (folder / "index.faiss").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.faiss is missing"):
        GalleryIndex.load(folder)


@pytest.mark.parametrize("name", ["index.faiss", "cameras.npy", "about.json"])
def test_each_flipped_bit_is_told_or_changes_nothing(tmp_path, name):
    index, folder, rng = GalleryIndex(12), tmp_path / "gallery", np.random.default_rng(3)
    index.add(GALLERY, G_CAMERAS)
    index.save(folder)
    whole, told = (folder / name).read_bytes(), 0
    for place, bit in zip(rng.integers(0, len(whole), 50), rng.integers(0, 8, 50), strict=True):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        (folder / name).write_bytes(data)
        try:
            again = GalleryIndex.load(folder)
        except ValueError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            told += 1
        else:
            assert_found(again.search(QUERIES, 5, cameras=Q_CAMERAS), index.search(QUERIES, 5, cameras=Q_CAMERAS))
    assert told == 50 or name == "about.json"


def test_an_index_of_before_is_read(tmp_path):
    exact("cosine").save(tmp_path)
    about = json.loads((tmp_path / "about.json").read_text())
    del about["crc32"]
    (tmp_path / "about.json").write_text(json.dumps(about))
    assert len(GalleryIndex.load(tmp_path)) == 500
    (tmp_path / "index.faiss").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a readable index"):
        GalleryIndex.load(tmp_path)


def test_shards_answer_as_one_index(metric):
    edges = [0, 100, 103, 500]
    answers = []
    for start, stop in pairwise(edges):
        shard = GalleryIndex(12, metric)
        shard.add(GALLERY[start:stop])
        answers.append(shard.search(QUERIES, 8))
    assert_found(merge_shards(answers, np.diff(edges).tolist(), 8), slow(metric, 8))
    with pytest.raises(ValueError, match="9 images are wanted, and a shard was asked for 8"):
        merge_shards(answers, [100, 3, 397], 9)
    with pytest.raises(ValueError, match="3 answers and the sizes of 2"):
        merge_shards(answers, [100, 3], 8)


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="'manhattan'; there are: euclidean, cosine"):
        GalleryIndex(4, "manhattan")
    with pytest.raises(ValueError, match="dimension is 0, lists is 0"):
        GalleryIndex(0)
    index = GalleryIndex(12, lists=16)
    with pytest.raises(ValueError, match="16 lists cannot be learned from 15 images"):
        index.train(GALLERY[:15])
    with pytest.raises(ValueError, match="not learned yet"):
        index.add(GALLERY)
    index = GalleryIndex(12)
    with pytest.raises(ValueError, match="index is empty"):
        index.search(QUERIES, 1)
    with pytest.raises(ValueError, match=r"\(N, 12\), not \(5, 11\)"):
        index.add(GALLERY[:5, 1:])
    index.add(GALLERY[:5])
    broken = GALLERY.clone().repeat(100, 1)
    broken[-1, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        index.add(broken)
    assert len(index) == 5
    with pytest.raises(ValueError, match="for all images of an index or for none"):
        index.add(GALLERY[:5], range(5))
    with pytest.raises(ValueError, match="added without cameras"):
        index.search(QUERIES, 1, cameras=Q_CAMERAS)
    with pytest.raises(ValueError, match="2 own images for 37 queries"):
        index.search(QUERIES, 1, own=[1, 2])
    with pytest.raises(ValueError, match="k is 0"):
        index.search(QUERIES, 0)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"torchreid_xres\[search\]"):
        GalleryIndex(4)
