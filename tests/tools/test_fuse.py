"""tools/fuse.py on small saved features, as a user calls it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from torchreid_xres.features.features import FeatureSet, evaluate_features


def features(model, role, seed, noise):
    """30 identities, other ones in training; queries are low and of camera 0, the gallery is camera 1's."""
    rng = np.random.default_rng([seed, len(role)])
    pid = np.repeat(np.arange(30), 4) + (100 if role == "train" else 0)
    camid = np.tile([0, 1], 60)
    rows = {"train": camid >= 0, "query": camid == 0, "gallery": camid == 1}[role]
    centres = np.random.default_rng([7, role == "train"]).standard_normal((30, 6))
    found = centres[pid % 100] + noise * rng.standard_normal((len(pid), 6))
    small = np.arange(len(pid)) // 2 % 2 == 1
    return FeatureSet(
        features=torch.from_numpy(found[rows]), pid=pid[rows], camid=camid[rows], low=(camid == 0)[rows],
        rate=np.where(camid == 0, np.where(small, 4.0, 2.0), 1.0)[rows],
        size=np.where(small[:, None], [32, 16], [128, 64])[rows],
        names=[f"{role}/{i}.png" for i in np.flatnonzero(rows)],
        role=role, dataset="folder", model=model, weights_sha256=f"hash of {model}",
    )  # fmt: skip


@pytest.fixture
def branches(tmp_path):
    """Three folders of saved features; the second branch is the best."""
    folders = []
    for number, noise in enumerate((1.2, 0.6, 1.2)):
        folder = tmp_path / f"branch{number}"
        for role in ("train", "query", "gallery"):
            features(f"net{number}", role, number, noise).save(folder / f"{role}.npz")
        folders.append(folder)
    return folders


def read(folder):
    return json.loads((folder / "fusion.json").read_text())


def test_given_weights(run_tool, branches, tmp_path):
    status, out, _ = run_tool(*branches, "--weights", 1, 2, 1, "--out", tmp_path / "out")
    assert status == 0
    assert "| fused, given 1:2:1 " in out and "r1@x4" in out
    assert out.splitlines()[-1] == f"next: xres fuse {tmp_path / 'out'} FOLDER fuses it with others"
    *alone, fused = read(tmp_path / "out")
    assert [record["model"] for record in alone] == ["net0", "net1", "net2"]
    expected = evaluate_features(features("net1", "query", 1, 0.6), features("net1", "gallery", 1, 0.6))
    assert alone[1] == expected
    assert fused["mAP"] > max(record["mAP"] for record in alone)
    assert fused["weights"] == [1.0, 2.0, 1.0] and fused["how"] == "given"
    assert [entry["weights_sha256"] for entry in fused["inputs"]] == ["hash of net0", "hash of net1", "hash of net2"]
    assert fused["protocol"]["protocol"] == "market" and fused["branch_distance"] == "cosine"
    # The fused features are a branch again, and give the same figures.
    saved = [FeatureSet.load(tmp_path / "out" / f"{role}.npz") for role in ("query", "gallery")]
    assert evaluate_features(*saved, metric="euclidean")["mAP"] == fused["mAP"]


def test_default_weights(run_tool, branches):
    assert "fused, default 1:1 " in run_tool(*branches[:2])[1]
    assert "fused, default 2:1:1:1 " in run_tool(*branches, branches[0])[1]


def test_search_finds_the_best_branch_on_training_identities(run_tool, branches, tmp_path):
    status, out, _ = run_tool(*branches, "--search", "--objective", "rank1", "--out", tmp_path / "out")
    assert status == 0 and "searched on 15 training identities (30 queries" in out
    fused = read(tmp_path / "out")[-1]
    assert fused["weights"][1] == max(fused["weights"]) and fused["search"]["objective"] == "rank1"
    assert fused["search"]["found"] >= fused["search"]["start"]


def test_weights_by_size(run_tool, branches, tmp_path):
    status, out, _ = run_tool(*branches, "--by-size", "--rerank", "--out", tmp_path / "out")
    assert status == 0 and "sqrt(height x width)" in out and "fused, searched by size " in out
    fused = read(tmp_path / "out")[-1]
    assert set(fused["weights"]) == {"sides", "weights"} and fused["protocol"]["rerank"]


