"""Saved features, the check that several are of the same images, and the search of fusion weights on training ones."""

import io
import json
import logging
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from torchreid_xres.features import fusion
from torchreid_xres.features.features import FeatureSet, check_same_images, evaluate_features
from torchreid_xres.features.fusion import (
    ascend,
    evaluate_reciprocal_ranks,
    fused_sets,
    search_weights,
    training_trial,
)
from torchreid_xres.jobs.tasks.panning import rows_of
from torchreid_xres.metrics import rank_distances
from torchreid_xres.metrics.fusion import SizeWeights, reciprocal_rank_distances

IDENTITIES, PER_CAMERA = 40, 2


def make(model="net", role="train", noise=(0.1, 0.1), seed=0, low_camera=1, identities=IDENTITIES):
    """Two cameras; each image is its identity's centre plus noise, another for small and for large images."""
    rng = np.random.default_rng(seed)
    pid = np.repeat(np.arange(identities), 2 * PER_CAMERA)
    camid = np.tile([0, 1], identities * PER_CAMERA)
    low = camid == 0 if low_camera == 1 else np.zeros(len(pid), bool)
    small = np.arange(len(pid)) // 2 % 2 == 1
    size = np.where(small[:, None], [32, 16], [128, 64])
    centres = np.random.default_rng(99).standard_normal((identities, 6))
    spread = np.where(small, noise[0], noise[1])[:, None] * low[:, None] + 0.1
    return FeatureSet(
        features=torch.from_numpy(centres[pid] + spread * rng.standard_normal((len(pid), 6))),
        pid=pid, camid=camid, rate=np.where(low, np.where(small, 4.0, 2.0), 1.0), low=low, size=size,
        names=[f"{role}/{p:03d}_c{c}_{i}.png" for i, (p, c) in enumerate(zip(pid, camid, strict=True))],
        role=role, dataset="folder", model=model, weights_sha256=f"hash of {model}", manifest_sha256="abc",
    )  # fmt: skip


def test_what_is_saved_comes_back(tmp_path):
    kept = make("osnet (x2)")
    kept.save(tmp_path / "deep" / "train.npz")
    back = FeatureSet.load(tmp_path / "deep" / "train.npz")
    assert back.features.dtype == torch.float32 and torch.equal(back.features, kept.features)
    for name in ("pid", "camid", "rate", "low", "size"):
        found, expected = getattr(back, name), getattr(kept, name)
        assert found.dtype == expected.dtype and np.array_equal(found, expected), name
    for name in ("names", "role", "dataset", "model", "weights_sha256", "manifest_sha256"):
        assert getattr(back, name) == getattr(kept, name)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["train.npz"]  # no scratch file


def test_a_file_holds_no_pickle(tmp_path):
    make().save(tmp_path / "train.npz")
    with np.load(tmp_path / "train.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def _other_archive(path):
    np.savez(path, features=np.zeros((2, 2)))


def _pickled(path):
    np.savez(path, about=np.array({"format": 1}, dtype=object))


def _later_format(path):
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].item()) | {"format": 2}
    np.savez(path, **{**arrays, "about": np.array(json.dumps(about))})


def _shorter(path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "pid": arrays["pid"][:-1]})


