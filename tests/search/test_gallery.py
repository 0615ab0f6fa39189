"""A gallery follows its folder, survives a kill at any moment, refuses other models, and finds what is nearest."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import PIL.Image
import pytest
import torch

from torchreid_xres.engine.base import LAST
from torchreid_xres.inference import Extractor
from torchreid_xres.metrics import distance_matrix
from torchreid_xres.search import Gallery
from torchreid_xres.search.reader import CONFIG, DATABASE
from torchreid_xres.search.storage import Row

files = pytest.mark.parametrize("home", ["files"], indirect=True)


@pytest.fixture(scope="module")
def extractor(run_of):
    return Extractor(run_of("osnet_x0_25"), batch_size=4)


@pytest.fixture
def images(tiny_root, tmp_path):
    """A folder with 18 images in folders of their identities."""
    return shutil.copytree(tiny_root / "gallery", tmp_path / "images")


@pytest.fixture
def built(images, extractor, home):
    made = Gallery(home, extractor)
    made.update(images)
    return made


def counts(done):
    return done.added, done.changed, done.removed, done.kept


def test_features_are_the_extractors_and_come_back(built, images, extractor):
    paths = sorted(images.rglob("*.png"))
    assert built.names == [path.relative_to(images).as_posix() for path in paths] and len(built) == 18
    torch.testing.assert_close(built.features, extractor(paths), rtol=1e-4, atol=1e-5)
    again = Gallery(built.place)
    assert again.names == built.names and torch.equal(again.features, built.features)
    assert sorted(path.name for path in built.folder.iterdir()) == [CONFIG, DATABASE][: 2 - built.searches]


def test_only_what_changed_is_read(built, images, monkeypatch):
    read = []
    image = Extractor.image

    def seen(self, picture):
        if isinstance(picture, os.PathLike):
            read.append(picture.name)
        return image(self, picture)

    monkeypatch.setattr(Extractor, "image", seen)
    assert counts(built.update(images)) == (0, 0, 0, 18) and read == []

    first, second, third, *_ = sorted(images.rglob("*.png"))
    before = built.features[[0, 1]]
    first.unlink()
    PIL.Image.new("RGB", (20, 40), "red").save(second)
    shutil.copy(third, images / "new.PNG")
    done = built.update(images)
    assert counts(done) == (1, 1, 1, 16) and sorted(read) == [second.name, "new.PNG"]
    assert len(built) == 18 and first.relative_to(images).as_posix() not in built.names
    assert not torch.allclose(built.features[0], before[1])  # of what was the second
    assert torch.allclose(built.features[built.names.index("new.PNG")], built.features[1], rtol=1e-4, atol=1e-5)

    os.utime(third, ns=(1, 1))  # the same content at another time is read again
    assert counts(built.update(images)) == (0, 1, 0, 17)


def test_a_folder_that_moved_is_the_same_gallery(built, images, tmp_path, tiny_root):
    moved = tmp_path / "moved"
    images.rename(moved)
    assert counts(built.update(moved)) == (0, 0, 0, 18)
    assert built.search(built.features[:1], 1)[0][0].path.is_file()
    with pytest.raises(ValueError, match=r"none of them is in .*query: name another folder"):
        built.update(tiny_root / "query")
    assert len(built) == 18


def test_unusable_files_are_told_and_not_tried_again(built, images):
    whole = next(images.rglob("*.png")).read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "text.jpg").write_text("no picture")
    (images / "empty.jpg").touch()
    (images / "notes.txt").touch()
    (images / "._cut.png").touch()
    done = built.update(images)
    assert set(done.faults) == {"cut.png", "text.jpg", "empty.jpg"} and done.added == 0
    assert done.tree.left_out == {"hidden": ["._cut.png"], "other files": ["notes.txt"]}
    assert "cannot be read as an image" in done.faults["cut.png"] and str(images) not in done.faults["text.jpg"]
    assert built.faults == dict(sorted(done.faults.items())) and len(built) == 18
    done = built.update(images)
    assert done.faults == {} and done.kept == 21
    (images / "cut.png").write_bytes(whole)
    assert counts(built.update(images)) == (0, 1, 0, 20) and len(built) == 19


def test_pictures_of_all_kinds(extractor, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    base = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8))
    for mode in ("CMYK", "P", "L", "1"):
        base.convert(mode).save(folder / f"{mode}.tif")
    PIL.Image.fromarray(np.full((40, 20), 40_000, dtype=np.uint16)).save(folder / "sixteen.png")
    base.resize((1, 1)).save(folder / "one.png")
    base.resize((10_000, 20)).save(folder / "wide.png")
    made = Gallery(tmp_path / "gallery", extractor)
    assert made.update(folder).faults == {} and len(made) == 7
    assert torch.isfinite(made.features).all()


def test_a_bomb_does_not_stop_the_others(extractor, images, tmp_path, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 64 * 32)
    PIL.Image.new("L", (640, 320)).save(images / "bomb.png")
    made = Gallery(tmp_path / "gallery", extractor)
    done = made.update(images)
    assert "exceeds limit" in done.faults["bomb.png"] and len(made) == 18


def test_folders_without_images(extractor, built, tmp_path):
    empty = tmp_path / "empty"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        built.update(empty)
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="it is empty"):
        built.update(empty)
    (empty / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no images in .*: left out: 1 other files"):
        built.update(empty)
    assert len(built) == 18
    with pytest.raises(FileNotFoundError, match="no gallery in"):
        Gallery(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Gallery(tmp_path / "nowhere", extractor).update(tmp_path / "missing")
    assert not (tmp_path / "nowhere").exists()


def test_names_that_are_no_text_are_left_out(built, images):
    try:
        with open(os.fsencode(images) + b"/\xff.png", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes no such name")
    done = built.update(images)
    assert sum(map(len, done.tree.left_out.values())) == 1 and done.faults == {}


def test_what_could_not_be_looked_at_stays(built, images, tmp_path, monkeypatch):
    scandir, closed = os.scandir, {os.fspath(images / "008")}

    def scan(path):
        if os.fspath(path) in closed:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    within = [name for name in built.names if name.startswith("008/")]
    gone = next(name for name in built.names if name not in within)
    (images / gone).unlink()
    done = built.update(images)
    assert counts(done) == (0, 0, 1, 17 - len(within)) and done.unseen == len(within) > 0
    assert "cannot look at 008 (Permission denied)" in done.tree.told()
    assert set(within) <= set(built.names) and len(built) == 17
    closed.clear()
    assert counts(built.update(images)) == (0, 0, 0, 17)

    (images / "008").rename(tmp_path / "elsewhere")  # a disk that is linked, and not there for once
    (images / "008").symlink_to(tmp_path / "elsewhere")
    assert counts(built.update(images)) == (0, 0, 0, 17)
    (tmp_path / "elsewhere").rename(tmp_path / "hidden")
    done = built.update(images)
    assert done.unseen == len(within) and done.removed == 0 and len(built) == 17
    (images / "008").unlink()
    assert built.update(images).removed == len(within)


def test_a_file_that_cannot_be_opened_now_is_tried_again(built, images, monkeypatch):
    first, new = sorted(images.rglob("*.png"))[0], images / "new.png"
    shutil.copy(first, new)
    os.utime(first, ns=(1, 1))
    real_open, closed = open, {os.fspath(first), os.fspath(new)}

    def opened(path, *args, **kwargs):
        if os.fspath(path) in closed:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", opened)
    for _ in range(2):
        done = built.update(images)
        assert counts(done) == (0, 0, 0, 17) and set(done.faults) == {first.relative_to(images).as_posix(), "new.png"}
        assert "Permission denied" in done.faults["new.png"] and built.faults == {} and len(built) == 18
    closed.clear()
    assert counts(built.update(images)) == (1, 1, 0, 17)


def test_thumbnails_that_an_earlier_build_took_come_out(built, images, monkeypatch):
    shutil.copytree(images / "008", images / "@eaDir" / "008")
    monkeypatch.setattr("torchreid_xres.data.walk._SYSTEM", set())
    taken = built.update(images).added
    monkeypatch.undo()
    done = built.update(images)
    assert taken == done.removed > 0 and len(built) == 18


def test_linked_folders_are_searched(built, images, tiny_root):
    (images / "more").symlink_to(tiny_root / "query")
    added = built.update(images).added
    assert added == len(list((tiny_root / "query").rglob("*.png"))) and len(built) == 18 + added
    hit = built.search(built.features[-1:], 1)[0][0]
    assert hit.name.startswith("more/") and hit.path.is_file()


def test_galleries_of_other_models_are_refused(built, run_of):
    with pytest.raises(ValueError, match=r"made by osnet_x0_25 with the weights .* holds sr_reid"):
        Gallery(built.place, Extractor(run_of("sr_reid")))
    with pytest.raises(ValueError, match=r"other settings: full_size is None there, \[64, 32\] here"):
        Gallery(built.place, Extractor(run_of("osnet_x0_25"), full_size=(64, 32)))
    with pytest.raises(ValueError, match="was made by"):
        built.make_extractor(run_of("osnet_x0_25", train__seed=5))
    assert Gallery(built.place, Extractor(run_of("osnet_x0_25"))).names == built.names


def test_it_knows_how_to_make_its_extractor(run_of, images, extractor, tmp_path):
    folder = shutil.copytree(run_of("sr_reid"), tmp_path / "run")
    made = Gallery(tmp_path / "gallery", Extractor(folder, full_size=(64, 32)))
    made.update(images)
    again = Gallery(tmp_path / "gallery").make_extractor(device="cpu")
    assert again.full_size == (64, 32)
    assert torch.equal(again(images / "008" / "008_c2_0.png"), made.extractor(images / "008" / "008_c2_0.png"))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="there is no run or checkpoint"):
        made.make_extractor()
    for place in (moved, moved / LAST):
        made.make_extractor(place)


def test_search_is_exact(built):
    queries = torch.randn(5, built.features.shape[1])
    distances = distance_matrix(queries, built.features, "euclidean")
    for row, hits in zip(distances, built.search(queries, top=4), strict=True):
        order = row.argsort()[:4].tolist()
        assert [hit.name for hit in hits] == [built.names[i] for i in order]
        assert [hit.rank for hit in hits] == [1, 2, 3, 4]
        assert [hit.score for hit in hits] == pytest.approx([-row[i].item() for i in order], rel=1e-4)
        assert all(hit.path.is_file() and hit.size == (64, 32) for hit in hits)
    assert len(built.search(queries[:1], top=100)[0]) == 18


def test_features_are_not_in_memory_twice(built, monkeypatch):
    if built.searches:
        pytest.skip("the engine holds them")
    written = 2000 * 4096

    def rows():
        return [
            Row(f"{number:04d}.png", 1, 1, 64, 32, number.to_bytes(2, "big") * 2048, None) for number in range(2000)
        ]

    monkeypatch.setattr(built._storage, "rows", rows)
    built.__dict__.pop("_held", None)
    tracemalloc.start()
    try:
        held = len(built.features), built.names[:2]
        assert written < tracemalloc.get_traced_memory()[1] < 1.5 * written
    finally:
        tracemalloc.stop()
    assert held == (2000, ["0000.png", "0001.png"])
    assert built.features[259].numpy().tobytes() == (259).to_bytes(2, "big") * 2048


def test_scores_are_cosines_where_the_run_was_evaluated_by_them(run_of, images, home):
    extractor = Extractor(run_of("sr_reid"))
    made = Gallery(home, extractor)
    made.update(images)
    hits = made.search(made.features[3:4], top=2)[0]
    assert hits[0].name == made.names[3] and hits[0].score == pytest.approx(1, abs=1e-5)
    assert hits[1].score == pytest.approx(
        torch.cosine_similarity(made.features[3], made.features[made.names.index(hits[1].name)], dim=0).item(), abs=1e-5
    )


def test_nothing_to_search(extractor, built, tmp_path):
    with pytest.raises(ValueError, match="holds no image"):
        Gallery(tmp_path / "new", extractor).search(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="top is 0"):
        built.search(built.features, top=0)
    with pytest.raises(ValueError, match="updated by the extractor"):
        Gallery(built.place).update(tmp_path)


@files
def test_damaged_files_are_named(built):
    path = built.folder / DATABASE
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match=r"gallery\.sqlite is not a readable gallery"):
        Gallery(built.place)


@files
def test_a_gallery_in_use_is_said(built, images, monkeypatch):
    monkeypatch.setattr("torchreid_xres.search.storage._PATIENCE", 0.05)
    with sqlite3.connect(built.folder / DATABASE) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match=r"gallery\.sqlite: database is locked"):
            built.update(images)


def test_a_stopped_build_loses_one_batch_at_most(extractor, images, home, monkeypatch):
    made, described = Gallery(home, extractor), Extractor.describe
    calls = []

    def stop(self, prepared):
        calls.append(len(prepared))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return described(self, prepared)

    monkeypatch.setattr(Extractor, "describe", stop)
    with pytest.raises(KeyboardInterrupt):
        made.update(images)
    assert len(made) == 8  # two batches of four
    assert counts(made.update(images)) == (10, 0, 0, 8)


@pytest.mark.slow
def test_a_killed_build_goes_on(run_of, images, tmp_path):
    """Kill -9 in the middle, more than once; nothing of the finished batches is lost and nothing is left behind."""
    for copy in range(40):
        shutil.copytree(images / "008", images / f"copy{copy}")
    code = (
        "import sys, time; from torchreid_xres.inference import Extractor; from torchreid_xres.search import Gallery\n"
        "describe = Extractor.describe\n"
        "Extractor.describe = lambda self, prepared: time.sleep(0.05) or describe(self, prepared)\n"
        "Gallery(sys.argv[2], Extractor(sys.argv[1], batch_size=2)).update(sys.argv[3])"
    )
    place, folder = tmp_path / "gallery", run_of("osnet_x0_25")
    held = []
    for _ in range(2):
        build = subprocess.Popen([sys.executable, "-c", code, str(folder), str(place), str(images)])
        target = (held[-1] if held else 0) + 7
        while build.poll() is None and not ((place / DATABASE).is_file() and _rows(place) >= target):
            time.sleep(0.02)
        build.send_signal(signal.SIGKILL)
        build.wait()
        held.append(len(Gallery(place)))
    assert 0 < held[0] < held[1] < 138
    made = Gallery(place, Extractor(folder))
    assert counts(made.update(images)) == (138 - held[1], 0, 0, held[1]) and len(made) == 138
    assert sorted(path.name for path in place.iterdir()) == [CONFIG, DATABASE]


def _rows(place):
    try:
        return len(Gallery(place))
    except (OSError, ValueError):  # not begun yet, or locked for a moment
        return 0
