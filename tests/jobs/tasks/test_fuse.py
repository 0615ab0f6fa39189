"""PRPR as a job: all stages in order, fused records, and the whole model out of its parts."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_jobs import TINY, configured
from torch.nn import functional as F

from torchreid_xres.config import ConfigError, load_config, stage_configs
from torchreid_xres.engine.base import LAST
from torchreid_xres.features.fusion import Search, fused_sets
from torchreid_xres.jobs.extraction import engine_features, run_features, trained_engine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.run import Run
from torchreid_xres.jobs.tasks import fuse
from torchreid_xres.models.prpr import LEVELS
from torchreid_xres.models.weights import load_weights

BRANCH = {"model": {"name": "tiny_net", "options": None}}
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


@pytest.fixture(scope="module")
def ended(tiny_root, tmp_path_factory):
    """A job that has done all stages: its configuration and its records."""
    cfg = configured(TINY, tiny_root, tmp_path_factory.mktemp("ended"), CHANGES)
    return cfg, run_job(cfg)


@pytest.fixture
def job(ended, tmp_path):
    """A copy of it, to write into."""
    cfg, records = copy.deepcopy(ended)
    kept, cfg.data.save_dir = cfg.data.save_dir, str(tmp_path / "run")
    shutil.copytree(kept, cfg.data.save_dir)
    return cfg, records


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
        assert F.cosine_similarity(own.features, fused[role].features).min() > 0.9999
    assert [whole[key] for key in ("rank1", "mAP")] == pytest.approx([records[-1][key] for key in ("rank1", "mAP")])
    assert whole["feature_dim"] == 4 * 512
    assert whole["parameters"] == records[-1]["parameters"]


def test_one_network_learns_what_the_stages_learn(job):
    """Of one batch: what each branch sees, its loss, and its parameters after a step."""
    cfg, _ = job
    home = Path(cfg.data.save_dir) / "split0" / "prpr"

    def engine_of(name, folder):
        run = Run.load(home / folder)
        run.cfg.task, run.cfg.data.transforms, run.model_name = "train", [], name
        engine = run.engine()
        load_weights(engine.model, home / folder / LAST, strict=True)
        engine.set_model_mode("train")
        return engine

    whole = engine_of("prpr", "fused")
    data = next(iter(whole.train_loader))
    views = whole._views(data)
    whole._views = lambda data: views
    summary = whole.forward_backward(data)
    assert summary["loss"] == pytest.approx(sum(summary[level] for level in LEVELS), rel=1e-6)
    assert sum(p.numel() for p in whole.model.branches.parameters()) == 4 * sum(
        p.numel() for p in whole.model.branches["x1"].parameters()
    )
    for level in LEVELS:
        branch = engine_of("tiny_net", level)
        dataset = branch.datamanager.train_loader.dataset
        at = {path: index for index, (path, *_) in enumerate(dataset.data)}
        read = torch.stack([dataset[at[path]]["img"] for path in data["impath"]])
        off = (views[level] - read).abs()
        assert off.max() < 1.5 / 255 / 0.224 and (off > 1e-3).float().mean() < 0.02  # single grey levels
        alone = branch.forward_backward({**data, "img": views[level]})
        assert alone["loss"] == pytest.approx(summary[level], rel=1e-5)
        for one, other in zip(whole.model.branches[level].parameters(), branch.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_each_branch_begins_from_numbers_of_its_own(repo, tiny_config, tmp_path):
    branches = [own for name, own in stage_configs(load_config(repo / "configs" / "prpr_mlr_market.yaml",
                ["train.seed", 3])).items() if name in LEVELS]  # fmt: skip
    assert [own.train.seed + own.train.seed_offset for own in branches] == [3, 103, 203, 303]
    plain = {"model__name": "tiny_net", "data__pairs": False}
    engines = [own_runs(tiny_config(**plain, train__seed=seed, train__seed_offset=more), 0, tmp_path)[0].engine()
               for seed, more in ((1, 0), (1, 100), (101, 0))]  # fmt: skip
    first, second, third = (next(engine.model.parameters()) for engine in engines)
    assert torch.equal(second, third) and not torch.equal(first, second)
    assert [engine.run_facts["seed"] for engine in engines] == [1, 101, 101]


@pytest.mark.slow
def test_weights_are_searched_on_identities_that_no_branch_was_trained_on(tiny_config):
    stages = {name: dict(stage) for name, stage in CHANGES["stages"].items()}
    for name in ("x1", "x2", "x3", "x4"):
        stages[name]["train"] = {"patience": 1}
    stages["x1"]["test"] = stages["x2"]["test"] = stages["x3"]["test"] = stages["x4"]["test"] = {"eval_freq": 1}
    cfg = tiny_config(**CHANGES | {"stages": stages, "data__validation": 0.5, "train__batch_size": 8})
    records = run_job(cfg)
    assert all(record["train_identities"] == 4 for record in records[2:6])
    plain, searched = sorted(records[-2:], key=lambda record: "search" in record)
    epochs = [{**record["chosen"][0], "model": record["model"]} for record in records[2:6]]
    assert plain["chosen"][:4] == epochs and {entry["on"] for entry in epochs} == {"validation"}
    assert searched["chosen"] == [*epochs, {"what": "fusion.weights", "on": "validation"}]
    assert searched["search"]["on"] == "validation" and searched["search"]["identities"] == 2


WEIGHTS = (1.0, 0.0, 0.0, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize(("checked", "own"), [(60.0, WEIGHTS), (49.0, (2.0, 1.0, 1.0, 1.0))])
def test_weights_chosen_on_the_validation_part_are_the_stages_own_unless_others_refute_them(
    job, monkeypatch, checked, own
):
    cfg, _ = job
    found = Search(WEIGHTS, "mAP", 0, "validation", 4, 9, 9, 50.0, 70.0, checked_start=50.0, checked=checked)
    monkeypatch.setattr(fuse, "search_weights", lambda *_, **__: found)
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[-1]
    *_, record = run.work()
    shown = "searched" if own == WEIGHTS else "2:1:1:1"
    assert (record["stage"], record["model"]) == ("fused", f"prpr [fused] ({shown})")
    assert record["chosen"] == [{"what": "fusion.weights", "on": "validation"}]
    assert tuple(Run.load(run.folder).cfg.fusion.weights) == own
    cfg.test.evaluate = True
    (again,) = own_runs(cfg, 0, Path(cfg.data.save_dir))[-1].evaluate()
    assert again["mAP"] == pytest.approx(record["mAP"])


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
    state["models"]["model"]["conv1.0.weight"] += 1
    torch.save(state, home / LAST)
    assert run_features(home)["query"].weights_sha256 != found["query"].weights_sha256


def test_a_run_is_found_again_in_its_folder(job):
    cfg, _ = job
    run = Run.load(Path(cfg.data.save_dir) / "split0" / "prpr" / "x3")
    assert (run.label, run.stage, run.split) == ("tiny_net [x3]", "x3", 0)
    assert run.cfg.data.pictures.endswith("pyramid/x3")
    with pytest.raises(FileNotFoundError, match="is no folder of a run"):
        Run.load(Path(cfg.data.save_dir))


def test_what_cannot_be_fused_is_refused(tiny_config, tmp_path):
    (run,) = own_runs(tiny_config(task="fuse"), 0, tmp_path)
    with pytest.raises(ConfigError, match=r"there are 4 fusion.weights, and fusion.branches names 0"):
        run.work()
    with pytest.raises(ConfigError, match=r"fusion\.search is 'everything'\. Allowed: 'all', 'size'"):
        tiny_config(task="fuse", model__name="prpr", fusion={"search": ["everything"]})