@pytest.mark.parametrize(
    "damage, message",
    [
        (_cut, "not a readable feature file"),
        (_flip_a_byte, "not a readable feature file"),
        (lambda path: path.write_text("hello"), "not a readable feature file"),
        (lambda path: path.write_bytes(b""), "not a readable feature file"),
        (_other_archive, "about"),
        (_pickled, "not a readable feature file"),
        (_later_format, "format 1"),
        (_shorter, "160 images need pid"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    path = tmp_path / "train.npz"
    make().save(path)
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        FeatureSet.load(path)
    assert str(path) in str(caught.value)


def _written(path, **changes):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | changes)


@pytest.mark.parametrize(
    "name, value",
    [
        ("features", np.zeros((160, 6), int)), ("features", np.zeros((160, 6), complex)), ("features", np.zeros(160)),
        ("features", np.full((160, 6), np.nan, np.float32)), ("features", np.zeros((0, 6), np.float32)),
        ("pid", np.full(160, 1.5)), ("pid", np.full(160, "1")), ("pid", np.zeros((160, 1), int)), ("pid", np.array(1)),
        ("camid", np.full(160, True)), ("low", np.zeros(160)), ("low", np.full(160, "x")), ("names", np.zeros(160)),
        ("names", np.full(160, b"a")), ("rate", np.full(160, np.nan)), ("rate", np.zeros(160)),
        ("rate", np.full(160, "2")), ("size", np.zeros((160, 2), int)), ("size", np.full((160, 2), 1.5)),
        ("about", np.array("[1]")), ("about", np.array("{")), ("about", np.array(3)),
        ("about", np.array('{"format": 1}')), ("about", np.array(["a", "b"])),
        ("about", np.array('{"format": 1, "role": ["train"], "dataset": 3}')),
    ],
)
def test_another_type_or_length_is_told_in_one_line_and_not_cast(tmp_path, name, value):
    path = tmp_path / "train.npz"
    make().save(path)
    _written(path, **{name: value})
    with pytest.raises(ValueError, match=r"is not a readable feature file: .*; remove it") as caught:
        FeatureSet.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_any_damage_is_told_in_one_line_or_was_of_no_account(tmp_path):
    path, right, rng = tmp_path / "train.npz", make(), np.random.default_rng(0)
    right.save(path)
    whole = path.read_bytes()
    for place, bit in zip(rng.integers(0, len(whole), 100), rng.integers(0, 8, 100), strict=True):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            found = FeatureSet.load(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert torch.equal(found.features, right.features) and found.names == right.names
            assert np.array_equal(found.pid, right.pid)


def test_identities_beyond_63_bits_are_refused():
    plain = make()
    with pytest.raises(ValueError, match=r"train features of folder by net: pid holds 9223372036854775809, above"):
        replace(plain, pid=plain.pid.astype(np.uint64) + np.uint64(2**63 + 1) - plain.pid.astype(np.uint64))
    assert replace(plain, pid=plain.pid.astype(np.uint64) + np.uint64(2**60)).pid.max() == 2**60 + IDENTITIES - 1


def test_a_file_that_takes_all_memory_is_refused(tmp_path):
    path = tmp_path / "train.npz"
    make().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays | {"features": np.zeros((160, 100_000), np.float32)})
    with pytest.raises(ValueError, match=r"it unpacks to 64,.* bytes"):
        FeatureSet.load(path)
    make().save(path)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (2**50, 2**10)})
    with zipfile.ZipFile(path) as file:
        members = {info: file.read(info) for info in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for member, content in members.items():
            file.writestr(member, head.getvalue() if member == "features.npy" else content)
    with pytest.raises(ValueError, match="is not a readable feature file"):
        FeatureSet.load(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"query\.npz"):
        FeatureSet.load(tmp_path / "query.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"role": "test"}, "role must be one of train, query, gallery"),
        ({"features": torch.zeros(160)}, r"must be \(N, D\)"),
        ({"size": np.ones(160)}, r"size of the shape \(160, 2\), not \(160,\)"),
        ({"names": ["a"]}, r"names of the shape \(160,\), not \(1,\)"),
        ({"features": torch.zeros(160, 3).index_fill(0, torch.tensor([7]), float("nan"))}, "1 of 160 .*train/001_c1_7"),
    ],
)
def test_what_is_no_feature_set(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make(), **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dataset": "mlr_viper"}, "dataset is folder in one, mlr_viper in the other"),
        ({"role": "query"}, "role is train in one, query in the other"),
        ({"pid": np.r_[np.arange(160) * 0 + 3]}, r"images differ in their identity, the first is image 0, 0 in one"),
        ({"camid": np.zeros(160)}, "80 of 160 images differ in their camera, the first is image 1, 1 in one"),
        ({"manifest_sha256": "xyz"}, "manifest is abc in one, xyz in the other"),
        ({"names": [f"{i}.png" for i in range(160)]}, "in their name, the first is image 0, train/000_c0_0"),
    ],
)
def test_other_images_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        check_same_images([make("a"), make("b", seed=1), replace(make("c"), **change)])


