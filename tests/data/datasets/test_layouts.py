"""The folders in which archives and other projects leave the sets; what is said of one that is nearly right."""

import json
import os
import shutil
from pathlib import Path

import pytest

from torchreid_xres.data import DATASETS

PLACES = [
    ("mlr_market1501", "Market-1501-v15.09.15/Market-1501-v15.09.15"),
    ("mlr_market1501", "market1501/Market-1501-v15.09.15/Market-1501-v15.09.15"),
    ("mlr_dukemtmcreid", "DukeMTMC-reID/DukeMTMC-reID"),
    ("mlr_viper", "VIPeR.v1.0/VIPeR"),
    ("mlr_viper", "viper/VIPeR.v1.0/VIPeR"),
    ("mlr_viper", "VIPeR/VIPeR"),
    ("mlr_sysu", "SYSU/SYSU"),
    ("mta_reid", "MTA_reid/MTA_reid"),
    ("mlr_vru", "VRU/VRU"),
    ("vehicle2cam", "Vehicle-Re-ID-Dataset/Vehicle-Re-ID-Dataset"),
    ("caviar", "CAVIAR4REID/CAVIARa"),
    ("caviar", "CAVIAR4REID/CAVIAR4REID"),
    ("caviar", "caviar/CAVIAR4REID/CAVIARa"),
    ("veri776_x8", "VeRi_with_plate"),
    ("veri776_x8", "VeRi-776"),
    ("veri776_x8", "VeRi/VeRi"),
    ("veri776_x8", "VeRi-776/VeRi-776"),
    ("veri776_x8", "veri/VeRi_with_plate"),
    ("vehicleid_x8", "VehicleID/VehicleID_V1.0"),
    ("vehicleid_x8", "VehicleID_V1.0/VehicleID_V1.0"),
    ("vehicleid_x8", "VehicleID/VehicleID"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_it_is_found_and_is_the_same_set(name, place, tree, build, tmp_path):
    usual = build(name, root=tree(name))
    root = tmp_path / "root"
    shutil.copytree(usual.split.folder, root / place)
    moved = build(name, root=root)
    assert moved.split.folder == str(root / place)
    assert moved.manifest.sha256 == usual.manifest.sha256


@pytest.mark.parametrize("name", ["mlr_vru", "vehicleid_x8", "vehicle2cam"])
def test_endings_in_capitals_fit_the_lists(name, tree, build):
    root = tree(name)
    usual = build(name, root=root).split
    for path in [*root.rglob("*.jpg")]:
        path.rename(path.with_suffix(".JPG"))
    capitals = build(name, root=root).split
    for part in ("train", "query", "gallery"):
        assert len(getattr(capitals, part)) == len(getattr(usual, part)) > 0
        assert {image.pid for image in getattr(capitals, part)} == {image.pid for image in getattr(usual, part)}
    assert all(image.path.endswith(".JPG") for image in capitals.train)


class TestCUHK03:
    """What torchreid makes of the release: images and lists, whose paths are of the machine that it ran on."""

    @pytest.fixture
    def extracted(self, tmp_path, picture):
        def make(folder="cuhk03", boxes="detected", splits=2):
            place = tmp_path / folder
            names = [f"{pair}_{person:03d}_{slot // 6 + 1}_{slot:02d}.png" for pair, person in self.PERSONS
                     for slot in (1, 2, 6, 7)]  # fmt: skip
            for name in names:
                picture(place / f"images_{boxes}" / name)
            lists = []
            for number in range(splits):
                pair, person = self.PERSONS[number]
                test = [name for name in names if name.startswith(f"{pair}_{person:03d}_")]
                rows = {
                    part: [[f"D:\\reid/data\\cuhk03/images_{boxes}/{name}", 0, 0] for name in part_names]
                    for part, part_names in (("train", set(names) - set(test)), ("query", test), ("gallery", test))
                }
                lists.append(rows | {"num_train_pids": len(self.PERSONS) - 1})
            (place / f"splits_classic_{boxes}.json").write_text(json.dumps(lists))
            return tmp_path

        return make

    PERSONS = ((1, 1), (2, 1), (2, 2), (5, 3))

    @pytest.mark.parametrize("boxes", ["detected", "labeled"])
    @pytest.mark.parametrize("folder", ["cuhk03", "CUHK03", "cuhk03/cuhk03"])
    def test_its_test_sets_without_the_mat(self, extracted, build, folder, boxes):
        root = extracted(folder, boxes)
        for number, pid in enumerate((1001, 2001)):
            dataset = build("mlr_cuhk03", root=root, split_id=number, cuhk03_labeled=boxes == "labeled")
            split = dataset.split
            assert dataset.options["layout"] == "release" and split.folder == str(root / folder / f"images_{boxes}")
            assert {image.pid for image in split.query} == {image.pid for image in split.gallery} == {pid}
            assert {image.pid for image in split.train} == {1001, 2001, 2002, 5003} - {pid}
            assert all(image.low and "_1_0" in Path(image.path).name for image in split.query)

    def test_what_is_lacking(self, extracted, build):
        root = extracted()
        with pytest.raises(ValueError, match=r"splits_classic_detected.json: has no split 7 as torchreid writes it"):
            build("mlr_cuhk03", root=root, split_id=7)
        told = (
            r"cuhk03 \(without cuhk03_release/cuhk-03.mat or images_labeled, splits_classic_labeled.json; it holds "
            r"images_detected, splits_classic_detected.json\)"
        )
        with pytest.raises(FileNotFoundError, match=told):
            build("mlr_cuhk03", root=root, cuhk03_labeled=True)
        (root / "cuhk03" / "splits_classic_detected.json").write_text("[{}]")
        with pytest.raises(ValueError, match="has no split 0 as torchreid writes it"):
            build("mlr_cuhk03", root=root)


class TestNearlyRight:
    def test_what_is_there_and_what_is_wanted(self, tree):
        root = tree("veri776_x8")
        (root / "VeRi" / "image_train").rename(root / "VeRi" / "train")
        told = r"VeRi \(without image_train; it holds image_query, image_test, train\)"
        with pytest.raises(FileNotFoundError, match=told):
            DATASETS.build("veri776_x8", root=str(root))

    def test_another_name(self, tree):
        root = tree("mlr_market1501")
        (root / "market1501").rename(root / "Market1501-new")
        with pytest.raises(FileNotFoundError, match=r"looked for .*, the right one\? It holds Market1501-new$"):
            DATASETS.build("mlr_market1501", root=str(root))

    def test_the_set_in_place_of_the_folder_of_sets(self, tree):
        root = tree("mlr_viper") / "viper" / "VIPeR"
        with pytest.raises(FileNotFoundError, match="which is itself one: name the folder that it lies in; looked"):
            DATASETS.build("mlr_viper", root=str(root))

    def test_a_folder_without_images(self, tmp_path):
        (tmp_path / "CAVIAR4REID" / "other").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=r"CAVIAR4REID \(without images; it holds other\)"):
            DATASETS.build("caviar", root=str(tmp_path))

    def test_a_tree_of_ones_own(self, build, tree, picture):
        root = tree("folder")
        shutil.rmtree(root / "gallery")
        (root / "galery").mkdir()
        told = r"without the folder gallery; expected train, query, gallery, or a table images.csv; it holds galery, qu"
        with pytest.raises(FileNotFoundError, match=told):
            build("folder", root=root)
        for name in ("b.jpg", "a.jpg"):
            picture(root / "gallery" / name)
        told = r"gallery: there are no images in <identity> folders, .*; 2 lie elsewhere, e.g. a.jpg"
        with pytest.raises(FileNotFoundError, match=told):
            build("folder", root=root)


class TestOddFolders:
    """What is not read of a set is told; what cannot be read stops it."""

    @pytest.mark.parametrize("name", ["folder", "mlr_sysu"])
    def test_linked_identities(self, name, tree, build, tmp_path):
        usual = build(name, root=tree(name))
        inner = next(path for path in sorted(Path(usual.split.folder).rglob("*")) if [*path.glob("*.jpg")])
        inner.rename(tmp_path / "disk")
        inner.symlink_to(tmp_path / "disk")
        assert build(name, root=tmp_path / name).manifest.sha256 == usual.manifest.sha256

    @pytest.mark.parametrize("name", ["folder", "mlr_sysu", "mlr_market1501", "mta_reid"])
    def test_an_unreadable_folder_stops_it(self, name, tree, build, monkeypatch):
        root = tree(name)
        image = build(name, root=root).split.gallery[0].path
        scandir, closed = os.scandir, str(Path(image).parent)

        def scan(path):
            if os.fspath(path) == closed:
                raise PermissionError(13, "Permission denied", closed)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", scan)
        with pytest.raises(OSError, match="Permission denied") as told:
            build(name, root=root)
        assert closed in str(told.value)

    @pytest.mark.parametrize("name", ["folder", "mlr_viper"])
    def test_what_is_left_out_is_told(self, name, tree, build, caplog):
        root = tree(name)
        folder = Path(build(name, root=root).split.gallery[0].path).parent
        assert "left out" not in caplog.text
        (folder / "raw.cr2").touch()
        (folder / "900_c9_9.png").symlink_to(folder / "gone.png")
        build(name, root=root)
        assert "1 pictures of kinds that Pillow does not read here, e.g." in caplog.text and "raw.cr2" in caplog.text
        assert "900_c9_9.png (the link leads nowhere)" in caplog.text

    def test_images_astray_in_a_tree_are_told(self, tree, build, picture, caplog):
        root = tree("folder")
        before = build("folder", root=root).manifest.sha256
        picture(root / "gallery" / "z_c1.jpg")
        picture(root / "gallery" / "c" / "1" / "deep" / "a.jpg")
        picture(root / "gallery" / "c" / "1" / "a.jpg")
        (root / "gallery" / "@eaDir").mkdir()
        build("folder", root=root)
        assert "2 images are left out" in caplog.text and "e.g. c/1/deep/a.jpg" in caplog.text
        (root / "gallery" / "c" / "1" / "a.jpg").unlink()
        shutil.rmtree(root / "gallery" / "c" / "1")
        assert build("folder", root=root).manifest.sha256 == before
