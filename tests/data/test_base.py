"""CrossResolutionDataset and SummedDataset, on a tiny reader over generated images and inside the host's manager."""

import doctest
import json
import logging
import os
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms as T

from torchreid_xres import host
from torchreid_xres.data import DATASETS, CrossResolutionDataset, Image, Split, SummedDataset, dataset_options, options
from torchreid_xres.data.degrade import degrade_image, low_size, round_trip
from torchreid_xres.data.protocol import draw_rate

HEIGHT, WIDTH = 64, 32
TO_TENSOR = T.Compose([T.Resize((HEIGHT, WIDTH)), T.ToTensor()])
HOST_KEYS = {"img", "pid", "camid", "impath", "dsetid"}
OUR_KEYS = HOST_KEYS | {"rate", "size", "role", "low"}
PAIR_KEYS = OUR_KEYS | {"img_hr", "img_lr", "rate_lr"}


class Tiny(CrossResolutionDataset):
    """``<root>/tiny/<part>/<pid>_<camid>_<n>.png``; camera ``lr_camera`` is low resolution."""

    name = "tiny_test_set"
    num_splits = 2
    defaults = {"lr_camera": 0}  # noqa: RUF012

    def load(self, root, split_id, lr_camera):
        folder = root / "tiny"

        def part(name):
            images = []
            for file in sorted((folder / name).glob("*.png")):
                pid, camid, _ = map(int, file.stem.split("_"))
                images.append(Image(str(file), pid, camid, camid == lr_camera))
            return images

        return Split(str(folder), part("train"), part("query"), part("gallery"))


class TinyNatural(Tiny):
    name = "tiny_natural"
    natural = True


def draw(path, seed, height=HEIGHT, width=WIDTH):
    """A smooth picture, so that resampling in another order changes little."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / height * 2 * np.pi
    waves = [np.sin(rng.uniform(0, 2) * x + rng.uniform(0, 3) * y + rng.uniform(0, 6)) for _ in range(3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray((127 + 100 * np.stack(waves, -1)).astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    seed = 0
    for pid in (11, 17, 23, 40):  # identities as sets have them: no order, no start at zero
        for camid in (0, 1, 4):
            for n in range(2):
                seed += 1
                draw(tmp_path / "tiny" / "train" / f"{pid}_{camid}_{n}.png", seed)
    for pid in (5, 8, 30):
        for n in range(2):
            seed += 1
            draw(tmp_path / "tiny" / "query" / f"{pid}_0_{n}.png", seed, 63, 33)
        for camid in (1, 4):
            seed += 1
            draw(tmp_path / "tiny" / "gallery" / f"{pid}_{camid}_0.png", seed)
    return tmp_path


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Enter the tiny sets for one test only: other tests walk the registry."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    for cls in (Tiny, TinyNatural):
        DATASETS.register(cls.name)(cls)


def tiny(root, cls=Tiny, **kwargs):
    return cls(root=str(root), **{"transform": TO_TENSOR, "verbose": False, **kwargs})


def with_rate(dataset, rate):
    """Index of the first image at a rate."""
    return next(i for i, row in enumerate(dataset.data) if dataset.rate_of[row[0]] == rate)


def test_examples():
    assert doctest.testmod(options).failed == 0


# ---- pictures


def turned(path):
    """Store a picture on its side, with the EXIF orientation that puts it upright again."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    with PIL.Image.open(path) as img:
        img.transpose(PIL.Image.Transpose.ROTATE_90).save(path, exif=exif)


def test_pictures_are_read_upright(root):
    before = {mode: list(tiny(root, mode=mode)) for mode in ("train", "query", "gallery")}
    for path in root.rglob("*.png"):
        turned(path)
    for mode, items in before.items():
        for item, old in zip(tiny(root, mode=mode), items, strict=True):
            assert torch.equal(item["img"], old["img"]) and torch.equal(item["size"], old["size"])