def test_another_number_of_images_is_named():
    with pytest.raises(ValueError, match=r"by a and by b .*160 images in one, 20 in the other"):
        check_same_images([make("a"), make("b", identities=5)])


def test_rates_and_sizes_may_differ():
    enlarged = make("x2")
    check_same_images([make("a"), replace(enlarged, size=2 * enlarged.size, rate=np.ones(160))])


# -- evaluation ----------------------------------------------------------------------------------------------


def parts(model, noise=(0.5, 0.5), seed=0):
    """Queries of camera 0, a gallery of camera 1."""
    whole = make(model, noise=noise, seed=seed)

    def taken(role, camera):
        rows = np.flatnonzero(whole.camid == camera)
        per_image = {key: getattr(whole, key)[rows] for key in ("features", "pid", "camid", "rate", "low", "size")}
        return replace(whole, **per_image, names=[whole.names[i] for i in rows], role=role)

    return taken("query", 0), taken("gallery", 1)


def test_the_record_of_saved_features():
    query, gallery = parts("a")
    record = evaluate_features(query, gallery, ranks=(1, 5))
    json.dumps(record)
    assert record["dataset"] == "folder" and record["manifest"] == "abc" and record["weights_sha256"] == "hash of a"
    assert 20 < record["rank1"] < 100 and record["rank1"] < record["rank5"]
    assert record["by_rate"]["2"]["queries"] == record["by_rate"]["4"]["queries"] == 40
    mean = (record["by_rate"]["2"]["mAP"] + record["by_rate"]["4"]["mAP"]) / 2
    assert record["mAP"] == pytest.approx(mean)
    assert evaluate_features(query, gallery, rerank=True)["mAP"] != record["mAP"]


def test_queries_and_gallery_of_different_models():
    with pytest.raises(ValueError, match="the model is a here, b there"):
        evaluate_features(parts("a")[0], parts("b")[1])


def test_fused_sets_are_feature_sets_of_a_model_of_their_own(tmp_path):
    query, gallery = zip(parts("a"), parts("b", seed=1), strict=True)
    fused = fused_sets(query, gallery, (2, 1))
    assert fused["query"].model == fused["gallery"].model == "fusion of a, b"
    assert fused["query"].weights_sha256 == fused["gallery"].weights_sha256
    assert fused["query"].weights_sha256 != fused_sets(query, gallery, (1, 2))["query"].weights_sha256
    alone = [evaluate_features(q, g)["mAP"] for q, g in zip(query, gallery, strict=True)]
    assert evaluate_features(**fused, metric="euclidean")["mAP"] > max(alone)
    fused["query"].save(tmp_path / "query.npz")  # may be a branch again
    check_same_images([query[0], FeatureSet.load(tmp_path / "query.npz")])


def test_weights_by_size_of_euclidean_distances_are_refused():
    query, gallery = zip(parts("a"), parts("b", seed=1), strict=True)
    with pytest.raises(ValueError, match="need the cosine distance, not euclidean"):
        fused_sets(query, gallery, SizeWeights((50.0,), ((1.0, 1.0),)), "euclidean")


def test_reciprocal_ranks_of_saved_features():
    query, gallery = zip(parts("a"), parts("b", seed=1), strict=True)
    record = evaluate_reciprocal_ranks(query, gallery, ranks=(1,))
    cosines = [1 - torch.cosine_similarity(q.features[:, None], g.features[None], dim=2)
               for q, g in zip(query, gallery, strict=True)]  # fmt: skip
    labels = (query[0].pid, gallery[0].pid, query[0].camid, gallery[0].camid)
    expected = rank_distances(reciprocal_rank_distances(cosines), *labels)
    assert record["mAP"] == pytest.approx(100 * expected.mAP())
    assert record["model"] == "fusion of a, b" and set(record["by_rate"]) == {"2", "4"}


# -- search --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["query", "gallery"])
def test_a_search_on_test_images_is_refused(role):
    with pytest.raises(ValueError, match=f"validation part, and those by b are of the {role} images of folder"):
        search_weights([make("a"), make("b", role=role)])


