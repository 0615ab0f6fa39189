"""The keypoint engine in the host's loop, on a few drawn vehicles and a tiny network."""

import json
from pathlib import Path

import pytest
import torch

from torchreid_xres import checkpoint
from torchreid_xres.config import load_config
from torchreid_xres.data import round_trip
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.keypoints import KeypointEngine
from torchreid_xres.features.keypoint_tables import keypoint_table
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.keypoints import KEYPOINTS, TARGETS, KeypointTable, flip_points, gaussian_maps, heatmap_loss
from torchreid_xres.models import build_model
from torchreid_xres.models.weights import load_weights

TINY = {
    "model.options": {"stacks": 2, "depth": 2, "width": 8},
    "data.height": 64,
    "data.width": 64,
    "data.options.synth_vehicle": {
        "train_identities": 2, "test_identities": 2, "cameras": 2, "images_per_camera": 3, "query_rate": 1.0,
        "train_low": False,
    },
    "train.batch_size": 4,
    "train.max_epoch": 2,
    "use_gpu": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory):
    return tmp_path_factory.mktemp("vehicles")


@pytest.fixture
def config(repo, vehicles, tmp_path):
    """Return a function: overrides (dotted keys) to the project's configuration at a tiny size."""

    def make(**changes):
        keys = TINY | {"data.root": str(vehicles), "data.save_dir": str(tmp_path / "run")}
        keys |= {key.replace("__", "."): value for key, value in changes.items()}
        file = repo / "configs" / "keypoints_synth_vehicle.yaml"
        return load_config(file, [part for pair in keys.items() for part in pair])

    return make


@pytest.fixture
def engine(config):
    made = own_runs(config(), 0, Path(config().data.save_dir))[0].engine()
    made.set_model_mode("train")
    return made


def test_a_job_trains_scores_and_keeps_its_record(config):
    cfg = config()
    (record,) = run_job(cfg)
    kept = json.loads(next(Path(cfg.data.save_dir).rglob("results/synth_vehicle.json")).read_text())
    assert kept.items() <= record.items()
    assert record["test_images"] == 12 and record["protocol"]["rates"] == [8.0] and record["epoch"] == 2
    for figure in ("pck", "visibility", "pck_x8", "visibility_x8"):
        assert 0 <= record[figure] <= 100
    assert set(record["by_point"]) == {"pck", "pck_x8"} and set(record["by_point"]["pck"]) <= set(KEYPOINTS)
    assert "| synth_vehicle | hourglass_vehicle20 | x8" in keypoint_table([record])
    assert run_job(cfg) == [record]  # done already


