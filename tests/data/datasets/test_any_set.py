"""What holds for every reader, on a small tree with the real names."""

import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from torchreid_xres.data import DATASETS, datasets
from torchreid_xres.data.catalogue import catalogue

# Data sets that draw themselves have no folder to read.
READERS = sorted(name for name in DATASETS if not name.startswith("synth"))
SETS = [name for name in READERS if name != "folder"]


def pairs_of(split, role):
    return sorted((Path(image.path).name, image.pid, image.camid, image.low) for image in getattr(split, role))


def test_every_reader_has_a_tree(trees):
    assert sorted(trees) == READERS
    assert set(READERS) <= set(datasets.__all__)


def test_queries_are_found_in_the_gallery(any_set, build):
    split = build(any_set).split
    for query in split.query:
        matches = [image for image in split.gallery if image.pid == query.pid and image.camid != query.camid]
        assert matches, query
    assert {image.pid for image in split.train}.isdisjoint(image.pid for image in split.query)


def test_low_images_have_a_rate_and_the_others_none(any_set, build):
    dataset = build(any_set)
    allowed = {"native"} if dataset.natural else set(dataset.rates)
    for role in ("train", "query", "gallery"):
        for image in getattr(dataset.split, role):
            rate = dataset.rate_of[image.path]
            assert rate in allowed if image.low else rate == 1.0


def test_a_validation_part_is_made_like_the_test(any_set, build):
    whole = build(any_set)
    if len({image.pid for image in whole.split.train}) < 4:
        pytest.skip("the small tree has fewer than 4 training identities")
    options = {"validation": 0.5, "part": "validation"}
    query, gallery = (build(any_set, mode=mode, **options) for mode in ("query", "gallery"))
    trained = {path for path, *_ in build(any_set, validation=0.5).data}
    assert trained.isdisjoint(path for path, *_ in (*query.data, *gallery.data))
    assert trained < {image.path for image in whole.split.train}
    lows = {item["low"] for item in build(any_set, mode="query")}
    if not whole.natural:
        assert {item["low"] for item in query} == {True} <= lows and not any(item["low"] for item in gallery)
    assert query.manifest.sha256 == whole.manifest.sha256


def test_splits_share_the_training_where_the_set_says_so(any_set, build, tree):
    root = tree(any_set)
    first = build(any_set, root=root)
    if first.num_splits > 1:
        other = build(any_set, root=root, split_id=1)
        same = first.split.train == other.split.train
        assert same == first.splits_share_training
        assert not same or all(first.rate_of[image.path] == other.rate_of[image.path] for image in first.split.train)


def test_items_have_the_size_of_the_rate(any_set, build):
    dataset = build(any_set, mode="query")
    item = dataset[0]
    with PIL.Image.open(item["impath"]) as img:
        width, height = (128, 128) if any_set.endswith("_x8") else img.size
    assert item["size"].tolist() == [int(height / item["rate"]), int(width / item["rate"])]
    assert item["img"].size == tuple(item["size"].tolist()[::-1])


def test_splits_do_not_depend_on_place_order_or_chance(any_set, build, tmp_path, monkeypatch):
    here = build(any_set).manifest
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / any_set, moved)
    real_scandir, real_listdir = os.scandir, os.listdir

    class Backwards:
        def __init__(self, path="."):
            with real_scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return False

        def __iter__(self):
            return iter(self.entries)

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(real_listdir(path), reverse=True))
    np.random.seed(12345)
    state = np.random.get_state()[1].copy()
    there = build(any_set, root=moved)
    assert there.manifest.sha256 == here.sha256
    assert (np.random.get_state()[1] == state).all()
    assert str(tmp_path) not in repr(there.manifest)


@pytest.mark.parametrize("any_set", [name for name in SETS if DATASETS[name].build.num_splits > 1])
def test_every_split_can_be_built_and_differs(any_set, tree, build):
    root = tree(any_set)
    first = build(any_set, root=root)
    splits = [build(any_set, root=root, split_id=number).split for number in range(first.num_splits)]
    tests = {tuple(pairs_of(split, "gallery")) for split in splits}
    # Small trees have few possible splits; ten equal ones would be a constant.
    assert len(tests) > 1
    with pytest.raises(ValueError, match=f"{first.num_splits - 1}"):
        build(any_set, root=root, split_id=first.num_splits)


@pytest.mark.parametrize("any_set", SETS)
def test_a_set_that_is_not_there_names_the_folders(any_set, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        DATASETS[any_set].build(root=str(tmp_path))
    assert f"Is the folder of data sets, {tmp_path} (--root, or the key data.root), the right one?" in str(error.value)
    documented = DATASETS[any_set].build.__doc__
    looked_for = str(error.value.__cause__).split("looked for the folders ")[1]
    assert looked_for.count("not there") >= 2
    for place in looked_for.split("; "):
        top = place.split()[0].split("/")[0]
        assert f"``{top}" in documented


@pytest.mark.parametrize("any_set", SETS)
def test_a_root_that_is_none_is_told_with_its_keys(any_set, tmp_path):
    (tmp_path / "a.jpg").touch()
    for root, what in (("gone", "does not exist"), ("a.jpg", "is a file")):
        told = rf"^{any_set}: .*The folder of data sets, .*{root} \(--root, or the key data\.root\), {what}$"
        with pytest.raises(FileNotFoundError, match=told):
            DATASETS[any_set].build(root=str(tmp_path / root))


def test_a_set_that_draws_itself_needs_a_folder(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(OSError, match=r"^synth_person: .*a\.jpg \(--root, or the key data\.root\), is a file$"):
        DATASETS["synth_person"].build(root=str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("any_set", SETS)
def test_an_incomplete_set_fails_with_both_numbers(any_set, tree):
    with pytest.raises(ValueError, match=r"expected \d+, found \d+ in .*check_counts=False"):
        DATASETS[any_set].build(root=str(tree(any_set)))


@pytest.mark.parametrize("any_set", SETS)
def test_terms_and_page_are_told(any_set):
    entry = DATASETS[any_set]
    assert entry.meta["natural"] == entry.build.natural
    assert entry.meta["downloadable"] is (any_set in catalogue())
    text = " ".join(entry.build.__doc__.split())
    assert entry.meta["page"] in text
    assert "Terms: " in text


# In the other sets lists or folders say what an image is.
@pytest.mark.parametrize("any_set", sorted({*SETS} - {"mlr_sysu", "mlr_vru", "vehicle2cam", "vehicleid_x8"}))
def test_an_odd_name_is_refused_by_name(any_set, tree, build):
    root = tree(any_set)
    some = next(path for path in sorted(root.rglob("*.*")) if path.is_file() and "distractors" not in path.parts)
    some.rename(some.with_name("odd" + some.suffix))
    with pytest.raises(ValueError, match=f"odd{some.suffix}: the name is not of the form"):
        build(any_set, root=root)


def test_hidden_and_foreign_files_are_passed_over(any_set, tree, build):
    root = tree(any_set)
    before = build(any_set, root=root).manifest
    some = next(path for path in sorted(root.rglob("*.*")) if path.suffix in (".jpg", ".png", ".bmp"))
    (some.parent / f"._{some.name}").write_bytes(b"resource fork")
    (some.parent / "Thumbs.db").write_bytes(b"thumbnails")
    assert build(any_set, root=root).manifest.sha256 == before.sha256
