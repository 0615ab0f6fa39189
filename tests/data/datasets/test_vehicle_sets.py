"""Who is query, gallery and low in each vehicle set, and the sizes of the x8 sets."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torchvision.transforms import functional as F

from torchreid_xres.data import DATASETS, degrade_image, read_image, round_trip


def to_tensor(img):
    return F.to_tensor(img)


class TestTwoCameras:
    def test_camera_2_is_searched_in_camera_1(self, build):
        split = build("vehicle2cam").split
        assert [Path(image.path).name for image in split.query] == ["car_0002_cam2.jpg", "motorcycle_0001_cam2.jpg"]
        assert [Path(image.path).name for image in split.gallery] == ["car_0002_cam1.jpg", "motorcycle_0001_cam1.jpg"]
        assert len({image.pid for image in split.train}) == 3
        assert all(image.low == image.path.endswith("cam2.jpg") for image in split.train)

    def test_images_in_a_train_folder(self, tree, build):
        root = tree("vehicle2cam")
        images = root / "vehicle_2cam" / "images"
        before = build("vehicle2cam", root=root).split
        images.rename(images.with_name("moved"))
        images.mkdir()
        images.with_name("moved").rename(images / "train")
        after = build("vehicle2cam", root=root).split
        assert [image[1:] for image in after.train] == [image[1:] for image in before.train]

    def test_real_images(self, shared_data):
        dataset = DATASETS.build("vehicle2cam", root=str(shared_data), mode="query", verbose=False)
        counts = dataset.manifest.counts
        assert counts["train"] == {"images": 810, "identities": 405, "low": 405}
        assert counts["query"] == {"images": 102, "identities": 102, "low": 102}
        assert counts["gallery"] == {"images": 102, "identities": 102, "low": 0}
        assert any("motorcycle_153_cam2.jpg" in image.path for image in dataset.split.train + dataset.split.query)
        areas = {
            role: sorted(
                img.width * img.height for img in (read_image(image.path) for image in getattr(dataset.split, role))
            )
            for role in ("query", "gallery")
        }
        assert 2 * areas["query"][51] < areas["gallery"][51]
        item = dataset[0]
        assert item["low"] and item["rate"] == 1.0 and item["impath"].endswith("cam2.jpg")


class TestOneGalleryImage:
    """VehicleID and VRU have no cameras: one image per vehicle is the gallery."""

    @pytest.fixture(params=["mlr_vru", "vehicleid_x8"])
    def which(self, request):
        return request.param

    def test_gallery_has_one_image_per_vehicle_and_queries_the_rest(self, which, build):
        split = build(which).split
        assert set(Counter(image.pid for image in split.gallery).values()) == {1}
        assert {image.pid for image in split.query} == {image.pid for image in split.gallery}
        assert {image.camid for image in split.query} == {0} and {image.camid for image in split.gallery} == {1}
        assert len(split.query) == 3 * len(split.gallery)
        assert {image.path for image in split.query}.isdisjoint(image.path for image in split.gallery)
        assert all(image.low for image in split.query) and not any(image.low for image in split.gallery)

    def test_splits_have_the_same_training_set(self, which, tree, build):
        root = tree(which)
        a, b = (build(which, root=root, split_id=number).split for number in (0, 1))
        assert a.train == b.train
        assert {image.path for image in a.gallery} != {image.path for image in b.gallery}

    def test_missing_images_are_counted(self, which, tree, build):
        root = tree(which)
        images = sorted(root.rglob("*.jpg"))
        images[0].unlink()
        with pytest.raises(ValueError, match=r"train_list.txt: expected \d+, found \d+ in"):
            build(which, root=root, check_counts=True)
        assert str(images[0]) not in {image.path for image in build(which, root=root).split.train}

    def test_a_bad_line_is_named(self, which, tree, build):
        root = tree(which)
        file = next(root.rglob("train_list.txt"))
        file.write_text("0000001 3\n\n0000002\n")
        with pytest.raises(ValueError, match=r"train_list.txt, line 3: .*'0000002'"):
            build(which, root=root)

    def test_wrong_size(self, which, build):
        with pytest.raises(ValueError, match=r"test sizes \d+, \d+, \d+, not 900"):
            build(which, test_size=900)


def test_vehicleid_test_sizes(tree, build):
    root = tree("vehicleid_x8")
    sizes = [len(build("vehicleid_x8", root=root, test_size=size).split.gallery) for size in (800, 1600, 2400)]
    assert sizes == [2, 4, 6]


def test_vru_takes_some_vehicles(tree, build):
    root = tree("mlr_vru")
    some = build("mlr_vru", root=root, train_vehicles=5, test_vehicles=4).split
    every = build("mlr_vru", root=root, train_vehicles=None, test_vehicles=None).split
    assert len({image.pid for image in some.train}) == 5 and len(some.gallery) == 4
    assert len({image.pid for image in every.train}) == 12 and len(every.gallery) == 10
    assert set(some.train) <= set(every.train)
    with pytest.raises(ValueError, match="at least 1, or None for all, not 0"):
        build("mlr_vru", root=root, test_vehicles=0)


def test_vru_keeps_a_quarter_of_the_training_images(build, listed, tmp_path):
    listed(tmp_path / "VRU", "Pic", {"train_list.txt": range(150), "test_list_1200.txt": range(200, 203)})
    dataset = build("mlr_vru", root=tmp_path)
    rates = Counter(dataset.rate_of[image.path] for image in dataset.split.train)
    # 600 images, 150 expected at each of the rates 1, 2, 3, 4; 4 standard deviations are 42.
    assert set(rates) == {1.0, 2.0, 3.0, 4.0}
    assert all(108 <= count <= 192 for count in rates.values()), rates


class TestSquare:
    """The x8 sets: 128 x 128 is full size, 16 x 16 low."""

    @pytest.mark.parametrize("kernel", ["area", "bicubic"])
    def test_query_is_16_and_gallery_128_whatever_the_file(self, build, tree, kernel):
        root = tree("veri776_x8")
        for mode, side in (("query", 16), ("gallery", 128), ("train", 128)):
            dataset = build("veri776_x8", root=root, mode=mode, kernel=kernel)
            item = dataset[0]
            assert item["size"].tolist() == [side, side] and item["img"].size == (side, side)
            square = read_image(item["impath"]).resize((128, 128), resample=2)
            assert item["img"].tobytes() == degrade_image(square, 128 / side, kernel).tobytes()

    def test_items_have_the_keys_of_every_other_set(self, build):
        for mode in ("train", "query"):
            ours = build("veri776_x8", mode=mode, transform=to_tensor)[0]
            usual = build("vehicle2cam", mode=mode, transform=to_tensor)[0]
            assert {key: type(ours[key]) for key in ours} == {key: type(usual[key]) for key in usual}
        ours = build("veri776_x8", pairs=True, transform=to_tensor)[0]
        usual = build("mlr_viper", pairs=True, transform=to_tensor)[0]
        assert {key: type(ours[key]) for key in ours} == {key: type(usual[key]) for key in usual}

    @pytest.mark.parametrize("train_low", [False, True])
    def test_pairs(self, build, train_low):
        item = build("veri776_x8", pairs=True, train_low=train_low, transform=to_tensor)[1]
        assert item["rate_lr"] == 8.0 and item["low"] == train_low
        assert item["img_hr"].shape == item["img_lr"].shape == (3, 128, 128)
        torch.testing.assert_close(item["img_lr"], round_trip(item["img_hr"], (16, 16), "area"))
        assert item["img"] is item["img_lr" if train_low else "img_hr"]
        assert item["size"].tolist() == ([16, 16] if train_low else [128, 128])

    def test_k_tfm(self, build):
        item = build("veri776_x8", transform=to_tensor, k_tfm=2)[0]
        assert [img.shape for img in item["img"]] == [(3, 128, 128)] * 2

    def test_veri_camera_rule(self, build):
        split = build("veri776_x8").split
        # Gallery images of the query's own camera stay; the evaluation leaves those of the same vehicle out.
        assert {image.camid for image in split.gallery} == {image.camid for image in split.query} == {0, 19}
        assert all(image.low for image in split.query)