def test_an_interrupted_run_ends_bit_for_bit_like_a_whole_one(config, tmp_path, monkeypatch):
    def weights(cfg):
        run_job(cfg)
        return checkpoint.load(next(Path(cfg.data.save_dir).rglob(LAST)))["models"]["model"]

    whole = weights(config(data__save_dir=str(tmp_path / "whole")))
    cfg = config(data__save_dir=str(tmp_path / "parts"))
    real = KeypointEngine.train

    def stop(self, *args, **kwargs):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(KeypointEngine, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            run_job(cfg)
    resumed = weights(cfg)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_its_weights_load_strictly_elsewhere(config):
    cfg = config(train__max_epoch=1)
    run_job(cfg)
    model = build_model("hourglass_vehicle20", **TINY["model.options"])
    assert load_weights(model, next(Path(cfg.data.save_dir).rglob(LAST)), strict=True) == []


def test_half_of_a_batch_is_low_and_some_is_mirrored_with_its_points(engine):
    img = torch.rand(16, 3, 64, 64)
    points = torch.rand(16, 20, 2)
    points[:, ::3] = -1.0
    seen, moved = engine.augment(img.clone(), points.clone())
    low = mirrored = 0
    for n in range(16):
        kinds = {
            (flip, rate): round_trip(view, (8, 8), engine.kernel, "bilinear") if rate else view
            for flip, view in ((False, img[n]), (True, img[n].flip(-1)))
            for rate in (False, True)
        }
        ((flip, rate),) = [kind for kind, view in kinds.items() if torch.allclose(view, seen[n], atol=1e-5)]
        torch.testing.assert_close(moved[n], flip_points(points[n]) if flip else points[n])
        low, mirrored = low + rate, mirrored + flip
    assert low == 8 and 2 <= mirrored <= 14


def test_several_rates_share_the_low_half(config):
    cfg = config(data__pair_rates=[2.0, 8.0])
    engine = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()
    img, points = torch.rand(8, 3, 64, 64), torch.rand(8, 20, 2)
    seen, _ = engine.augment(img, points)
    changed = []
    for n in range(8):
        views = {
            rate: [engine.lowered(view[None], rate)[0] for view in (img[n], img[n].flip(-1))] for rate in (2.0, 8.0)
        }
        changed += [rate for rate, two in views.items() if any(torch.allclose(v, seen[n], atol=1e-5) for v in two)]
    assert sorted(changed) == [2.0, 2.0, 8.0, 8.0]


def test_the_loss_is_that_of_the_pictures_points(engine, monkeypatch):
    monkeypatch.setattr(engine, "augment", lambda img, points: (img, points))
    engine.loss = "l1"
    batch = next(iter(engine.train_loader))
    loss = engine.losses(batch)["loss"]
    target = gaussian_maps(engine.table.points(batch["impath"]), (16, 16))
    torch.testing.assert_close(loss, heatmap_loss(engine.model(batch["img"]), target, "l1"))


@pytest.mark.parametrize("targets", TARGETS)
def test_a_perfect_network_is_right_everywhere(config, monkeypatch, targets):
    """Truth for predictions: plain and low pictures of all test vehicles, each once."""
    cfg = config(model__options={**TINY["model.options"], "targets": targets})
    engine = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()
    engine.set_model_mode("eval")
    real, asked = KeypointTable.points, []

    def points_of(table, paths):
        asked.extend(paths)
        points = real(table, paths)
        monkeypatch.setattr(engine.model, "forward", lambda img: TARGETS[targets](points, (32, 32)))
        return points

    monkeypatch.setattr(KeypointTable, "points", points_of)
    truth, found = engine._predictions("synth_vehicle", list(engine.test_loader["synth_vehicle"].values()))
    assert len(set(asked)) == len(truth) == 12
    assert set(found) == {"", "_x8"}
    visible = truth[..., 0] >= 0
    for points, unseen in found.values():
        assert (points - truth)[visible].abs().max() <= 0.5 / 32 + 1e-6
        assert torch.equal(unseen, ~visible)


def test_pictures_that_the_protocol_makes_low_are_left_out(config):
    options = {key: value for key, value in TINY["data.options.synth_vehicle"].items() if key != "query_rate"}
    cfg = config(data__options__synth_vehicle={**options, "query_rate": 8.0}, train__max_epoch=1)
    (record,) = run_job(cfg)
    assert record["test_images"] == 6  # the gallery's camera


def test_pictures_without_keypoints_are_left_out_of_the_training(config):
    cfg = config()
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    dataset = run.datamanager().train_loader.dataset
    file = Path(dataset.keypoints_file)
    whole = file.read_text()
    try:
        file.write_text("".join(line + "\n" for line in whole.splitlines() if "_00000003_" not in line))
        engine = run.engine()
        seen = {path for _ in range(3) for batch in engine.train_loader for path in batch["impath"]}
    finally:
        file.write_text(whole)
    assert len(seen) == 8 and not any("_00000003_" in path for path in seen)


@pytest.mark.parametrize("transforms", [["random_flip"], ["color_jitter", "random_crop"]])
def test_transforms_that_move_pixels_are_refused(config, transforms):
    cfg = config(data__transforms=transforms)
    with pytest.raises(ValueError, match="would move pictures away from their keypoints"):
        own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()


def test_other_people_have_no_keypoints(config, tiny_root):
    cfg = config(data__sources=["folder"], data__root=str(tiny_root))
    with pytest.raises(ValueError, match="folder has no keypoint annotation"):
        own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()


def test_the_configuration_for_real_vehicles_has_the_papers_network(repo):
    cfg = load_config(repo / "configs" / "keypoints_veri776.yaml")
    model = build_model(cfg.model.name, **cfg.model.options)
    assert (len(model.heads), model.depth, model.heads[0].in_channels, model.targets) == (3, 4, 256, "gaussian")
    assert KeypointEngine.engine_options(cfg)["loss"] == "l1"
