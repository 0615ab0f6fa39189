"""PRPR as a job: all stages in order, fused records, and the whole model out of its parts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.config import ConfigError
from torchreid_xres.engine.base import LAST
from torchreid_xres.features.fusion import fused_sets
from torchreid_xres.jobs.extraction import engine_features, run_features, trained_engine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.run import Run

BRANCH = {"model": {"name": "osnet_x0_25", "options": None}}
CHANGES = {
    "model__name": "prpr",
    "model__options": {
        "trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4,
    },
    "stages": {
        "restorer": {"model": {"name": "prpr_restorer"}, "train": {"epoch_batches": 2, "lr": 0.001}},
        "pyramid": {"task": "restore", "model": {"name": "prpr_restorer", "load_weights": "{restorer}/" + LAST}},
        **{x: {**BRANCH, "data": {"pictures": "{pyramid}/" + x}} for x in ("x1", "x2", "x3", "x4")},
        "fused": {
            "task": "fuse",
            "sr": {"weights": "{restorer}/" + LAST},
            "fusion": {"branches": ["{x1}", "{x2}", "{x3}", "{x4}"], "search": ["all"]},
        },
    },
    "data__pairs": False,
    "train__max_epoch": 1,
    "test__dist_metric": "cosine",
}  # fmt: skip


@pytest.fixture
def job(tiny_config):
    cfg = tiny_config(**CHANGES)
    return cfg, run_job(cfg)


def test_all_stages_run_once_and_the_whole_model_evaluates(job):
    cfg, records = job
    stages = [r["stage"] for r in records]
    assert stages == ["restorer", "pyramid", "x1", "x2", "x3", "x4", "fused, searched", "fused"]
    assert run_job(cfg) == records
    home = Path(cfg.data.save_dir) / "split0" / "prpr"

    # The fusion is the branches' own features at 2:1:1:1, through an explicit sum of distances.
    branches = [run_features(home / x, ("query", "gallery")) for x in ("x1", "x2", "x3", "x4")]
    query, gallery = ([F.normalize(b[role].features) for b in branches] for role in ("query", "gallery"))
    distance = sum(w * (1 - q @ g.T) for w, q, g in zip((2, 1, 1, 1), query, gallery, strict=True))
    first = branches[0]
    nearest = first["gallery"].pid[distance.argmin(1).numpy()]
    assert records[-1]["rank1"] == pytest.approx(100 * np.mean(nearest == first["query"].pid))

    cfg.test.evaluate = True
    (whole,) = run_job(cfg)
    fused = fused_sets(*([branch[role] for branch in branches] for role in ("query", "gallery")), (2, 1, 1, 1))
    run, engine = trained_engine(home / "fused")
    for role, own in engine_features(run, engine, ("query", "gallery")).items():
        assert F.cosine_similarity(own.features, fused[role].features).min() > 0.995
    assert whole["feature_dim"] == 4 * 512
    assert whole["parameters"] == records[-1]["parameters"]


@pytest.mark.slow
def test_weights_are_searched_on_identities_that_no_branch_was_trained_on(tiny_config):
    stages = {name: dict(stage) for name, stage in CHANGES["stages"].items()}
    for name in ("x1", "x2", "x3", "x4"):
        stages[name]["train"] = {"patience": 1}
    stages["x1"]["test"] = stages["x2"]["test"] = stages["x3"]["test"] = stages["x4"]["test"] = {"eval_freq": 1}
    records = run_job(tiny_config(**CHANGES | {"stages": stages, "data__validation": 0.5, "train__batch_size": 8}))
    assert all(record["train_identities"] == 4 for record in records[2:6])
    searched, plain = records[-2:]
    epochs = [{**record["chosen"][0], "model": record["model"]} for record in records[2:6]]
    assert plain["chosen"] == epochs and {entry["on"] for entry in epochs} == {"validation"}
    assert searched["chosen"] == [*epochs, {"what": "fusion.weights", "on": "validation"}]
    assert searched["search"]["on"] == "validation" and searched["search"]["identities"] == 2


def test_features_are_kept_until_the_weights_change(job):
    cfg, _ = job
    home = Path(cfg.data.save_dir) / "split0" / "prpr" / "x2"
    before = (home / "features" / "query.npz").stat().st_mtime_ns
    found = run_features(home)
    assert (home / "features" / "query.npz").stat().st_mtime_ns == before
    assert set(found) == {"train", "query", "gallery"} and found["train"].role == "train"
    kept = [(home / "features" / f"{role}.npz").stat().st_mtime_ns for role in found]
    run_features(home)
    assert [(home / "features" / f"{role}.npz").stat().st_mtime_ns for role in found] == kept
    assert found["query"].names[0].count("/") >= 1 and (found["query"].size > 0).all()
    state = torch.load(home / LAST, weights_only=True)
    state["models"]["model"]["conv1.conv.weight"] += 1
    torch.save(state, home / LAST)
    assert run_features(home)["query"].weights_sha256 != found["query"].weights_sha256


def test_a_run_is_found_again_in_its_folder(job):
    cfg, _ = job
    run = Run.load(Path(cfg.data.save_dir) / "split0" / "prpr" / "x3")
    assert (run.label, run.stage, run.split) == ("osnet_x0_25 [x3]", "x3", 0)
    assert run.cfg.data.pictures.endswith("pyramid/x3")
    with pytest.raises(FileNotFoundError, match="is no folder of a run"):
        Run.load(Path(cfg.data.save_dir))


def test_what_cannot_be_fused_is_refused(tiny_config, tmp_path):
    (run,) = own_runs(tiny_config(task="fuse"), 0, tmp_path)
    with pytest.raises(ConfigError, match=r"there are 4 fusion.weights, and fusion.branches names 0"):
        run.work()
    with pytest.raises(ConfigError, match=r"fusion\.search is 'everything'\. Allowed: 'all', 'size'"):
        tiny_config(task="fuse", model__name="prpr", fusion={"search": ["everything"]})
