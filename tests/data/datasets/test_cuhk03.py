"""MLR-CUHK03 in its two layouts; the release's MATLAB file is generated."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from torchreid_xres.data import DATASETS
from torchreid_xres.data.datasets import mlr_cuhk03

PERSONS = {1: 4, 2: 3}
TESTSETS = [[(1, 1), (2, 3)], [(1, 2), (1, 4)]]


def box(kind, pair, person, slot):
    """The pixels of one box, or None where a person has no image in a slot."""
    if slot in (4, 5, 10) or (kind == "detected" and (pair, person, slot) == (2, 1, 7)):
        return None
    generator = np.random.default_rng([len(kind), pair, person, slot])
    return generator.integers(0, 256, (16 + person, 6 + pair, 3), dtype=np.uint8)


@pytest.fixture
def release(tmp_path):
    """A root with a cuhk-03.mat of 2 pairs and 2 test sets, built as MATLAB 7.3 does: cells are references."""
    h5py = pytest.importorskip("h5py", reason="h5py writes and reads the MATLAB file")
    path = tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as mat:

        def stored(name, array):
            return mat.create_dataset(f"#refs#/{name}", data=array).ref

        for kind in ("detected", "labeled"):
            pairs = []
            for pair, number in PERSONS.items():
                cells = np.empty((10, number), dtype=h5py.ref_dtype)
                for person in range(1, number + 1):
                    for slot in range(1, 11):
                        pixels = box(kind, pair, person, slot)
                        # MATLAB writes an empty cell as its size.
                        array = np.zeros(2, np.uint64) if pixels is None else pixels.T
                        cells[slot - 1, person - 1] = stored(f"{kind}_{pair}_{person}_{slot}", array)
                pair_cells = mat.create_dataset(f"#refs#/{kind}_{pair}", cells.shape, dtype=h5py.ref_dtype)
                pair_cells[...] = cells
                pairs.append(pair_cells.ref)
            mat.create_dataset(kind, (1, len(pairs)), dtype=h5py.ref_dtype)[0] = pairs
        sets = [stored(f"test_{number}", np.array(rows, float).T) for number, rows in enumerate(TESTSETS)]
        mat.create_dataset("testsets", (1, len(sets)), dtype=h5py.ref_dtype)[0] = sets
    return tmp_path


class TestRelease:
    def test_images_are_those_of_the_file(self, release, build):
        build("mlr_cuhk03", root=release)
        folder = release / "cuhk03" / "images_detected"
        expected = {
            f"{pair}_{person:03d}_{1 if slot <= 5 else 2}_{slot:02d}.png": box("detected", pair, person, slot)
            for pair, number in PERSONS.items()
            for person in range(1, number + 1)
            for slot in range(1, 11)
        }
        expected = {name: pixels for name, pixels in expected.items() if pixels is not None}
        assert {path.name for path in folder.iterdir()} == set(expected)
        for name, pixels in expected.items():
            assert np.array_equal(np.asarray(PIL.Image.open(folder / name)), pixels)
        assert [path.name for path in folder.parent.glob("*.tmp")] == []

    def test_classic_test_sets(self, release, build):
        for number, rows in enumerate(TESTSETS):
            split = build("mlr_cuhk03", root=release, split_id=number).split
            assert {image.pid for image in split.query} == {1000 * pair + person for pair, person in rows}
            assert all("_1_" in Path(image.path).name[5:] and image.low for image in split.query)
            assert all("_2_" in Path(image.path).name[5:] and not image.low for image in split.gallery)
            assert len({image.pid for image in split.train}) == 5
            assert all(image.low == (image.camid % 2 == 0) for image in split.train)
        cameras = {image.camid for image in (*split.train, *split.query, *split.gallery)}
        assert cameras == {0, 1, 2, 3}

    def test_labelled_boxes_by_the_hosts_flag(self, release, build):
        dataset = build("mlr_cuhk03", root=release, cuhk03_labeled=True)
        assert dataset.split.folder.endswith("images_labeled")
        assert sum(len(part) for part in dataset.split[1:]) == 7 * 7
        detected = build("mlr_cuhk03", root=release)
        assert sum(len(part) for part in detected.split[1:]) == 7 * 7 - 1

    def test_extracts_once(self, release, build, caplog):
        caplog.set_level(logging.INFO)
        build("mlr_cuhk03", root=release)
        assert "once" in caplog.text
        caplog.clear()
        build("mlr_cuhk03", root=release, split_id=1)
        assert "once" not in caplog.text

    def test_an_interrupted_extraction_leaves_nothing(self, release, build, monkeypatch):
        with monkeypatch.context() as patch:
            saved = []

            def stop(pixels):
                saved.append(pixels)
                if len(saved) == 5:
                    raise KeyboardInterrupt
                return PIL.Image.new("RGB", (4, 4))

            patch.setattr(mlr_cuhk03.PIL.Image, "fromarray", stop)
            with pytest.raises(KeyboardInterrupt):
                build("mlr_cuhk03", root=release)
        assert sorted(path.name for path in (release / "cuhk03").iterdir()) == ["cuhk03_release"]
        assert len(build("mlr_cuhk03", root=release).split.query) > 0

    def test_another_process_may_be_faster(self, release, build, monkeypatch):
        def first(source, target):
            Path(target).mkdir()
            (Path(target) / "1_001_1_01.png").write_bytes(b"theirs")
            raise OSError("directory not empty")

        monkeypatch.setattr(mlr_cuhk03.os, "replace", first)
        folder = release / "cuhk03" / "images_detected"
        with mlr_cuhk03._open_mat(release / "cuhk03" / mlr_cuhk03.MAT) as mat:
            mlr_cuhk03._extract(mat, "detected", folder)
        assert [path.name for path in folder.iterdir()] == ["1_001_1_01.png"]
        assert not list(folder.parent.glob("*.tmp"))

    def test_counts(self, release):
        with pytest.raises(ValueError, match=r"images: expected 14097, found 48 in .*images_detected"):
            DATASETS.build("mlr_cuhk03", root=str(release))

    def test_the_release_wins_unless_told(self, release, build, trees):
        trees["mlr_cuhk03"](release)
        assert build("mlr_cuhk03", root=release).options["layout"] == "release"
        assert build("mlr_cuhk03", root=release, layout="one_pair").split.folder.endswith("images")

    def test_a_file_that_is_no_mat(self, release, build):
        path = release / "cuhk03" / mlr_cuhk03.MAT
        path.write_bytes(b"MATLAB 5.0")
        with pytest.raises(OSError, match=r"cuhk-03.mat: cannot be read as a MATLAB 7.3 file"):
            build("mlr_cuhk03", root=release)


class TestOnePair:
    def test_sides_and_share_of_test_persons(self, build):
        dataset = build("mlr_cuhk03")
        split = dataset.split
        assert len({image.pid for image in split.query}) == 30 * 100 // 743
        assert len({image.pid for image in (*split.train, *split.query)}) == 30
        for image in (*split.train, *split.query, *split.gallery):
            view = int(Path(image.path).name.split("_")[2])
            assert image.camid == view - 1 and image.low == (view == 1)
        assert dataset.options["cuhk03_labeled"] is True

    def test_as_many_test_persons_as_wanted(self, tree, build):
        root = tree("mlr_cuhk03")
        plain, half = build("mlr_cuhk03", root=root), build("mlr_cuhk03", root=root, test_persons=15)
        assert len({image.pid for image in half.split.query}) == len({image.pid for image in half.split.train}) == 15
        assert "test_persons" not in plain.manifest.options  # as it was before there was a choice
        assert half.manifest.options["test_persons"] == 15
        for wrong in (-1, 30):
            with pytest.raises(ValueError, match=f"leave some of 30 persons, and is {wrong}"):
                build("mlr_cuhk03", root=root, test_persons=wrong)

    def test_ten_splits(self, tree, build):
        root = tree("mlr_cuhk03")
        assert build("mlr_cuhk03", root=root, split_id=9).num_splits == 10
        with pytest.raises(ValueError, match="splits 0 to 9, not 10"):
            build("mlr_cuhk03", root=root, split_id=10)

    def test_wrong_layout(self, tree, build):
        root = tree("mlr_cuhk03")
        with pytest.raises(ValueError, match="'two_pairs'; there are: auto, release, one_pair"):
            build("mlr_cuhk03", root=root, layout="two_pairs")
        with pytest.raises(FileNotFoundError, match="looked for the folders cuhk03 "):
            build("mlr_cuhk03", root=root, layout="release")


@pytest.fixture(scope="module")
def real(shared_data):
    if not (shared_data / "cuhk03_p1").is_dir():
        pytest.skip(f"no cuhk03_p1 in {shared_data}")

    def make(split_id=0, **options):
        options = {"root": str(shared_data), "verbose": False, **options}
        return DATASETS.build("mlr_cuhk03", split_id=split_id, **options)

    return make


class TestRealPair:
    def test_counts(self, real):
        split = real().split
        assert len({image.pid for image in split.train}) == 643
        assert len({image.pid for image in split.query}) == len({image.pid for image in split.gallery}) == 100
        assert (len(split.train), len(split.query), len(split.gallery)) == (6267, 479, 493)

    def test_splits_are_pinned(self, real):
        """The test persons must never change: published figures depend on them."""
        persons = [sorted({image.pid - 1000 for image in real(number).split.query}) for number in range(10)]
        assert [len(test) for test in persons] == [100] * 10
        assert persons[0][:8] == [5, 17, 19, 33, 58, 60, 68, 82]
        assert len({tuple(test) for test in persons}) == 10

    def test_rates_are_spread_evenly(self, real):
        dataset = real()
        rates = Counter(dataset.rate_of[image.path] for image in dataset.split.train if image.low)
        # 3109 images, 1036 expected at each rate; 4 standard deviations are 105.
        assert set(rates) == {2.0, 3.0, 4.0}
        assert all(931 <= count <= 1141 for count in rates.values()), rates

    def test_query_item(self, real):
        item = real(mode="query")[0]
        with PIL.Image.open(item["impath"]) as img:
            assert item["size"].tolist() == [int(img.height / item["rate"]), int(img.width / item["rate"])]
