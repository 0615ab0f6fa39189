"""Rates from names, and the manifest: the same on every machine, whole on disk, quick to notice a change."""

import doctest
import json
import os
from collections import Counter

import pytest

from torchreid_xres.data import protocol
from torchreid_xres.data.protocol import Manifest, draw_rate, file_sha256

RATES = (2.0, 3.0, 4.0)


@pytest.fixture
def folder(tmp_path):
    for name in ("query/a.jpg", "gallery/b.jpg"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
    return tmp_path / "set"


@pytest.fixture
def manifest(folder):
    return Manifest(
        dataset="tiny",
        options={"lr_camera": 1},
        split_id=0,
        kernel="area",
        rates=[2.0, 3.0],
        query_rate=None,
        seed=0,
        images={
            "query/a.jpg": {"rate": 2.0, "sha256": file_sha256(folder / "query/a.jpg")},
            "gallery/b.jpg": {"rate": "native", "sha256": file_sha256(folder / "gallery/b.jpg")},
        },
        counts={"train": {"images": 0, "identities": 0, "low": 0}},
    )


def test_examples():
    assert doctest.testmod(protocol).failed == 0


def test_draws_are_the_same_everywhere():
    # Written down once; if these change, every manifest ever published is void.
    names = ["query/0001_c3s1_000151_00.jpg", "a", "train/ü.png", "x/y/z.jpg"]
    assert [draw_rate(name, 0, RATES) for name in names] == [4.0, 2.0, 3.0, 4.0]
    assert [draw_rate(name, 7, RATES) for name in names] == [3.0, 4.0, 4.0, 3.0]


def test_draws_are_uniform_and_depend_on_the_seed():
    names = [f"image_{i}.jpg" for i in range(3000)]
    first = [draw_rate(name, 0, RATES) for name in names]
    second = [draw_rate(name, 1, RATES) for name in names]
    assert set(Counter(first)) == set(RATES)
    assert all(900 < count < 1100 for count in Counter(first).values())
    assert 900 < sum(a == b for a, b in zip(first, second, strict=True)) < 1100


def test_no_rates():
    with pytest.raises(ValueError, match=r"no rates to draw from for 'a\.jpg'"):
        draw_rate("a.jpg", 0, ())


def test_hash_is_the_same_everywhere(manifest):
    assert manifest.sha256 == "1c601df99cec2b9e2432c3188f87a6dbb4b809976fe5ec22503bc93749e2829f"


@pytest.mark.parametrize("field, value", [("seed", 1), ("kernel", "bicubic"), ("query_rate", 2.0), ("images", {})])
def test_hash_covers(manifest, field, value):
    other = Manifest(**{**manifest._content(), field: value})
    assert other.sha256 != manifest.sha256


def test_save_and_load(manifest, tmp_path):
    path = tmp_path / "deep" / "manifest.json"
    manifest.save(path)
    assert Manifest.load(path) == manifest
    assert Manifest.load(path).sha256 == manifest.sha256 == json.loads(path.read_text())["sha256"]
    assert os.listdir(path.parent) == ["manifest.json"]


def test_order_of_images_does_not_matter(manifest):
    turned = dict(reversed(manifest.images.items()))
    assert Manifest(**{**manifest._content(), "images": turned}).sha256 == manifest.sha256


def test_a_failed_save_leaves_the_old_file(manifest, tmp_path):
    path = tmp_path / "manifest.json"
    manifest.save(path)
    before = path.read_bytes()
    unwritable = Manifest(**{**manifest._content(), "options": {"folder": object()}})
    with pytest.raises(TypeError):
        unwritable.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["manifest.json"]


def test_a_save_cut_short_leaves_the_old_file(manifest, tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    manifest.save(path)
    before = path.read_bytes()

    def cut(content, file, **kwargs):
        file.write("{")
        raise OSError("no space left")

    monkeypatch.setattr(protocol.json, "dump", cut)
    with pytest.raises(OSError, match="no space left"):
        manifest.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["manifest.json"]


def test_a_changed_manifest_is_refused(manifest, tmp_path):
    path = tmp_path / "manifest.json"
    manifest.save(path)
    path.write_text(path.read_text().replace('"rate": 2.0', '"rate": 3.0'))
    with pytest.raises(ValueError, match=f"states the hash {manifest.sha256} but its content has"):
        Manifest.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": ""}', "3"])
def test_other_files_are_no_manifests(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=r"m\.json: not a protocol manifest"):
        Manifest.load(tmp_path / "m.json")


def test_verify(manifest, folder):
    assert manifest.verify(folder) == {}
    (folder / "query/a.jpg").write_bytes(b"another picture")
    (folder / "gallery/b.jpg").unlink()
    assert manifest.verify(folder) == {"query/a.jpg": "changed", "gallery/b.jpg": "missing"}


def test_files_are_read_once_until_they_change(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    reads, sha256 = [], protocol.hashlib.sha256
    monkeypatch.setattr(protocol.hashlib, "sha256", lambda data: reads.append(1) or sha256(data))
    assert file_sha256(path) == file_sha256(str(path))
    assert len(reads) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    assert len(reads) == 2
