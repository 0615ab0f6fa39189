"""Who is query, gallery and low in each person set."""

from collections import Counter
from pathlib import Path

import pytest
from torchvision.transforms import Compose, Resize, ToTensor

from torchreid_xres.data.datasets.reading import read_cameras
from torchreid_xres.data.manager import low_flags


def names(images, **wanted):
    return {Path(image.path).name for image in images if all(getattr(image, key) == wanted[key] for key in wanted)}


def places(images):
    return {"/".join(Path(image.path).parts[-2:]) for image in images}


class TestMarket:
    def test_default_searches_camera_3_in_the_others(self, build):
        split = build("mlr_market1501").split
        test = {f"{pid:04d}_c{camera}s1_{frame:06d}_03.jpg" for pid in (1, 3, 4) for camera in (1, 3, 6)
                for frame in (451, 476)}  # fmt: skip
        queries = {name for name in test if "_c3" in name}
        assert names(split.query) == names(split.query, low=True, camid=2) == queries
        assert names(split.gallery) == names(split.gallery, low=False) == test - queries
        assert places(split.query) == {f"bounding_box_test/{name}" for name in queries}
        assert names(split.train, low=True) == {"0002_c3s1_000151_01.jpg", "0007_c3s1_000151_01.jpg"}

    def test_another_camera(self, build):
        dataset = build("mlr_market1501", lr_camera=6)
        assert {image.camid for image in dataset.split.query} == {5}
        assert dataset.manifest.options["lr_camera"] == 6

    def test_prpr_takes_camera_1_of_both_folders_and_keeps_distractors(self, build):
        split = build("mlr_market1501", variant="prpr").split
        assert places(split.query) == {
            f"{folder}/{pid:04d}_c1s1_{frame}.jpg"
            for pid in (1, 3, 4)
            for folder, frame in (
                ("bounding_box_test", "000451_03"), ("bounding_box_test", "000476_03"), ("query", "001051_00")
            )
        }  # fmt: skip
        gallery = places(split.gallery)
        assert {f"bounding_box_test/{pid}_c{c}s1_000401_03.jpg" for pid in ("0000", "-1") for c in (1, 3)} <= gallery
        assert "query/0001_c3s1_001051_00.jpg" in gallery
        assert len(gallery) == 3 * 2 * 3 + 4
        assert not any(image.low for image in split.gallery)
        assert names(split.train, low=True) == {"0002_c1s1_000151_01.jpg", "0007_c1s1_000151_01.jpg"}

    def test_vpfa_lowers_one_camera_of_each_identity_in_each_folder(self, build):
        split = build("mlr_market1501", variant="vpfa").split
        for images in (split.train, split.query, split.gallery):
            cameras = {}
            for image in images:
                cameras.setdefault(image.pid, set()).add((image.camid, image.low))
            for seen in cameras.values():
                assert sum(low for _, low in seen) == 1
                assert len({camera for camera, _ in seen}) == len(seen)
        again = build("mlr_market1501", variant="vpfa").split
        assert names(again.gallery, low=True) == names(split.gallery, low=True)
        assert len(split.query) == 9
        assert names(split.gallery, pid=0) and not names(split.gallery, pid=-1)

    def test_official_keeps_the_folders(self, build):
        split = build("mlr_market1501", variant="official").split
        assert {Path(image.path).parent.name for image in split.query} == {"query"}
        assert names(split.query, low=True) == {f"{pid:04d}_c3s1_001051_00.jpg" for pid in (1, 3, 4)}
        assert len(split.query) == 9 and len(split.gallery) == 20
        assert {image.camid for image in split.gallery if image.low} == {2}

    @pytest.mark.parametrize(
        "options, told",
        [
            ({"variant": "pprr"}, "'pprr'; there are: ps_hrnet, prpr"),
            ({"lr_camera": 7}, "cameras 1 to 6; lr_camera is 7"),
            ({"variant": "vpfa", "lr_camera": 3}, "lr_camera must be None"),
        ],
    )
    def test_wrong_options(self, build, options, told):
        with pytest.raises(ValueError, match=told):
            build("mlr_market1501", **options)

    def test_default_needs_no_query_folder_and_says_when_a_variant_does(self, build, trees, tmp_path):
        trees["mlr_market1501"](tmp_path)
        folder = tmp_path / "market1501" / "Market-1501-v15.09.15"
        for path in (folder / "query").iterdir():
            path.unlink()
        (folder / "query").rmdir()
        build("mlr_market1501", root=tmp_path)
        with pytest.raises(FileNotFoundError, match="without query"):
            build("mlr_market1501", root=tmp_path, variant="prpr")

    def test_old_folder_layout_gives_the_same_manifest(self, build, trees, tmp_path):
        new, old = tmp_path / "new", tmp_path / "old"
        trees["mlr_market1501"](new)
        old.mkdir()
        (new / "market1501" / "Market-1501-v15.09.15").rename(old / "market1501")
        trees["mlr_market1501"](new)
        assert build("mlr_market1501", root=new).manifest.sha256 == build("mlr_market1501", root=old).manifest.sha256

    def test_real_names(self, shared_data):
        images = read_cameras(shared_data / "market1501_samples", cameras=6)
        assert len(images) == 20
        assert (32, 5) in {(image.pid, image.camid) for image in images}
        assert Counter(image.camid + 1 for image in images)[3] == 1