def test_grey_of_fewer_bits_is_told_when_the_set_is_built_and_scaled_as_the_option_says(root, caplog, monkeypatch):
    monkeypatch.setattr("torchreid_xres.data.io._dark", [])
    for path in root.rglob("*.png"):
        deep = np.asarray(PIL.Image.open(path).convert("L")).astype(np.uint16) * 4
        PIL.Image.fromarray(deep).save(path)
    dark = tiny(root, mode="gallery")
    assert len(caplog.messages) == 1 and "grey_bits" in caplog.text
    right = tiny(root, mode="gallery", grey_bits=10)
    assert right.options["grey_bits"] == 10 and len(caplog.messages) == 1
    assert float(right[0]["img"].mean() / dark[0]["img"].mean()) == pytest.approx(64, rel=0.3)
    assert right.manifest.sha256 != dark.manifest.sha256 and right.manifest.options["grey_bits"] == 10
    assert "grey_bits" not in dark.manifest.options  # manifests made before there was the option stay the same
    with pytest.raises(ValueError, match="from 8 to 16, not 20"):
        tiny(root, grey_bits=20)


# ---- items


def test_items(root):
    for mode in ("train", "query", "gallery"):
        dataset = tiny(root, mode=mode)
        for item in dataset:
            assert set(item) == OUR_KEYS
            native = PIL.Image.open(item["impath"])
            h, w = low_size(native.height, native.width, item["rate"])
            assert item["size"].tolist() == [h, w] and item["size"].dtype == torch.int64
            assert item["role"] == mode
            assert item["low"] is (item["camid"] == 0) is (item["rate"] > 1)
            expected = TO_TENSOR(degrade_image(native, item["rate"]))
            assert torch.equal(item["img"], expected)
            assert item["dsetid"] == 0


def test_rates_are_drawn_from_the_names(root):
    dataset = tiny(root, seed=3, rates=[2, 5.5])
    for path, rate in dataset.rate_of.items():
        name = os.path.relpath(path, root / "tiny")
        low = os.path.basename(path).split("_")[1] == "0"
        assert rate == (draw_rate(name, 3, (2.0, 5.5)) if low else 1.0)


def test_training_identities_are_relabelled_and_test_ones_are_not(root):
    dataset = tiny(root)
    assert sorted({pid for _, pid, _, _ in dataset.train}) == [0, 1, 2, 3]
    assert {pid for _, pid, _, _ in dataset.query} == {5, 8, 30}
    assert (dataset.num_train_pids, dataset.num_train_cams) == (4, 3)


def test_without_a_transform_the_picture_itself_comes(root):
    item = tiny(root, transform=None, mode="query")[0]
    assert item["img"].size == tuple(item["size"].flip(0).tolist())


def test_k_tfm_gives_several_views(root):
    item = tiny(root, k_tfm=3)[0]
    assert len(item["img"]) == 3


def test_natural_sets_are_left_as_they_are(root):
    dataset = tiny(root, TinyNatural)
    item = dataset[with_rate(dataset, "native")]
    assert item["low"] is True and item["rate"] == 1.0 and item["size"].tolist() == [64, 32]
    assert torch.equal(item["img"], TO_TENSOR(PIL.Image.open(item["impath"])))
    assert {image["rate"] for image in dataset.manifest.images.values()} == {"native", 1.0}


@pytest.mark.parametrize("cls", [Tiny, TinyNatural])
def test_query_rate(root, cls):
    dataset = tiny(root, cls, mode="query", query_rate=3)
    assert {item["rate"] for item in dataset} == {3.0}
    train_rates = {dataset.rate_of[row[0]] for row in dataset.train}
    assert train_rates == {dataset.rate_of[row[0]] for row in tiny(root, cls).train}, "training keeps its rates"
    assert dataset.manifest.query_rate == 3.0
    as_captured = tiny(root, cls, mode="query", query_rate=1)
    assert {item["rate"] for item in as_captured} == {1.0}
    assert {item["low"] for item in as_captured} == {cls.natural}


def test_combineall_keeps_the_rates(root):
    dataset = tiny(root, combineall=True)
    assert len(dataset) == 24 + 6 + 6 and dataset.num_train_pids == 7
    assert {item["low"] for item in dataset if item["camid"] == 0} == {True}
    assert {item["role"] for item in dataset} == {"train"}


# ---- pairs


