"""Configurations that come with the package are found by name, wherever one is."""

import pytest

from torchreid_xres.config import ConfigError, load_config
from torchreid_xres.config_files import config_folder, config_names, config_path
from torchreid_xres.engine.evaluation import tell_of_gap
from torchreid_xres.jobs.command import what_next


def test_a_name_is_the_packages_file(tmp_path, monkeypatch, repo):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config(repo / "configs" / "quickstart.yaml")
    assert set(config_names()) == {path.stem for path in (repo / "configs").glob("*.yaml")}


def test_a_path_works_as_before_and_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("train: {max_epoch: 7}\n")
    assert load_config("mine.yaml").train.max_epoch == load_config(tmp_path / "mine.yaml").train.max_epoch == 7
    (tmp_path / "quickstart").mkdir()  # a folder is no configuration
    assert config_path("quickstart") == config_folder() / "quickstart.yaml"
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text("train: {max_epoch: 8}\n")
    assert load_config("quickstart").train.max_epoch == 8


def test_a_file_can_be_built_on_a_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("_BASE_: quickstart\ntrain: {max_epoch: 7}\n")
    cfg = load_config(tmp_path / "mine.yaml")
    assert cfg.train.max_epoch == 7 and cfg.model.name == load_config("quickstart").model.name
    (tmp_path / "quickstart").write_text("model: {name: mlfn}\n")  # what lies beside the file is meant first
    assert load_config(tmp_path / "mine.yaml").model.name == "mlfn"


@pytest.mark.parametrize("asked", ["quickstrat", "quickstart.yml", "configs/quickstart.yaml"])
def test_a_name_that_is_none_is_told_with_the_nearest(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no configuration file .*; did you mean 'quickstart' of the package\?"):
        load_config(asked)
    with pytest.raises(ConfigError, match=r"no configuration file .*xyz$"):
        load_config("xyz")


def test_ones_own_images_are_set_against_plain_training_and_end_with_a_search(tmp_path):
    cfg = load_config("own_images", ["data.root", str(tmp_path), "data.save_dir", "log/mine"])
    assert cfg.compare.models == ["osnet_x0_25"] == [cfg.model.reid] and cfg.compare.weights == cfg.model.reid_weights
    report, search = what_next(cfg, [{"rank1": 50.0}]).splitlines()
    assert report == "next: xres report log/mine/split0 --out report.html"
    assert search == "next: xres search build log/mine/split0/sr_reid PICTURES --gallery log/mine/gallery"


def test_a_gap_that_is_none_is_told(caplog):
    for magnification in (None, 1.5, 3.0):
        tell_of_gap("folder", magnification)
    assert not caplog.records
    tell_of_gap("folder", 1.2)
    assert "folder has hardly a resolution gap here: the network enlarges its low queries 1.20 times" in caplog.text