def test_a_search_on_the_validation_part_ranks_its_queries_in_its_gallery():
    def sides(*branches):
        whole = [replace(branch, part="validation") for branch in branches]
        return [[rows_of(replace(branch, role=role), branch.low if role == "query" else ~branch.low)
                 for branch in whole] for role in ("query", "gallery")]  # fmt: skip

    poor, good = make("poor", noise=(2.0, 2.0), seed=1), make("good", noise=(0.3, 0.3))
    query, gallery = sides(poor, good)
    search, of_training = search_weights(query, gallery), search_weights([poor, good])
    assert (search.on, of_training.on) == ("validation", "training")
    # The same images, made the same way: the search is the same, too.
    assert replace(search, on="training").weights == of_training.weights
    assert (search.queries, search.gallery) == (of_training.queries, of_training.gallery)
    assert search.found == of_training.found
    with pytest.raises(ValueError, match="needs its queries and its gallery, each of every branch"):
        search_weights(gallery, query)
    with pytest.raises(ValueError, match="needs its queries and its gallery"):
        search_weights(query)
    with pytest.raises(ValueError, match="those by poor are of the gallery images of folder"):
        search_weights(query, [replace(branch, part="test") for branch in gallery])


def test_the_part_is_kept_and_parts_are_not_mixed(tmp_path):
    kept = make(role="query")
    replace(kept, part="validation").save(tmp_path / "query.npz")
    assert FeatureSet.load(tmp_path / "query.npz").part == "validation" and kept.part == "test"
    with pytest.raises(ValueError, match="the part is validation here, test there"):
        evaluate_features(FeatureSet.load(tmp_path / "query.npz"), make(role="gallery"))
    with pytest.raises(ValueError, match="part must be one of test, validation, not 'train'"):
        replace(kept, part="train")


def test_a_search_finds_the_branch_that_knows_and_checks_it_on_other_identities():
    good, poor = make("good", noise=(0.3, 0.3)), make("poor", noise=(2.0, 2.0), seed=1)
    search = search_weights([poor, good])
    assert search.weights[1] > 2 * search.weights[0]
    assert search.found > search.start and search.checked > search.checked_start
    assert search.checked != search.found and search.checked_start != search.start
    assert search.identities == 20 and search.queries == 40 and search.gallery == 40
    assert search == search_weights([poor, good])  # not left to chance
    assert search_weights([poor, good], seed=1).start != search.start  # other identities
    assert json.loads(json.dumps(asdict(search)))["weights"] == list(search.weights)
    by_rank = search_weights([poor, good], objective="rank1")
    assert by_rank.objective == "rank1" and by_rank.found >= by_rank.start


def test_a_search_does_not_depend_on_the_order_of_images():
    branches = [make("a", noise=(0.6, 0.6)), make("b", noise=(1.0, 1.0), seed=1)]
    order = np.random.default_rng(5).permutation(len(branches[0]))

    def mixed(whole):
        per_image = {key: getattr(whole, key)[order] for key in ("features", "pid", "camid", "rate", "low", "size")}
        return replace(whole, **per_image, names=[whole.names[i] for i in order])

    found, again = search_weights(branches), search_weights([mixed(branch) for branch in branches])
    assert found.weights == again.weights and found.found == pytest.approx(again.found)


def test_where_all_weights_do_equally_well_those_begun_from_stay():
    perfect = make("a", noise=(0, 0), identities=8)
    search = search_weights([perfect, replace(perfect, model="b")])
    assert search.weights == (1.0, 1.0) and search.found == search.start == 100
    assert search_weights([perfect] * 4).weights == (2.0, 1.0, 1.0, 1.0)
    assert search_weights([perfect] * 2, start=(5, 1)).weights == (5.0, 1.0)