class TestDuke:
    def test_rule_of_market_without_distractors(self, build):
        split = build("mlr_dukemtmcreid").split
        # Identity 7 has no other camera in bounding_box_test, 8 is no official identity.
        assert names(split.query) == {"0005_c1_f0080000.jpg", "0006_c1_f0080000.jpg"}
        assert names(split.gallery) == {f"{pid:04d}_c{camera}_f0080000.jpg" for pid in (5, 6) for camera in (2, 8)}
        assert names(split.train, low=True) == {"0001_c1_f0044158.jpg", "0009_c1_f0044158.jpg"}

    def test_distractors_of_other_cameras(self, build):
        plain = build("mlr_dukemtmcreid").split
        kept = build("mlr_dukemtmcreid", distractors=True).split
        assert names(kept.gallery) - names(plain.gallery) == {"0008_c2_f0080000.jpg"}
        assert names(kept.query) == names(plain.query)

    def test_prpr_takes_both_folders_and_keeps_distractors(self, build):
        split = build("mlr_dukemtmcreid", variant="prpr").split
        test, official = "bounding_box_test/{:04d}_c{}_f0080000.jpg", "query/{:04d}_c{}_f0090000.jpg"
        assert places(split.query) == {
            place.format(pid, 1) for pid in (5, 6) for place in (test, official)
        } | {test.format(7, 1), test.format(8, 1)}  # fmt: skip
        assert places(split.gallery) == {
            place.format(pid, camera) for pid in (5, 6) for camera in (2, 8) for place in (test, official)
        } | {official.format(7, 2), test.format(8, 2)}  # fmt: skip
        assert not any(image.low for image in split.gallery) and all(image.low for image in split.query)

    def test_a_manifest_of_before_there_were_variants_is_still_that_of_the_default(self, build):
        assert set(build("mlr_dukemtmcreid").manifest.options) == {"lr_camera", "distractors", "check_counts"}
        assert build("mlr_dukemtmcreid", variant="prpr").manifest.options["variant"] == "prpr"

    def test_wrong_options(self, build):
        with pytest.raises(ValueError, match="cameras 1 to 8; lr_camera is 0"):
            build("mlr_dukemtmcreid", lr_camera=0)
        with pytest.raises(ValueError, match="no variant 'vpfa'; there are: ps_hrnet, prpr"):
            build("mlr_dukemtmcreid", variant="vpfa")


class TestViper:
    def test_halves_and_sides(self, build):
        split = build("mlr_viper").split
        assert len(split.query) == len(split.gallery) == 6 and len(split.train) == 12
        assert {image.camid for image in split.query} == {0}
        assert {image.camid for image in split.gallery} == {1}
        assert {image.pid for image in split.query} == {image.pid for image in split.gallery}
        assert names(split.train, low=True) == names(split.train, camid=0)

    def test_every_person_is_tested_in_some_split(self, tree, build):
        root = tree("mlr_viper")
        tested = Counter(
            image.pid for number in range(10) for image in build("mlr_viper", root=root, split_id=number).split.query
        )
        assert set(tested) == {5 * number for number in range(12)}


class TestCaviar:
    def test_far_camera_is_low_and_single_camera_persons_are_dropped(self, build):
        dataset = build("caviar")
        split = dataset.split
        assert len(split.train) == 60 and len(split.query) == len(split.gallery) == 30
        assert {image.camid for image in split.query} == {1}
        assert {image.pid for part in (split.train, split.query) for image in part} == set(range(1, 7))
        assert dataset.rate_of[split.query[0].path] == "native"
        item = build("caviar", mode="query")[0]
        assert item["low"] and item["rate"] == 1.0 and item["size"].tolist() == [16, 8]

    def test_the_data_decide_which_camera_is_far(self, build, picture, tmp_path):
        for person in range(1, 5):
            for number in (1, 2, 11, 12):
                picture(tmp_path / "CAVIARa" / f"{person:04d}{number:03d}.jpg", (6, 9) if number < 11 else (9, 20))
        assert {image.camid for image in build("caviar", root=tmp_path).split.query} == {0}


