"""The validation part: who is in it, what its queries are, and what does not change with it."""

import PIL.Image
import pytest

from torchreid_xres import host
from torchreid_xres.data import DATASETS, CrossResolutionDataset, Image, Split, dataset_options
from torchreid_xres.data.manager import XresDataManager
from torchreid_xres.data.validation import carve

NAME = "validated_test_set"


class Made(CrossResolutionDataset):
    """Training images of the cameras 0 to 2 by ``low``, a test with camera 0 as the low side."""

    name = NAME
    num_splits = 2
    defaults = {"low": "camera 0", "cameras": 3}  # noqa: RUF012

    def load(self, root, split_id, low, cameras):
        def images(pids):
            return [
                Image(str(root / f"{pid}_{camid}_{n}.png"), pid, camid, low == "all" or (low == f"camera {camid}"))
                for pid in pids
                for camid in range(cameras)
                for n in range(2)
            ]

        far, near = ([i for i in images(range(100, 103)) if (i.camid == 0) is side] for side in (True, False))
        if cameras == 1:
            near = [image._replace(camid=1) for image in far[1::2]]
            far = far[::2]
        return Split(str(root), images(range(10)), [i._replace(low=True) for i in far],
                     [i._replace(low=False) for i in near])  # fmt: skip


class MadeNatural(Made):
    name = "validated_natural"
    natural = True
    disjoint_cameras = False


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    for cls in (Made, MadeNatural):
        DATASETS.register(cls.name)(cls)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    for pid in (*range(10), *range(100, 103)):
        for camid in range(3):
            for n in range(2):
                PIL.Image.new("RGB", (16, 32), (pid, camid, n)).save(root / f"{pid}_{camid}_{n}.png")
    return root


def made(root, cls=Made, **kwargs):
    return cls(root=str(root), verbose=False, **kwargs)


def identities(dataset):
    return {int(dataset.names[path].split("_")[0]) for path, *_ in dataset.data}


def test_the_part_is_of_training_identities_that_are_not_trained_on(root):
    whole = made(root)
    train = made(root, validation=0.3)
    query, gallery = (made(root, validation=0.3, part="validation", mode=mode) for mode in ("query", "gallery"))
    kept_out = identities(whole) - identities(train)
    assert len(kept_out) == 3 and train.num_train_pids == 7
    assert sorted({pid for _, pid, *_ in train.train}) == list(range(7))  # labels without holes
    assert identities(query) == identities(gallery) == kept_out
    facts = {"share": 0.3, "identities": 3, "queries": 6, "gallery": 12}
    assert train.validation == query.validation == facts and whole.validation is None
    assert (len(query), len(gallery)) == (6, 12)
    test = made(root, validation=0.3, mode="query")
    assert test.data == made(root, mode="query").data


def test_its_queries_are_those_of_the_test_in_low_resolution_and_rate(root):
    train = made(root)
    query = made(root, validation=0.3, part="validation", mode="query")
    for item in query:
        assert item["low"] and item["camid"] == 0 and item["role"] == "query"
        assert item["rate"] == train.rate_of[item["impath"]] > 1
    gallery = made(root, validation=0.3, part="validation", mode="gallery")
    assert all(not item["low"] and item["rate"] == 1 and item["camid"] > 0 for item in gallery)
    at = made(root, validation=0.3, part="validation", mode="query", query_rate=6.0)
    assert {item["rate"] for item in at} == {6.0}


def test_the_protocol_stays_the_sets(root):
    whole = made(root).manifest.sha256
    assert made(root, validation=0.3).manifest.sha256 == whole
    assert made(root, validation=0.3, part="validation", mode="query").manifest.sha256 == whole
    sharp = made(root, low="none", validation=0.3, part="validation", mode="query")
    assert sharp.manifest.sha256 == made(root, low="none").manifest.sha256


def test_the_draw_depends_on_set_split_and_seed_and_not_on_rates(root):
    def kept_out(**kwargs):
        return identities(made(root)) - identities(made(root, validation=0.3, **kwargs))

    assert kept_out() == {1, 3, 4}  # the same on every machine
    assert kept_out(rates=(5.0, 7.0)) == kept_out() != kept_out(seed=1)
    assert kept_out(split_id=1) != kept_out() != identities(made(root, MadeNatural)) - identities(
        made(root, MadeNatural, validation=0.3)
    )
    assert kept_out() < identities(made(root)) - identities(made(root, validation=0.5))