def test_pairs(root):
    dataset = tiny(root, pairs=True, pair_rates=(2, 6))
    seen = set()
    for item in [item for _ in range(8) for item in dataset]:
        assert set(item) == PAIR_KEYS
        native = PIL.Image.open(item["impath"])
        assert torch.equal(item["img_hr"], TO_TENSOR(native))
        low_h, low_w = low_size(native.height, native.width, item["rate_lr"])
        small = degrade_image(native, item["rate_lr"])
        assert small.size == (low_w, low_h)
        if item["low"]:
            assert item["img"] is item["img_lr"]
            assert item["rate_lr"] == item["rate"] and item["size"].tolist() == [low_h, low_w]
        else:
            assert item["img"] is item["img_hr"]
            assert item["rate"] == 1.0 and item["size"].tolist() == [64, 32]
            seen.add(item["rate_lr"])
        # At the network's own size the protocol path differs by its three roundings to 8 bits alone: the small image,
        # and Pillow's two passes on the way up. Measured: 1.38 grey levels.
        assert (item["img_lr"] - TO_TENSOR(small)).abs().max() * 255 <= 1.5
    assert seen == {2.0, 6.0}


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_interpolation_is_that_of_the_host_transform_and_of_pairs(root, how):
    def to_tensor():
        return T.Compose([T.Resize((HEIGHT, WIDTH)), T.ToTensor()])

    wanted = T.Compose([T.Resize((HEIGHT, WIDTH), T.InterpolationMode(how)), T.ToTensor()])
    query = tiny(root, transform=to_tensor(), mode="query", interpolation=how)
    for item, (path, *_) in zip(query, query.data, strict=True):
        small = degrade_image(PIL.Image.open(path), query.rate_of[path])
        assert torch.equal(item["img"], wanted(small))
    train = tiny(root, transform=to_tensor(), pairs=True, interpolation=how)
    for item in train:
        small = degrade_image(PIL.Image.open(item["impath"]), item["rate_lr"])
        assert (item["img_lr"] - wanted(small)).abs().max() * 255 <= 2.5