def test_reciprocal_ranks(run_tool, branches, tmp_path):
    status, out, _ = run_tool(*branches, "--reciprocal-rank", "--metric", "euclidean", "--out", tmp_path / "out")
    assert status == 0 and "fused, reciprocal ranks " in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fusion.json"]  # ranks make no descriptor


def test_the_data_sets_protocol_unless_asked_otherwise(run_tool, branches, tmp_path):
    for folder in branches:
        for role in ("query", "gallery"):
            replace(FeatureSet.load(folder / f"{role}.npz"), dataset="mlr_viper").save(folder / f"{role}.npz")
    run_tool(*branches, "--out", tmp_path / "out")
    assert {record["protocol"]["protocol"] for record in read(tmp_path / "out")} == {"single_shot"}
    run_tool(*branches, "--out", tmp_path / "out", "--protocol", "market")
    assert {record["protocol"]["protocol"] for record in read(tmp_path / "out")} == {"market"}


def test_a_run_folder_makes_its_features(run_tool, tool, branches, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pth.tar").touch()
    asked = []

    def run_features(folder, roles):
        asked.append((folder, *roles))
        print("Loading, says torchreid")
        return {role: features("trained", role, 9, 0.9) for role in roles}

    monkeypatch.setattr("torchreid_xres.jobs.extraction.require_trained", lambda folder: None)
    monkeypatch.setattr("torchreid_xres.jobs.extraction.run_features", run_features)
    status, out, _ = run_tool(branches[0], run)
    assert status == 0 and "| trained " in out and "Loading" not in out
    assert run_tool(branches[0], run, "--search")[0] == 0
    assert asked == [(run, "query", "gallery"), (run, "query", "gallery", "train")]


@pytest.mark.parametrize(
    "args, message",
    [
        (("--weights", 1, 1), "3 branches need 3 weights"),
        (("--weights", 1, -1, 1), "not negative"),
        (("--weights", 0, 0, 0), "must not all be 0"),
        (("--weights", 1, "x", 1), "invalid float value: 'x'"),
        (("--search", "--by-size"), "not allowed with"),
        (("--reciprocal-rank", "--rerank"), "no distances within the gallery"),
        (("--by-size", "--metric", "euclidean"), "needs --metric cosine"),
    ],
)
def test_a_users_mistake_is_one_message(run_tool, branches, args, message):
    status, _, shown = run_tool(*branches, *args)
    assert status == 2 and message in shown and "Traceback" not in shown


def test_a_branch_is_not_overwritten(run_tool, branches):
    before = [path.read_bytes() for path in sorted(branches[0].iterdir())]
    status, _, shown = run_tool(*branches, "--out", branches[0] / ".." / branches[0].name)
    assert status == 2 and "is the folder of a branch" in shown
    assert [path.read_bytes() for path in sorted(branches[0].iterdir())] == before


def test_one_branch_is_no_fusion(run_tool, branches):
    status, _, shown = run_tool(branches[0])
    assert status == 2 and "at least two folders" in shown


def test_folders_that_are_no_branch(run_tool, branches, tmp_path):
    status, _, shown = run_tool(branches[0], tmp_path / "nowhere")
    assert status == 2 and "nowhere has no query.npz and no gallery.npz, and no last.pth.tar" in shown
    (branches[1] / "train.npz").unlink()
    status, _, shown = run_tool(*branches, "--search")
    assert status == 2 and "branch1 has no train.npz" in shown
    (branches[1] / "query.npz").write_bytes(b"PK\x03\x04")
    status, _, shown = run_tool(*branches)
    assert status == 2 and "query.npz is not a readable feature file" in shown


def test_test_images_under_the_name_of_training_ones(run_tool, branches):
    FeatureSet.load(branches[0] / "query.npz").save(branches[0] / "train.npz")
    status, _, shown = run_tool(*branches, "--search")
    assert status == 2 and "train.npz holds the features of query images" in shown


def test_branches_of_other_images(run_tool, branches):
    whole = FeatureSet.load(branches[2] / "query.npz")
    replace(whole, names=["other.png", *whole.names[1:]]).save(branches[2] / "query.npz")
    status, _, shown = run_tool(*branches)
    assert status == 2 and "1 of 60 images differ in their name" in shown and "net2" in shown
