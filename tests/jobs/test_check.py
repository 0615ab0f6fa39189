"""What a configuration names is looked up before anything is trained, in every stage."""

import pytest
import torch

from torchreid_xres import host
from torchreid_xres.config import ConfigError, load_config
from torchreid_xres.jobs.check import check_names, check_networks, check_weights


@pytest.fixture
def given(tmp_path):
    """Return a function: overrides to a configuration that has nothing wrong but those."""

    def make(*overrides):
        sets = ["data.sources", ["folder"], "data.targets", ["folder"]]
        return load_config(None, [*sets, "use_gpu", False, "data.save_dir", str(tmp_path / "log"), *overrides])

    return make


def test_every_configuration_of_the_project_passes(repo):
    files = sorted((repo / "configs").glob("*.yaml"))
    assert files
    for path in files:
        check_names(load_config(path))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.name", "sr_ried"], r"model\.name is 'sr_ried'; did you mean 'sr_reid'\? There are: .*osnet_x0_25"),
        (["model.name", "x"], r"model\.name is 'x'\. There are: "),
        (["model.reid", "osnet_x0_24"], r"model\.reid is 'osnet_x0_24'; did you mean"),
        (["compare.models", ["resnet50", "resnet51"]], r"compare\.models is 'resnet51'; did you mean 'resnet50"),
        (["task", "trian"], r"task is 'trian'; did you mean 'train'\? There are: fuse, "),
        (["model.name", "sr_reid", "sr.name", "vdrs"], r"sr\.name is 'vdrs'; did you mean 'vdsr'"),
        (["model.name", "sr_reid", "sr.name", "omni_sr"], r"sr\.name is 'omni_sr'\. There are: bicubic"),
        (["model.name", "kgnet", "sr.name", "vdsr"], r"sr\.name is 'vdsr'\. There are: bicubic, omni_sr$"),
        (["data.sources", ["synth_persn"]], r"data\.sources is 'synth_persn'; did you mean 'synth_person'\? .*viper"),
        (["data.targets", ["market1502"]], r"data\.targets is 'market1502'; did you mean 'market1501'"),
        (["data.targets", []], r"data\.targets is empty"),
        (["data.sources", [["folder"]]], r"data\.sources is \['folder'\]"),
        (["data.options", {"foldr": {"lr_camera": "1"}}], r"data\.options is 'foldr'; did you mean 'folder'"),
        (["data.options", {"folder": {"lr_camra": "1"}}],
         r"data\.options: the data set 'folder' has no option 'lr_camra'; did you mean 'lr_camera'\? There are: "),
        (["data.split_id", 3], r"the splits 3 to 3 of 'folder'; it has 0 to 0$"),
        (["data.targets", ["caviar"], "data.sources", ["caviar"], "data.num_splits", 11],
         r"data\.split_id 0 and data\.num_splits 11 ask for the splits 0 to 10 of 'caviar'; it has 0 to 9"),
        (["data.targets", ["market1501"], "test.query_rates", [2.0]], r"test\.query_rates must be empty for 'mark"),
        (["data.transforms", ["pad_corp"]], r"data\.transforms is 'pad_corp'; did you mean 'pad_crop'"),
        (["model.name", "sr_reid", "model.options", {"foo": 1}],
         r"model\.options: the model 'sr_reid' takes no option 'foo'; it takes: freeze_sr, mean, reid, "),
        (["model.name", "resnet50", "model.options", {"foo": 1}], r"'resnet50' is a model of torchreid and takes no"),
        (["vpfa.modules", ["foo"]], r"vpfa\.modules names \['foo'\]; allowed: conditioned, mean"),
        (["vpfa.search", {"lrr": [1]}], r"vpfa\.search names \['lrr'\]; allowed: target"),
        (["test.expected", {"foldr": {"rank1": 1.0}}], r"test\.expected is of 'foldr'; did you mean 'folder'"),
        (["model.name", "sr_reid", "sr.name", "vdsr", "sr.options", {"dept": 3}],
         r"sr\.options: the front end 'vdsr' takes no option 'dept'; it takes: scale, .*depth, "),
        (["test.expected", {"folder": 60}], r"test\.expected\.folder holds the least value .*not 60"),
        (["train.max_epoch", 0, "train.start_epoch", 1], r"train\.start_epoch is 1, so that nothing is left to train"),
        (["train.max_epoch", 0, "train.patience", 2, "data.validation", 0.2, "test.eval_freq", 1],
         r"train\.patience must be 0 where train\.max_epoch is 0: there is no epoch to choose"),
        (["model.name", "resnet50", "train.sr_optimizer", "adam"],
         r"train\.sr_optimizer is 'adam', but model\.name 'resnet50' has no front end .* all but psh_rnet, sr_reid"),
        (["train.max_epoch", 3, "train.start_epoch", 3], r"train\.start_epoch is 3, so that nothing is left to train"),
        (["test.expected", {"folder": {"rank2": 60}}],
         r"test\.expected\.folder names 'rank2'; there are rank1, rank5, rank10, rank20, mAP, mINP"),
        (["model.name", "prpr_restorer", "test.expected", {"folder": {"psnr_x5": 20}}],
         r"test\.expected\.folder names 'psnr_x5'; there are those like \(psnr\|ssim\)_\(bicubic_\)\?x\[234\]"),
        (["stages", {"a": {}, "b": {"model": {"name": "x"}}}], r"stages\.b: model\.name is 'x'\. There are: "),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_refused(given, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_names(given(*overrides))


def test_what_the_host_was_taught_is_there(given, monkeypatch):
    monkeypatch.setitem(host.model_factory(), "mine", lambda **_: None)
    monkeypatch.setitem(host.image_datasets(), "my_set", host.ImageDataset)
    check_names(given("model.name", "mine", "data.targets", ["viper", "my_set"], "test.expected", {"my_set": {}}))


def test_an_earlier_stage_on_sets_of_one_split_is_for_all_splits(given):
    ten = ["data.sources", ["caviar"], "data.targets", ["caviar"], "data.num_splits", 10]
    one = {"data": {"sources": ["folder"], "targets": ["folder"]}}
    check_names(given(*ten, "stages", {"a": one, "b": {}}))
    with pytest.raises(ConfigError, match=r"stages\.b: .* the splits 0 to 9 of 'folder'"):
        check_names(given(*ten, "stages", {"a": {}, "b": one}))


def test_no_epoch_is_needed(given):
    check_names(given("train.max_epoch", 0))  # evaluated as loaded
    check_names(given("train.max_epoch", 0, "task", "fuse"))
    check_names(given("train.max_epoch", 0, "test.evaluate", True))
    check_names(given("model.name", "sr_reid", "train.sr_optimizer", "adam"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.load_weights", "x.pth"], r"model\.load_weights is 'x\.pth', and there is no file 'x\.pth'"),
        (["model.name", "sr_reid", "model.reid_weights", "{root}/x.pth"], r"reid_weights is '\{root\}/x\.pth', .* 'd"),
        (["model.name", "sr_reid", "sr.weights", "x.pth"], r"sr\.weights is 'x\.pth'"),
        (["model.name", "psh_rnet", "loss.ps.teacher", "x.pth"], r"loss\.ps\.teacher is 'x\.pth'"),
        (["compare.models", ["resnet50"], "compare.weights", "x.pth"], r"compare\.weights is 'x\.pth'"),
        (["model.resume", "x.pth"], r"model\.resume is 'x\.pth'"),
        (["model.name", "kgnet", "model.options", {"hourglass_weights": "{root}/x"}], r"hourglass_weights is .* 'd/x'"),
        (["model.name", "asymmetric", "model.gallery_run", "x"], r"gallery_run is 'x', which is no folder of a run"),
        (["model.name", "asymmetric", "model.reid_weights", "x.pth"], r"model\.reid_weights is 'x\.pth'"),
        (["test.evaluate", True, "model.load_weights", "x.pth"], r"model\.load_weights is 'x\.pth'"),
        (["stages", {"a": {}, "b": {"model": {"load_weights": "x"}}}], r"stages\.b: model\.load_weights is 'x'"),
    ],
)
def test_weights_that_are_not_there(given, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_weights(given("data.root", "d", *overrides))


def test_weights_that_are_there_or_not_read_or_yet_to_come(given, tmp_path):
    (tmp_path / "x.pth").touch()
    check_weights(given("data.root", str(tmp_path), "model.load_weights", "{root}/x.pth"))
    check_weights(given("model.name", "resnet50", "model.reid_weights", "none", "compare.weights", "none"))
    check_weights(given("model.name", "sr_reid", "test.evaluate", True, "sr.weights", "none", "model.resume", "none"))
    check_weights(given("model.name", "msifla", "model.options", {"scale_weights": [3.0, 1.0]}))
    check_weights(given("model.name", "asymmetric", "model.gallery_run", "{a}", "model.reid_weights", "none"))
    check_weights(given("stages", {"a": {}, "b": {"model": {"load_weights": "{a}/last.pth.tar"}}}))


def test_a_file_is_no_folder(given, tmp_path):
    file = tmp_path / "a.jpg"
    file.touch()
    for path in (file, file / "log"):
        with pytest.raises(ConfigError, match=r"data\.save_dir is '.*', but '.*a\.jpg' is a file; it names a"):
            check_names(given("data.save_dir", str(path)))


def test_a_gpu_that_is_not_there(given, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"use_gpu is True, and torch finds no GPU here; use_gpu False works"):
        check_names(given("use_gpu", True))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.name", "hacnn"], "data.height 256 and data.width 128 do not fit hacnn: Input size does not"),
        (["model.name", "sr_reid", "model.reid", "mudeep", "data.height", 64], "do not fit mudeep: mat1 and mat2"),
        (["compare.models", ["densenet121"], "data.height", 33, "data.width", 17], "do not fit densenet121: Given inp"),
        (["model.name", "sr_reid", "sr.name", "vdsr", "sr.options", {"depth": 1}], "sr_reid cannot be built: .*at"),
        (["model.name", "kgnet"], "kgnet needs a trained hourglass: set model.options.hourglass_weights"),
        (["stages", {"a": {"model": {"name": "hacnn"}}, "b": {}}], "stages.a: data.height 256"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_data(given, overrides, message):
    overrides = ["model.reid", "osnet_x0_25", "model.name", "osnet_x0_25", *overrides]
    state = torch.get_rng_state()
    with pytest.raises(ConfigError, match=message):
        check_networks(given(*overrides))
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_that_fit_pass_and_what_is_not_trained_is_not_built(given):
    check_networks(given("model.name", "hacnn", "data.height", 160, "data.width", 64))
    check_networks(given("model.name", "hacnn", "test.evaluate", True))
    check_networks(given("model.name", "hacnn", "task", "fuse"))