def test_training_images_at_random_rates(root):
    plain, sharp = tiny(root), tiny(root, random_rates=[2, 8], random_share=0.0)
    drawn = tiny(root, random_rates=[2, 8], random_share=1.0)
    fixed = tiny(root, random_rates=[4, 4], random_share=1.0, cache_mb=1)
    for i, item in enumerate(plain):
        assert torch.equal(sharp[i]["img"], item["img"])
        if item["low"]:
            assert torch.equal(drawn[i]["img"], item["img"])
            continue
        one, other = drawn[i], drawn[i]
        assert not torch.equal(one["img"], other["img"]) and torch.equal(one["size"], item["size"])
        expected = round_trip((item["img"] * 255).byte(), (HEIGHT // 4, WIDTH // 4)) / 255
        for again in (fixed, fixed):  # out of the cache, too
            assert torch.equal(again[i]["img"], expected)
    queries = tiny(root, mode="query", random_rates=[2, 8], random_share=1.0)
    assert all(torch.equal(a["img"], b["img"]) for a, b in zip(queries, tiny(root, mode="query"), strict=True))
    torch.manual_seed(0)
    at = with_rate(plain, 1.0)
    rough = [(drawn[at]["img"] - plain[at]["img"]).abs().mean() for _ in range(200)]
    at_2, at_8 = ((tiny(root, random_rates=[r, r], random_share=1.0)[at]["img"] - plain[at]["img"]).abs().mean()
                  for r in (2, 8))  # fmt: skip
    assert at_2 <= min(rough) and max(rough) <= at_8 and min(rough) < at_2 * 1.5 and max(rough) > at_8 * 0.7


def test_originals_are_what_pairs_learn_from(root):
    plain, paired = tiny(root), tiny(root, pairs=True)
    whole = tiny(root, originals=True)
    assert any(item["low"] for item in plain)
    for item, pair, seen in zip(whole, paired, plain, strict=True):
        native = whole.rate_of[item["impath"]] == "native"
        assert torch.equal(item["img"], pair["img_hr"]) and item["low"] is native and item["rate"] == 1.0
        assert torch.equal(item["img"], seen["img"]) == (native or not seen["low"])
    drawn = tiny(root, originals=True, random_rates=[4, 4], random_share=1.0)
    for item, sharp in zip(drawn, whole, strict=True):
        expected = round_trip((sharp["img"] * 255).byte(), (HEIGHT // 4, WIDTH // 4)) / 255
        assert torch.equal(item["img"], sharp["img"] if sharp["low"] else expected)
    for role in ("query", "gallery"):
        for one, other in zip(tiny(root, mode=role, originals=True), tiny(root, mode=role), strict=True):
            assert torch.equal(one["img"], other["img"]) and one["low"] == other["low"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"random_rates": [4]}, "least and the largest rate, or nothing, not .4.0."),
        ({"random_rates": [4, 2]}, "least and the largest rate"),
        ({"random_rates": [1, 2], "pairs": True}, "pairs have low views already"),
        ({"random_rates": [1, 2], "random_share": 1.5}, "from 0 to 1, not 1.5"),
        ({"originals": True, "pairs": True}, "pairs have the originals already"),
        ({"originals": 1}, "'originals' is of type bool, not 1"),
    ],
)
def test_random_rates_that_cannot_be(root, given, message):
    with pytest.raises(ValueError, match=message):
        tiny(root, **given)


def test_a_pair_shares_one_augmentation(root):
    flip = T.Compose([T.Resize((HEIGHT, WIDTH)), T.RandomHorizontalFlip(), T.ToTensor()])
    dataset, plain = tiny(root, pairs=True, transform=flip), tiny(root, pairs=True)
    flipped = 0
    for index in range(24):
        item, straight = dataset[index], plain[index]["img_hr"]
        turned = not torch.equal(item["img_hr"], straight)
        assert torch.equal(item["img_hr"], straight.flip(-1) if turned else straight)
        assert torch.equal(item["img_lr"], round_trip(item["img_hr"], low_size(HEIGHT, WIDTH, item["rate_lr"])))
        flipped += turned
    assert 0 < flipped < 24


def test_pairs_draw_with_torchs_generator(root):
    dataset = tiny(root, pairs=True, pair_rates=(2, 3, 4, 5, 6, 7))
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append([item["rate_lr"] for item in dataset])
    assert draws[0] == draws[1]
    assert draws[0] != [item["rate_lr"] for item in dataset]


def test_natural_low_images_pair_with_themselves(root):
    dataset = tiny(root, TinyNatural, pairs=True)
    item = dataset[with_rate(dataset, "native")]
    assert item["low"] and item["rate_lr"] == 1.0 and item["img_lr"] is item["img_hr"]


def test_pairs_are_for_training(root):
    assert set(tiny(root, pairs=True, mode="query")[0]) == OUR_KEYS
    with pytest.raises(ValueError, match="k_tfm must be 1, not 2"):
        tiny(root, pairs=True, k_tfm=2)
    with pytest.raises(ValueError, match="need a transform"):
        tiny(root, pairs=True, transform=None)


@pytest.mark.parametrize("pairs", [False, True])
def test_loader_workers(root, pairs):
    dataset = tiny(root, pairs=pairs)
    batches = list(DataLoader(dataset, batch_size=8, num_workers=2))
    assert len(batches) == 3
    assert batches[0]["img"].shape == (8, 3, HEIGHT, WIDTH)
    assert batches[0]["size"].shape == (8, 2) and batches[0]["low"].dtype == torch.bool
    assert batches[0]["rate"].dtype.is_floating_point
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0]["img_hr" if pairs else "img"], dataset[0]["img_hr" if pairs else "img"])


def test_pair_path_on_real_images(shared_data):
    """The network's size differs from the native one here, so the two paths resample in another order.

    Measured at 256x128 over 161 images, kernel area: 0.7 grey levels on average, 1.5 in the worst image, 30 in the
    worst pixel (a hard edge).
    """

    class Real(CrossResolutionDataset):
        name = "real_images"

        def load(self, root, split_id):
            files = sorted(root.iterdir())[::450]
            return Split(str(root), [Image(str(file), 1, 0, True) for file in files], [], [])

    folder = shared_data / "cuhk03_p1" / "images"
    transform = T.Compose([T.Resize((256, 128)), T.ToTensor()])
    protocol_path = Real(folder, transform=transform)
    pair_path = Real(folder, transform=transform, pairs=True)
    means = []
    for one, two in zip(protocol_path, pair_path, strict=True):
        assert one["rate"] == two["rate"] > 1
        difference = (one["img"] - two["img"]).abs() * 255
        assert difference.mean() < 2 and difference.max() < 45
        means.append(difference.mean().item())
    assert np.mean(means) < 1


# ---- parts and checks


def test_wrong_split(root):
    tiny(root, split_id=1)
    for split_id in (2, -1, "0", None):
        with pytest.raises(ValueError, match=rf"tiny_test_set has no split {split_id!r}; allowed are 0 to 1"):
            tiny(root, split_id=split_id)