class TestMTA:
    def test_names_and_parts(self, build):
        split = build("mta_reid").split
        assert {(image.pid, image.camid) for image in split.train} == {(11, 0), (11, 5), (12, 0), (12, 5)}
        assert {Path(image.path).parent.name for image in split.gallery} == {"test"}
        assert not any("distractors" in image.path for image in split.gallery)

    @pytest.fixture
    def sized(self, tree, picture):
        """The tree with sides (the root of height times width) of 64, 128 and 132 pixels among its test images."""
        root = tree("mta_reid")
        for part in ("query", "test"):
            for camera, size in ((1, (32, 128)), (2, (64, 256)), (3, (66, 264))):
                picture(root / "MTA_reid" / part / f"framegta_7_camid_{camera}_pid_21.png", size)
        return root

    @pytest.mark.parametrize(
        "options, low",
        [
            ({}, (True, True, False)),  # 256x128: 128 pixels are low, more are not
            ({"transform": Compose([Resize((128, 64)), ToTensor()])}, (True, False, False)),
            ({"transform": Compose([Resize((128, 64)), ToTensor()]), "full_size": [512, 128]}, (True, True, True)),
            ({"transform": Compose([Resize(128), ToTensor()])}, (True, True, False)),  # of no fixed size
        ],
    )
    def test_who_is_low_is_told_by_the_size(self, build, sized, options, low):
        found = build("mta_reid", sized, mode="query", **options)
        ours = {image.camid: image.low for image in found.split.query if "framegta_7" in image.path}
        assert ours == dict(zip((1, 2, 3), low, strict=True))
        items = [found[i] for i in range(len(found))]
        assert {item["rate"] for item in items} == {1.0} and found.natural
        assert [item["low"] for item in items] == [image.low for image in found.split.query]

    def test_the_sampler_and_the_manifest_hold_the_same(self, build, tree, picture):
        root = tree("mta_reid")
        picture(root / "MTA_reid" / "train" / "framegta_0_camid_5_pid_12.png", (200, 200))
        found = build("mta_reid", root)
        assert low_flags(found) == [found[i]["low"] for i in range(len(found))] == [True, True, True, False]
        manifest = found.manifest
        assert manifest.counts["train"]["low"] == 3 and manifest.options["full_size"] == [256, 128]
        # Built again from what the manifest holds, at another input.
        again = build("mta_reid", root, transform=Compose([Resize((32, 16)), ToTensor()]), **manifest.options)
        assert again.manifest.sha256 == manifest.sha256

    @pytest.mark.parametrize("wrong", [128, [128], [128, 0], "ab", [1.5, 2]])
    def test_a_full_size_is_two_numbers(self, build, wrong):
        with pytest.raises(ValueError, match="mta_reid: full_size is a height and a width in pixels, not"):
            build("mta_reid", full_size=wrong)


class TestSYSU:
    def test_three_images_per_person_and_camera(self, build):
        split = build("mlr_sysu").split
        images = [*split.train, *split.query, *split.gallery]
        assert set(Counter((image.pid, image.camid) for image in images).values()) == {3}
        assert len(split.query) == len(split.gallery) == 9
        assert all(image.low == (image.camid == 0) for image in images)

    def test_the_same_images_in_every_split(self, tree, build):
        root = tree("mlr_sysu")
        chosen = set()
        for number in range(3):
            split = build("mlr_sysu", root=root, split_id=number).split
            chosen.add(frozenset(image.path for image in (*split.train, *split.query, *split.gallery)))
        assert len(chosen) == 1

    def test_flat_folders(self, build, picture, tmp_path):
        for camera in (1, 2):
            for person in (3, 4, 15, 16):
                for number in range(4):
                    picture(tmp_path / "sysu" / f"cam{camera}" / f"{person}_{number}.png")
        split = build("mlr_sysu", root=tmp_path).split
        assert {image.pid for part in (split.train, split.query) for image in part} == {3, 4, 15, 16}
        (tmp_path / "sysu" / "cam1" / "person.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"person.png: the name is not of the form"):
            build("mlr_sysu", root=tmp_path)

    def test_a_person_folder_without_number(self, tree, build, picture):
        root = tree("mlr_sysu")
        picture(root / "SYSU" / "cam1" / "anna" / "1.jpg")
        with pytest.raises(ValueError, match="anna: a person's folder is named by a number"):
            build("mlr_sysu", root=root)
