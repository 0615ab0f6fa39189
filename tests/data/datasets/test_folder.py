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
        with pytest.raises(ValueError, match=r"holiday.jpg: no camera; the name needs one part like _c2"):
            build("folder", root=root)

    @pytest.mark.parametrize(
        ("name", "camera"),
        [("anna_c3po_c2_1.jpg", "2"), ("0002_c2s1_000451_03.jpg", "2"), ("x_c02.jpg", "2"), ("a_c2-c3.jpg", "2"),
         ("a_c2_b_c02.jpg", "2")],
    )  # fmt: skip
    def test_the_camera_in_a_name(self, build, tree, picture, name, camera):
        root = tree("folder")
        picture(root / "train" / "a" / name)
        split = build("folder", root=root, lr_camera=camera).split
        (added,) = [image for image in split.train if image.path.endswith(name)]
        assert added.camid in {image.camid for image in split.query} and added.low
        assert len({image.camid for image in (*split.train, *split.gallery)}) == 2

    @pytest.mark.parametrize(
        ("name", "told"),
        [("shop_c3_c2_1.jpg", "the cameras 3 and 2; the name needs one"), ("anna_c3po.jpg", "no camera"),
         ("a_cam2.jpg", "no camera")],
    )  # fmt: skip
    def test_a_name_of_two_cameras_or_none(self, build, tree, picture, name, told):
        root = tree("folder")
        picture(root / "query" / "c" / name)
        with pytest.raises(ValueError, match=f"{name}: {told}"):
            build("folder", root=root)

    @pytest.mark.parametrize("lr_camera", ["02", 2, "2", "002"])
    def test_zeros_in_front_of_a_camera_do_not_count(self, build, picture, tmp_path, lr_camera):
        for place in ("train/a/1/x.jpg", "train/b/02/x.jpg", "query/c/x_c002.jpg", "query/d/2/x.jpg",
                      "gallery/c/01/x.jpg", "gallery/c/10/x.jpg", "gallery/d/x_c1.jpg"):  # fmt: skip
            picture(tmp_path / place)
        split = build("folder", root=tmp_path, lr_camera=lr_camera).split
        first, second, third, fourth = (image.camid for image in (*split.train, *split.query))
        assert first != second == third == fourth
        one, ten, again = (image.camid for image in split.gallery)
        assert one == again == first and ten not in (first, second)
        assert [image.low for image in (*split.train, *split.query)] == [False, True, True, True]

    def test_cameras_keep_their_numbers(self, build, picture, tmp_path):
        """They are counted in the order of their texts, as ever."""
        for place in ("train/a/2/x.jpg", "train/a/10/x.jpg", "query/c/roof/x.jpg", "gallery/c/1/x.jpg"):
            picture(tmp_path / place)
        split = build("folder", root=tmp_path).split
        assert [image.camid for image in (*split.gallery, *split.train, *split.query)] == [0, 1, 2, 3]

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

    @pytest.mark.parametrize("separator", [";", "\t"])
    def test_a_spreadsheets_separators(self, build, table, separator):
        root = table(ROWS)
        before = build("folder", root=root).manifest.sha256
        text = (root / "images.csv").read_text()
        (root / "images.csv").write_text(text.replace(",", separator).replace("a/1.jpg", '"a/1.jpg"'))
        assert build("folder", root=root).manifest.sha256 == before

    def test_absolute_paths_in_the_tables_folder(self, build, table, tmp_path):
        root = table(ROWS)
        before = build("folder", root=root).manifest.sha256
        lines = (root / "images.csv").read_text().splitlines()
        whole = "\n".join([lines[0], *(f"{root}/{line}" for line in lines[1:-1]), f"b/../{lines[-1]}"])
        (root / "images.csv").write_text(whole)
        assert build("folder", root=root).manifest.sha256 == before
        (root / "images.csv").write_text(whole + f"\n{root.parent}/x.jpg,eve,north,train\n")
        with pytest.raises(ValueError, match=rf"line 8: the path '{root.parent}/x.jpg' leaves the table's folder, "):
            build("folder", root=root)
        (root / "images.csv").write_text(whole)
        (tmp_path / "linked").symlink_to(root)
        assert build("folder", root=tmp_path / "linked").manifest.sha256 == before

    def test_missing_columns(self, build, table):
        root = table([row[:2] for row in ROWS], header=("path", "identity"))
        told = r"images.csv: without the column camera, split; the header must have path.*'path,identity'"
        with pytest.raises(ValueError, match=told):
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