def test_weights_by_size_trust_each_branch_where_it_is_good(monkeypatch):
    monkeypatch.setattr(fusion, "MIN_QUERIES", 15)
    near, far = make("near", noise=(3.0, 0.2)), make("far", noise=(0.2, 3.0), seed=1)  # small, large
    search = search_weights([near, far], by_size=True, bins=2)
    small, large = search.weights.sides
    assert small == pytest.approx(np.sqrt(32 * 16)) and large == pytest.approx(np.sqrt(128 * 64))
    (near_small, far_small), (near_large, far_large) = search.weights.weights
    assert far_small > near_small and near_large > far_large
    overall = search_weights([near, far])
    assert search.found > overall.found and search.checked > overall.checked
    # On test images of other noise, through descriptors.
    query, gallery = zip(parts("near", (3.0, 0.2), 5), parts("far", (0.2, 3.0), 6), strict=True)
    by_size, plain = (
        evaluate_features(**fused_sets(query, gallery, found.weights), metric="euclidean")
        for found in (search, overall)
    )
    assert by_size["mAP"] > plain["mAP"] + 3


def test_few_queries_of_a_size_are_no_class_of_their_own():
    sides = np.r_[np.full(100, 20.0), np.full(40, 60.0), np.full(10, 90.0)]
    assert [len(rows) for rows in fusion._size_classes(sides, 3)] == [100, 50]
    assert [len(rows) for rows in fusion._size_classes(np.full(50, 20.0), 3)] == [50]
    assert [len(rows) for rows in fusion._size_classes(np.arange(1.0, 13), 3)] == [12]
    assert sorted(np.concatenate(fusion._size_classes(sides, 3)).tolist()) == list(range(150))


def test_without_low_images_queries_are_one_of_each_identity_and_camera():
    whole = make("a", low_camera=None)
    trial = training_trial([whole], range(10))
    assert len(trial.q_pids) == 20 and len(trial.g_pids) == 40
    assert sorted(zip(trial.q_pids.tolist(), trial.q_camids.tolist(), strict=True)) == [
        (pid, cam) for pid in range(10) for cam in (0, 1)
    ]
    assert len(training_trial([whole], range(10), max_queries=7).q_pids) == 7
    # Low images of every camera have no match among the others: the same.
    assert len(training_trial([replace(whole, low=np.ones(160))], range(10)).g_pids) == 40
    # Low by nature among sharp ones of the same cameras: the set has no low side, and the same again.
    by_size = replace(whole, low=whole.size[:, 0] < 64)
    assert len(training_trial([by_size], range(10)).g_pids) == 40
    made = replace(by_size, rate=np.where(by_size.low, 2.0, 1.0))
    assert len(training_trial([made], range(10)).g_pids) < 40


def test_queries_without_a_match_do_not_take_part():
    whole = make("a")
    pid = whole.pid.copy()
    pid[np.flatnonzero((pid == 3) & (whole.camid == 1))] = 1000  # identity 3 is left with its low images
    assert set(training_trial([replace(whole, pid=pid)], range(10)).q_pids) == set(range(10)) - {3}
    with pytest.raises(ValueError, match=r"none of 80 training images .* match under another camera"):
        search_weights([replace(whole, camid=np.zeros(160))] * 2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"objective": "mINP"}, "unknown objective 'mINP'"),
        ({"share": 0.99}, "leaves 40 of 40 training identities"),
        ({"share": 0.0}, "both need 2"),
        ({"start": (1, 1, 1)}, "2 branches need 2 weights"),
        ({"start": (0, 0)}, "must not all be 0"),
    ],
)
def test_a_search_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        search_weights([make("a"), make("b", seed=1)], **options)


def test_a_search_of_one_branch():
    with pytest.raises(ValueError, match="at least 2 branches"):
        search_weights([make("a")])


def test_weights_that_only_suit_the_identities_searched_on_are_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(fusion, "ascend", lambda score, start, grid: (1.0, 0.0))
    poor, good = make("poor", noise=(3, 3)), make("good", noise=(0.2, 0.2), seed=1)
    with caplog.at_level(logging.WARNING):
        search_weights([poor, good])
    assert "worse than those begun from on the other training identities" in caplog.text


def test_ascending_reaches_the_top_one_weight_at_a_time_and_keeps_what_is_as_good():
    assert ascend(lambda w: -((w[0] - 3) ** 2) - (w[1] - 0.5) ** 2 - w[2], (1, 1, 1)) == (3.0, 0.5, 0.0)
    assert ascend(lambda w: 7.0, (2, 5)) == (2.0, 5.0)
    assert any(ascend(lambda w: -sum(w), (1, 1)))  # never all 0