@pytest.mark.parametrize("low", ["none", "all"])
def test_a_training_of_one_kind_has_the_tests_low_camera_as_queries(root, low):
    query, gallery = (made(root, low=low, validation=0.3, part="validation", mode=m) for m in ("query", "gallery"))
    assert {(item["camid"], item["low"]) for item in query} == {(0, True)}
    assert {item["rate"] for item in query} <= {2.0, 3.0, 4.0}
    assert {(item["camid"], item["low"]) for item in gallery} == {(1, False), (2, False)}


def test_where_the_gallery_shares_the_camera_one_image_of_each_camera_is_a_query(root, monkeypatch):
    monkeypatch.setattr(Made, "disjoint_cameras", False)
    load = Made.load

    def mixed(self, *args, **kwargs):
        split = load(self, *args, **kwargs)
        return split._replace(gallery=[*split.gallery, split.query[0]._replace(low=True)])

    monkeypatch.setattr(Made, "load", mixed)
    query, gallery = (made(root, low="none", validation=0.3, part="validation", mode=m) for m in ("query", "gallery"))
    assert len(query) == 9 and len(gallery) == 9  # of 3 identities under 3 cameras, two images each
    assert {path for path, *_ in query.data}.isdisjoint(path for path, *_ in gallery.data)
    assert all(item["low"] for item in query) and not any(item["low"] for item in gallery)


def test_a_natural_set_keeps_its_pictures(root):
    query, gallery = (made(root, MadeNatural, validation=0.3, part="validation", mode=m) for m in ("query", "gallery"))
    assert {(item["camid"], item["rate"], item["low"]) for item in query} == {(0, 1.0, True)}
    query, gallery = (
        made(root, MadeNatural, low="none", validation=0.3, part="validation", mode=mode)
        for mode in ("query", "gallery")
    )
    assert (len(query), len(gallery)) == (9, 18) and not any(item["low"] for item in query)


def test_without_cameras_one_image_of_each_identity_is_the_gallery(root):
    query, gallery = (
        made(root, low="none", cameras=1, validation=0.3, part="validation", mode=mode) for mode in ("query", "gallery")
    )
    assert len(query) == len(gallery) == 3
    assert all(item["low"] and item["camid"] == 0 and item["rate"] > 1 for item in query)
    assert all(not item["low"] and item["camid"] == 1 for item in gallery)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"validation": 0.6}, "'validation' is a number from 0 to 0.5, not 0.6"),
        ({"validation": True}, "'validation' is a number from 0 to 0.5, not True"),
        ({"validation": 0.1}, r"share of 0.1 \(data.validation\) keeps 1 of 10 .* leaves 9; both need at least 2"),
        ({"part": "train"}, "no part 'train'; allowed: test, validation"),
        ({"part": "validation"}, "'part' is 'validation', but 'validation' is 0"),
        ({"validation": 0.3, "combineall": True}, "combineall trains on the test"),
    ],
)
def test_what_cannot_be_is_refused(root, wrong, told):
    with pytest.raises(ValueError, match=told):
        made(root, **wrong)


def test_identities_without_a_match_are_refused():
    alone = [Image(f"{pid}_0", pid, 0, low=True) for pid in range(4)] + [Image("0_1", 0, 1), Image("1_1", 1, 1)]
    with pytest.raises(ValueError, match="fewer than 2 have an image that can be searched"):
        carve(Split("", alone, [], []), 0.5, "here", lambda image: image.path, natural=True)


def test_loaders_come_with_the_part(root, monkeypatch):
    monkeypatch.setitem(host.image_datasets(), NAME, Made)

    def manager(part):
        return XresDataManager(
            options={"*": {"validation": 0.3, "part": part}}, root=str(root), sources=NAME, height=32, width=16,
            batch_size_train=2, batch_size_test=4, workers=0, use_gpu=False,
        )  # fmt: skip

    loaders = manager("validation")
    assert loaders.num_train_pids == 7 and len(loaders.test_loader[NAME]["query"].dataset) == 6
    assert {float(rate) for batch in loaders.query_loader(NAME, 3.0) for rate in batch["rate"]} == {3.0}
    assert len(loaders.query_loader(NAME, 3.0).dataset) == 6
    assert len(manager("test").test_loader[NAME]["query"].dataset) == 6
    with dataset_options({"*": {"validation": 0.2}}):
        assert made(root).num_train_pids == 8
