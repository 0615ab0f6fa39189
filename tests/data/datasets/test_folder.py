"""A user's own images, from a tree or a table."""

import csv
from pathlib import Path

import pytest
from torchvision.transforms import functional as F

from torchreid_xres import host
from torchreid_xres.data import dataset_options


@pytest.fixture
def table(tmp_path, picture):
    """Return a function that writes images.csv and the images it names, and returns the root."""

    def write(rows, header=("path", "identity", "camera", "split"), name="images.csv", images=True):
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        for row in rows if images else ():
            picture(tmp_path / row[0])
        return tmp_path

    return write


ROWS = [
    ("a/1.jpg", "anna", "north", "train"),
    ("a/2.jpg", "anna", "south", "train"),
    ("b/1.jpg", "bert", "north", "train"),
    ("q/1.png", "carl", "south", "query"),
    ("g/1.png", "carl", "north", "gallery"),
    ("g/2.png", "dora", "north", "gallery"),
]


def brief(split):
    return {
        role: sorted(Path(image.path).relative_to(split.folder).as_posix() for image in getattr(split, role))
        for role in ("train", "query", "gallery")
    }


class TestTree:
    def test_cameras_in_names(self, build):
        dataset = build("folder")
        assert brief(dataset.split)["query"] == ["query/c/img_c2_1.jpg", "query/d/img_c2_1.jpg"]
        assert brief(dataset.split)["gallery"] == [f"gallery/{person}/img_c1_1.jpg" for person in "cde"]
        assert {image.camid for image in dataset.split.query} == {1}
        assert set(dataset.rate_of.values()) == {1.0}

    def test_cameras_as_folders(self, build, picture, tmp_path):
        for place in ("train/a/left", "train/b/left", "query/c/left", "gallery/c/right", "gallery/d/right"):
            picture(tmp_path / place / "1.jpg")
        split = build("folder", root=tmp_path).split
        assert brief(split)["gallery"] == ["gallery/c/right/1.jpg", "gallery/d/right/1.jpg"]
        assert [image.camid for image in split.query] == [0] and {image.camid for image in split.gallery} == {1}

    def test_a_sub_folder(self, build, trees, tmp_path):
        trees["folder"](tmp_path / "mine" / "shop")
        assert build("folder", root=tmp_path, folder="mine/shop").split.folder == str(tmp_path / "mine" / "shop")
        with pytest.raises(FileNotFoundError, match=r"no folder or table .*yours"):
            build("folder", root=tmp_path, folder="yours")

    def test_no_parts(self, build, tmp_path):
        (tmp_path / "query").mkdir()
        with pytest.raises(FileNotFoundError, match=r"without the folder train, gallery; .* or a table images.csv"):
            build("folder", root=tmp_path)

    @pytest.mark.parametrize("deep", [False, True])
    def test_an_empty_folder(self, build, tree, deep):
        root = tree("folder")
        for path in (root / "gallery").rglob("*.jpg"):
            path.unlink()
        if not deep:
            for path in (root / "gallery").iterdir():
                path.rmdir()
        told = r"no images in .*gallery/c" if deep else "gallery: there are no images in <identity> folders"
        with pytest.raises(FileNotFoundError, match=told):
            build("folder", root=root)

    def test_no_camera(self, build, tree, picture):
        root = tree("folder")
        picture(root / "query" / "c" / "holiday.jpg")
        with pytest.raises(ValueError, match=r"holiday.jpg: no camera; the name needs a part like _c2"):
            build("folder", root=root)

    def test_identity_without_gallery_image(self, build, tree, picture):
        root = tree("folder")
        picture(root / "query" / "zoe" / "img_c2_1.jpg")
        with pytest.raises(ValueError, match=r"1 identities have queries but no gallery image, e.g. zoe"):
            build("folder", root=root)

    def test_gallery_image_of_the_same_camera_only(self, build, tree, picture):
        root = tree("folder")
        picture(root / "query" / "e" / "img_c1_9.jpg")
        with pytest.raises(ValueError, match=r"no match in the gallery under another camera.*img_c1_9"):
            build("folder", root=root)

    def test_one_identity_in_train_and_test(self, build, tree, picture):
        root = tree("folder")
        picture(root / "train" / "c" / "img_c2_1.jpg")
        told = r"1 identities are in train and test; of one are .*train/c/img_c2_1\.jpg and .*/c/"
        with pytest.raises(ValueError, match=told):
            build("folder", root=root)


