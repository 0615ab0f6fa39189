"""Rows at the papers' sizes, tried on what stands in for the set."""

import pytest

from torchreid_xres.config import stage_configs
from torchreid_xres.data.base import DATASETS


@pytest.fixture
def dry(benchmark_module, monkeypatch):
    module = benchmark_module("dry")
    monkeypatch.setattr(module, "SMALL", module.SMALL | {"train_identities": 2, "test_identities": 2})
    return module


@pytest.mark.parametrize("name", ["mlr_market1501", "mlr_cuhk03", "veri776_x8"])
def test_a_stand_in_is_read_like_the_set(dry, name, tmp_path):
    root = dry.stand_in(name, tmp_path)
    split = DATASETS[name].build(root=str(root), check_counts=False, verbose=False).split
    assert len({image.pid for image in split.train}) == 2
    assert split.query and {image.pid for image in split.query} <= {image.pid for image in split.gallery}
    assert any(image.low for image in split.query)
    assert dry.stand_in(name, tmp_path) == root  # drawn once


def test_keypoints_are_those_of_the_drawn_vehicles(dry, tmp_path):
    from torchreid_xres.keypoints.annotations import read_annotations

    folder = dry.stand_in("veri776_x8", tmp_path) / "VeRi"
    for kind, parts in (("train", ["image_train"]), ("test", ["image_query", "image_test"])):
        images = [str(path) for part in parts for path in (folder / part).iterdir()]
        assert read_annotations(folder / f"keypoint_{kind}.txt").compare(images) == ([], [])


@pytest.mark.parametrize("suite", ["mlr_market", "mlr_cuhk03", "veri776_x8"])
def test_every_stage_of_every_row_takes_one_small_step(dry, benchmark_module, suite, tmp_path):
    suites = benchmark_module("suites")
    for row in suites.suite_of(suite).rows.values():
        for stage in stage_configs(suites.configured(row, 1, dry.dry_changes(row, tmp_path))).values():
            assert (stage.train.max_epoch, stage.train.epoch_batches) == (1, 1) and stage.train.batch_size <= 8
            assert not stage.model.pretrained and stage.train.batch_size % stage.sampler.num_instances == 0


def test_other_sets_have_none(dry, benchmark_module, tmp_path, capsys):
    accuracy = benchmark_module("accuracy")
    assert accuracy.main(["--suite", "mlr_viper", "--dry", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "mlr_market1501, mlr_cuhk03, veri776_x8, not those of mlr_viper" in told


@pytest.mark.slow
def test_a_row_is_run_dry(dry, benchmark_module, tmp_path, capsys):
    accuracy = benchmark_module("accuracy")
    argv = ["--suite", "mlr_market", "--dry", "--only", "osnet_x1_0", "--images-a-second", "400"]
    assert accuracy.main([*argv, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "| osnet_x1_0 | 2.17 " in told and "there (h)" in told and "cannot be run" not in told