def test_parts_may_be_empty_where_they_are_not_used(root):
    for file in (root / "tiny" / "train").iterdir():
        file.unlink()
    query = tiny(root, mode="query")
    assert len(query) == 6 and query.train == [] and query.num_train_pids == 0
    with pytest.raises(ValueError, match="tiny_test_set: no train images under"):
        tiny(root)


def test_train_alone(root):
    for part in ("query", "gallery"):
        for file in (root / "tiny" / part).iterdir():
            file.unlink()
    train = tiny(root)
    assert len(train) == 24 and train.query == train.gallery == []
    assert len(train + train) == 48
    with pytest.raises(ValueError, match="no query and no gallery images"):
        tiny(root, mode="gallery")
    with pytest.raises(ValueError, match="no query and no gallery images"):
        tiny(root, combineall=True)


def test_nothing_at_all(tmp_path):
    with pytest.raises(ValueError, match="no train images"):
        tiny(tmp_path)


def test_shared_cameras_are_refused(root):
    draw(root / "tiny" / "gallery" / "5_0_9.png", 1)
    told = r"share a camera, for one that of .*query/\S+_0_\d\.png and .*gallery/5_0_9\.png"
    with pytest.raises(ValueError, match=told):
        tiny(root)
    assert tiny(root, TinyNatural)

    class Careless(Tiny):
        disjoint_cameras = False

    assert tiny(root, Careless)


def test_shared_identities_are_refused(root):
    draw(root / "tiny" / "train" / "5_1_0.png", 1)
    draw(root / "tiny" / "train" / "8_1_0.png", 1)
    told = r"2 identities are in train and test; of one are .*train/5_1_0\.png and .*/5_\d_\d\.png"
    with pytest.raises(ValueError, match=told):
        tiny(root)

    class Junk(Tiny):
        _junk_pids = [5, 8]  # noqa: RUF012

    assert tiny(root, Junk)


def test_queries_without_a_match_are_refused(root):
    for camid in (1, 4):
        (root / "tiny" / "gallery" / f"30_{camid}_0.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 6 queries have no match .*30_0_0\.png$"):
        tiny(root)
    draw(root / "tiny" / "gallery" / "30_0_0.png", 1)  # the same camera is no match
    with pytest.raises(ValueError, match="2 of 6 queries have no match"):
        tiny(root, TinyNatural)


def test_one_file_at_two_rates_is_refused(root):
    class Torn(Tiny):
        def load(self, root, split_id, lr_camera):
            split = super().load(root, split_id, lr_camera)
            return split._replace(gallery=[*split.gallery, split.query[0]._replace(low=False, camid=9)])

    with pytest.raises(ValueError, match=r"30_0_0\.png is listed twice, at the rates .* and 1\.0"):
        tiny(root, Torn)


def test_files_outside_the_folder_are_refused(root):
    class Stray(Tiny):
        def load(self, root, split_id, lr_camera):
            return super().load(root, split_id, lr_camera)._replace(folder=str(root / "tiny" / "tra"))

    with pytest.raises(ValueError, match="is not in the set's folder"):
        tiny(root, Stray)


def test_damaged_files_are_named(root):
    file = next((root / "tiny" / "query").iterdir())
    file.write_bytes(file.read_bytes()[:100])
    dataset = tiny(root, mode="query")
    with pytest.raises(OSError, match=file.name):
        list(dataset)


def test_summary_is_logged(root, caplog, capsys):
    with caplog.at_level(logging.INFO, "torchreid_xres"):
        tiny(root, verbose=True)
    assert "tiny_test_set train: 24 images, 4 identities, 3 cameras, 8 low resolution" in caplog.text
    assert capsys.readouterr().out == ""


# ---- options


def test_options_reach_the_set(root):
    with dataset_options({"*": {"kernel": "bicubic", "seed": 5}, "tiny_test_set": {"kernel": "lanczos"}}):
        dataset, natural = tiny(root), tiny(root, TinyNatural)
        with dataset_options({"tiny_test_set": {"rates": [8]}}):
            inner = tiny(root)
    assert (dataset.options["kernel"], dataset.options["seed"]) == ("lanczos", 5)
    assert natural.options["kernel"] == "bicubic"
    assert inner.options["rates"] == (8.0,) and inner.options["kernel"] == "lanczos"
    after = tiny(root).options
    assert (after["kernel"], after["seed"], after["rates"], after["lr_camera"]) == ("area", 0, (2.0, 3.0, 4.0), 0)