class TestTable:
    def test_reads_the_rows(self, build, table):
        split = build("folder", root=table(ROWS)).split
        assert brief(split) == {"train": ["a/1.jpg", "a/2.jpg", "b/1.jpg"], "query": ["q/1.png"],
                                "gallery": ["g/1.png", "g/2.png"]}  # fmt: skip
        anna, again, bert = split.train
        assert anna.pid == again.pid != bert.pid and anna.camid == bert.camid != again.camid

    def test_by_another_name(self, build, table):
        root = table(ROWS, name="winter.csv")
        assert len(build("folder", root=root, folder="winter.csv").split.train) == 3

    def test_the_order_of_rows_and_columns_does_not_matter(self, build, table):
        before = build("folder", root=table(ROWS))
        turned = [row[::-1] for row in ROWS[::-1]]
        root = table(turned, header=("split", "camera", "identity", "path"), images=False)
        after = build("folder", root=root)
        assert after.split == before.split and after.manifest.sha256 == before.manifest.sha256

    def test_a_spreadsheets_byte_order_mark(self, build, table):
        root = table(ROWS)
        text = (root / "images.csv").read_bytes()
        (root / "images.csv").write_bytes(b"\xef\xbb\xbf" + text)
        assert len(build("folder", root=root).split.train) == 3

    def test_missing_columns(self, build, table):
        root = table([row[:2] for row in ROWS], header=("path", "identity"))
        with pytest.raises(
            ValueError, match=r"images.csv: without the column camera, split; the header must have path"
        ):
            build("folder", root=root)

    @pytest.mark.parametrize(
        "row, told",
        [
            (("x.jpg", "eve", "north", "test"), r"line 8: the split is 'test'; it must be train, query, gallery"),
            (("x.jpg", "", "north", "train"), r"line 8: nothing under identity"),
            (("x.jpg", "eve", "north"), r"line 8: nothing under split"),
            (("a/1.jpg", "anna", "north", "train"), r"1 images are listed more than once, e.g. a/1.jpg"),
            (("./a/1.jpg", "anna", "north", "train"), r"1 images are listed more than once, e.g. a/1.jpg"),
            (("q/1.png", "carl", "north", "gallery"), r"listed more than once, e.g. q/1.png"),
            (("../x.jpg", "eve", "north", "train"), r"line 8: the path '../x.jpg' leaves the table's folder"),
            (("gone.jpg", "eve", "north", "train"), r"line 8: there is no file .*gone.jpg"),
            (("x.jpg", "eve", "south", "query"), r"1 identities have queries but no gallery image, e.g. eve"),
        ],
    )
    def test_wrong_rows(self, build, table, row, told):
        root = table([*ROWS, row])
        (root / "gone.jpg").unlink(missing_ok=True)
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            build("folder", root=root)

    def test_no_rows(self, build, table):
        with pytest.raises(ValueError, match=r"images.csv: there are no images in the table"):
            build("folder", root=table([]))


class TestRates:
    def test_synthetic_queries(self, build, tree):
        dataset = build("folder", root=tree("folder"), synthetic=True)
        assert {dataset.rate_of[image.path] for image in dataset.split.query} <= {2.0, 3.0, 4.0}
        assert {dataset.rate_of[image.path] for image in dataset.split.train + dataset.split.gallery} == {1.0}

    def test_synthetic_training_images_of_a_camera(self, build, tree):
        dataset = build("folder", root=tree("folder"), synthetic=True, lr_camera=2, rates=(8,))
        low = {Path(path).parts[-3] + path[-8:] for path, rate in dataset.rate_of.items() if rate == 8.0}
        assert low == {"trainc2_1.jpg", "queryc2_1.jpg"}

    def test_synthetic_gallery_stays_as_captured(self, build, tree):
        dataset = build("folder", root=tree("folder"), synthetic=True, lr_camera=1)
        assert not any(image.low for image in dataset.split.gallery)
        assert all(image.low == ("_c1" in image.path) for image in dataset.split.train)

    def test_natural_low_camera(self, build, tree):
        dataset = build("folder", root=tree("folder"), lr_camera="2")
        for role in ("train", "query", "gallery"):
            for image in getattr(dataset.split, role):
                assert dataset.rate_of[image.path] == ("native" if "_c2" in image.path else 1.0)

    def test_unknown_camera(self, build, tree):
        with pytest.raises(ValueError, match="of the lr_camera 'roof'; cameras are: 1, 2"):
            build("folder", root=tree("folder"), lr_camera="roof")


def test_through_the_hosts_manager(tree):
    import torchreid_xres  # noqa: F401

    with dataset_options({"folder": {"synthetic": True}}):
        manager = host.ImageDataManager(
            root=str(tree("folder")), sources="folder", height=32, width=16, batch_size_train=2, batch_size_test=2,
            transforms=[], use_gpu=False, workers=0,
        )  # fmt: skip
    batch = next(iter(manager.test_loader["folder"]["query"]))
    assert batch["img"].shape == (2, 3, 32, 16)
    assert batch["low"].all() and (batch["rate"] >= 2).all()
    assert manager.num_train_pids == 2
    assert F.to_pil_image(batch["img"][0]).size == (16, 32)