def test_options_are_taken_back_after_an_error(root):
    with pytest.raises(RuntimeError), dataset_options({"*": {"seed": 5}}):
        raise RuntimeError
    assert tiny(root).options["seed"] == 0


def test_own_options_reach_load(root):
    draw(root / "tiny" / "query" / "5_2_0.png", 1)
    with dataset_options({"tiny_test_set": {"lr_camera": 2}}):
        dataset = tiny(root, mode="query")
    assert [item["camid"] for item in dataset if item["low"]] == [2]
    assert dataset.manifest.options == {"lr_camera": 2}
    assert tiny(root, mode="query", lr_camera=2).manifest.sha256 == dataset.manifest.sha256


@pytest.mark.parametrize(
    "given, message",
    [
        ({"tiny_test_set": {"lr_cam": 1}}, "'tiny_test_set' has no option 'lr_cam'; did you mean 'lr_camera'"),
        ({"*": {"kernal": "area"}}, "all data sets together have no option 'kernal'; did you mean 'kernel'"),
        ({"*": {"lr_camera": 1}}, "all data sets together have no option 'lr_camera'"),
    ],
)
def test_unknown_options(given, message):
    with pytest.raises(ValueError, match=message), dataset_options(given):
        pass


def test_options_of_an_unknown_set():
    with pytest.raises(KeyError, match="did you mean 'tiny_test_set'"), dataset_options({"tiny_tests_set": {}}):
        pass


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("kernel", "cubic", "no kernel 'cubic'; did you mean 'bicubic'"),
        ("interpolation", "nearest", "no interpolation 'nearest'; allowed: bilinear, bicubic"),
        ("rates", [], "'rates' is a list of at least one number"),
        ("rates", 3, "'rates' is a list of at least one number, not 3"),
        ("rates", [0.5], "a rate is a number of at least 1"),
        ("pair_rates", "23", "'pair_rates' is a list"),
        ("query_rate", 0, "a rate is a number of at least 1"),
        ("seed", "0", "'seed' is of type int, not '0'"),
        ("pairs", "yes", "'pairs' is of type bool, not 'yes'"),
    ],
)
def test_wrong_values(root, option, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(root, **{option: value})


# ---- manifest


def test_manifest(root, tmp_path):
    manifest = tiny(root).manifest
    assert manifest.counts == {
        "train": {"images": 24, "identities": 4, "low": 8},
        "query": {"images": 6, "identities": 3, "low": 6},
        "gallery": {"images": 6, "identities": 3, "low": 0},
    }
    assert len(manifest.images) == 36 and "train/11_0_0.png" in manifest.images
    assert manifest.verify(root / "tiny") == {}
    json.dumps(manifest._content())


def test_manifest_is_one_for_all_modes_and_copies(root, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    os.symlink(root / "tiny", moved / "tiny")
    hashes = {tiny(root, mode=mode, pairs=mode == "train").manifest.sha256 for mode in ("train", "query", "gallery")}
    hashes.add(tiny(moved, combineall=True).manifest.sha256)
    assert len(hashes) == 1
    for other in ({"seed": 1}, {"kernel": "bicubic"}, {"rates": [2]}, {"query_rate": 2}, {"split_id": 1}):
        assert tiny(root, **other).manifest.sha256 not in hashes


# ---- sums


class HostSet(host.ImageDataset):
    """What a stock set of the host looks like, with camera numbers that leave a gap."""

    def __init__(self, root, **kwargs):
        files = sorted((root / "tiny" / "train").glob("*.png"))
        rows = [(str(file), i % 2, 3 * (i % 3)) for i, file in enumerate(files[:10])]
        super().__init__(rows, rows[:2], rows[2:4], verbose=False, **kwargs)


def test_sum_of_ours(root):
    other_transform = T.Compose([T.Resize((HEIGHT, WIDTH)), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])
    one, two = tiny(root, pairs=True), tiny(root, TinyNatural, transform=other_transform, pairs=True)
    total = sum([one, two])
    assert isinstance(total, SummedDataset) and len(total) == 48
    assert (total.num_train_pids, total.num_datasets) == (8, 2)
    for index in range(48):
        item, row = total[index], total.train[index]
        assert (item["impath"], item["pid"], item["camid"], item["dsetid"]) == row
        member, shift = (one, 0) if index < 24 else (two, 24)
        assert torch.equal(item["img_hr"], member[index - shift]["img_hr"])
        assert item["dsetid"] == (index >= 24)
    assert not {row[1] for row in total.train[:24]} & {row[1] for row in total.train[24:]}
    assert not {row[2] for row in total.train[:24]} & {row[2] for row in total.train[24:]}
    assert total[-1]["impath"] == total[47]["impath"]
    with pytest.raises(IndexError):
        total[48]
    with pytest.raises(IndexError):
        total[-49]


def test_sum_of_three_is_flat(root):
    sets = [tiny(root), tiny(root, TinyNatural), HostSet(root, transform=TO_TENSOR)]
    total = sum(sets)
    assert total.members == sets
    assert [row[3] for row in total.train] == [0] * 24 + [1] * 24 + [2] * 10
    assert total[50]["dsetid"] == 2
    assert (total + sets[0]).members == [*sets, sets[0]]
    assert SummedDataset([sets[0], total]).members == [sets[0], *sets]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("host_first", [False, True])
def test_sum_with_a_set_of_the_host(root, pairs, host_first):
    ours, theirs = tiny(root, pairs=pairs), HostSet(root, transform=TO_TENSOR)
    total = SummedDataset([theirs, ours] if host_first else [ours, theirs])
    assert {frozenset(item) for item in total} == {frozenset(PAIR_KEYS if pairs else OUR_KEYS)}
    item = total[0 if host_first else 24]
    assert item["rate"] == 1.0 and item["low"] is False and item["role"] == "train"
    assert item["size"].tolist() == [64, 32]
    if pairs:
        assert torch.equal(item["img_hr"], item["img"])
        assert torch.equal(item["img_lr"], round_trip(item["img"], low_size(64, 32, item["rate_lr"])))
    assert total.num_train_pids == 6
    cameras = [{row[2] for row in total.train if row[3] == dsetid} for dsetid in (0, 1)]
    assert not cameras[0] & cameras[1], "cameras 0, 3, 6 of the host's set leave no room for 3 more at 3"
    batches = list(DataLoader(total, batch_size=17, num_workers=2))
    assert sum(len(batch["pid"]) for batch in batches) == 34


def test_sum_of_the_hosts_own_is_as_before(root):
    total = SummedDataset([HostSet(root, transform=TO_TENSOR, k_tfm=2), HostSet(root, transform=TO_TENSOR)])
    assert set(total[0]) == HOST_KEYS
    assert len(total[0]["img"]) == 2 and total[10]["img"].shape == (3, HEIGHT, WIDTH)


def test_wrong_sums(root):
    with pytest.raises(ValueError, match="Tiny is in mode 'query'"):
        tiny(root) + tiny(root, mode="query")
    with pytest.raises(ValueError, match=r"all give pairs or none: .*'tiny_test_set': True.*'tiny_natural': False"):
        tiny(root, pairs=True) + tiny(root, TinyNatural)
    with pytest.raises(ValueError, match="k_tfm must be 1 in every summed set"):
        tiny(root, pairs=True) + HostSet(root, transform=TO_TENSOR, k_tfm=2)
    with pytest.raises(TypeError, match="cannot add list"):
        SummedDataset([tiny(root), []])


# ---- in the host


def test_in_the_hosts_manager(root, monkeypatch):
    table = host.module_of(host.torchreid.data.register_image_dataset)
    monkeypatch.setattr(table, "__image_datasets", dict(vars(table)["__image_datasets"]))
    host.register_image_dataset(Tiny.name, Tiny)
    with dataset_options({Tiny.name: {"pairs": True}}):
        manager = host.ImageDataManager(
            root=str(root), sources=Tiny.name, height=64, width=32, batch_size_train=8, workers=0, use_gpu=False
        )
    assert manager.num_train_pids == 4 and manager.num_train_cams == 3
    batch = next(iter(manager.train_loader))
    assert batch["img_lr"].shape == (8, 3, 64, 32) and set(batch["role"]) == {"train"}
    query = next(iter(manager.test_loader[Tiny.name]["query"]))
    assert query["low"].all() and set(query["role"]) == {"query"}
    gallery = next(iter(manager.test_loader[Tiny.name]["gallery"]))
    assert not gallery["low"].any() and (gallery["rate"] == 1).all()
