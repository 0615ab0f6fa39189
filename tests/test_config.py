import math
import os
import re

import pytest
import torch
import yaml
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.config import (
    ConfigError,
    _deciding,
    check_config,
    config_hash,
    config_text,
    differing_keys,
    file_of,
    load_config,
    padding_of,
    stage_configs,
    value_of,
)
from torchreid_xres.config_keys import CHOICES, CHOICES_OF_LISTS, LIMITS, get_config
from torchreid_xres.data.degrade import KERNELS
from torchreid_xres.data.samplers import SAMPLERS
from torchreid_xres.engine.msifla import COUPLINGS
from torchreid_xres.models.hrnet_reid import HRNetReIDOutput
from torchreid_xres.yaml_text import write_yaml

HOST_KEYS = {
    "model": "name pretrained load_weights resume",
    "data": "type root sources targets workers split_id height width combineall transforms k_tfm norm_mean norm_std "
    "save_dir load_train_targets",
    "sampler": "train_sampler train_sampler_t num_instances num_cams num_datasets",
    "train": "optim lr weight_decay max_epoch start_epoch batch_size fixbase_epoch open_layers staged_lr new_layers "
    "base_lr_mult lr_scheduler stepsize gamma print_freq seed",
    "test": "batch_size dist_metric normalize_feature ranks evaluate eval_freq start_eval rerank visrank visrank_topk",
}


@pytest.mark.parametrize("group", HOST_KEYS)
def test_the_hosts_public_keys_are_all_there(group):
    assert set(HOST_KEYS[group].split()) <= set(get_config()[group])


def test_no_key_hides_behind_a_method_of_the_configuration():
    def names(node):
        return {*node} | {n for inner in node.values() if isinstance(inner, CfgNode) for n in names(inner)}

    assert [name for name in names(get_config()) if hasattr(CfgNode, name)] == []


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_base_files_are_read_first_and_relative_to_the_child(tmp_path):
    (tmp_path / "_base_").mkdir()
    write(tmp_path / "_base_", "old.yaml", {"train": {"lr": 0.1, "max_epoch": 7}, "sr": {"options": {"depth": 3}}})
    write(tmp_path / "_base_", "mid.yaml", {"_BASE_": "old.yaml", "train": {"lr": 0.2}})
    path = write(tmp_path, "new.yaml", {"_BASE_": "_base_/mid.yaml", "sr": {"options": {"width": 8}}})
    cfg = load_config(path, ["train.max_epoch", "9"])
    assert cfg.train.lr == 0.2 and cfg.train.max_epoch == 9
    assert dict(cfg.sr.options) == {"depth": 3, "width": 8}


def test_a_circle_of_bases_is_refused(tmp_path):
    write(tmp_path, "a.yaml", {"_BASE_": "b.yaml"})
    write(tmp_path, "b.yaml", {"_BASE_": "a.yaml"})
    with pytest.raises(ConfigError, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.lrr", "1"], "unknown key 'train.lrr' in the command line; did you mean 'train.lr'"),
        (["train.max_epoch", "many"], "train.max_epoch in the command line must be of type int"),
        (["train.max_epoch", "1.5"], "must be of type int"),
        (["data.pairs", "1"], "must be of type bool"),
        (["train.lr", "True"], "must be of type float"),
        (["data.sources", "market1501"], "must be of type list"),
        (["data", "3"], "data in the command line is a group of keys"),
        (["train.precision", "bf61"], "train.precision is 'bf61'; did you mean 'bf16'"),
        (["loss.name", "arcface"], "loss.name is 'arcface'. Allowed: 'softmax', 'triplet'"),
        (["sampler.train_sampler", "IdentitySample"], "did you mean 'IdentitySampler'? Allowed: 'RandomSampler'"),
        (["sampler.train_sampler_t", "IdentitySampler"], "train_sampler_t is 'IdentitySampler'; did you mean 'Random"),
        (["data.rates", "[0.5]"], "data.rates must be numbers of at least 1"),
        (["data.height", "0"], "data.height must be at least 1"),
        (["train.lr"], "'train.lr' has no value"),
        (["train.lr", "[1"], "is not a YAML value"),
    ],
)
def test_wrong_keys_and_values_are_refused_by_name(overrides, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("?", r"\?")):
        load_config(None, overrides)


def test_the_samplers_to_choose_from_are_the_hosts_and_ours():
    hosts = set(host.module("data.sampler").AVAI_SAMPLERS)
    assert set(CHOICES["sampler.train_sampler"]) == hosts | {*SAMPLERS}
    assert set(CHOICES["sampler.train_sampler_t"]) == hosts


def test_the_kernels_couplings_and_outputs_to_choose_from_are_those_there_are():
    assert CHOICES["data.kernel"] == KERNELS and CHOICES["loss.msifla.coupling"] == tuple(COUPLINGS)
    one = torch.zeros(1)
    assert CHOICES_OF_LISTS["loss.ps.terms"] == tuple(HRNetReIDOutput((one,) * 5, one, one).named())


def test_the_optimisers_and_schedules_to_choose_from_are_the_hosts():
    assert set(CHOICES["train.optim"]) == set(host.module("optim.optimizer").AVAI_OPTIMS)
    assert set(CHOICES["train.lr_scheduler"]) == set(host.module("optim.lr_scheduler").AVAI_SCH)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_config(write(tmp_path, "x.yaml", text))


def test_a_missing_file_and_a_missing_base_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*none\.yaml"):
        load_config(tmp_path / "none.yaml")
    path = write(tmp_path, "x.yaml", {"_BASE_": "none.yaml"})
    with pytest.raises(ConfigError, match=r"none\.yaml \(named as _BASE_ in .*x\.yaml"):
        load_config(path)


def test_numbers_in_text_form_and_whole_numbers_serve_as_floats():
    cfg = load_config(None, ["train.lr", "1e-3", "train.weight_decay", "0"])
    assert cfg.train.lr == 1e-3 and cfg.train.weight_decay == 0.0 and isinstance(cfg.train.weight_decay, float)


def test_text_is_taken_as_it_stands():
    cfg = load_config(None, ["model.load_weights", "{root}/w.pth", "sr.name", "3", "model.reid_weights", ""])
    assert (cfg.model.load_weights, cfg.sr.name, cfg.model.reid_weights) == ("{root}/w.pth", "3", "")


def test_a_number_needs_no_point_wherever_it_stands(tmp_path):
    text = "data: {rates: [1e1, +2E0, 4]}\nsr: {options: {a: 1e9, b: [.5e-3], c: '1e9'}}\ntrain: {lr: 3e-4}"
    for cfg in (
        load_config(write(tmp_path, "a.yaml", text)),
        load_config(
            None,
            ["data.rates", "[1e1, +2E0, 4]", "sr.options", "{a: 1e9, b: [.5e-3], c: '1e9'}", "train.lr", "3e-4"],
        ),
    ):
        assert cfg.data.rates == [10.0, 2.0, 4] and cfg.train.lr == 3e-4
        assert cfg.sr.options == {"a": 1e9, "b": [0.0005], "c": "1e9"}
        again = load_config(write(tmp_path, "again.yaml", config_text(cfg)))
        assert config_hash(again) == config_hash(cfg) and again == cfg


@pytest.mark.parametrize("text", ["train: {lr: 1, lr: 2}", "train: {lr: 1}\nuse_gpu: false\ntrain: {max_epoch: 3}"])
def test_a_key_twice_is_refused_with_its_lines(tmp_path, text):
    lines = "line 1 and again in line 1" if "\n" not in text else "line 1 and again in line 3"
    with pytest.raises(ConfigError, match=rf"a\.yaml is not YAML: the key '(lr|train)' is in {lines}"):
        load_config(write(tmp_path, "a.yaml", text))
    with pytest.raises(ConfigError, match=r"sr\.options: .*the key 'a' is in line 1"):
        load_config(None, ["sr.options", "{a: 1, b: 2, a: 3}"])


def test_a_child_may_say_otherwise_than_what_it_merges(tmp_path):
    text = "sr: {options: &a {depth: 3, width: 8}}\nmodel: {options: {<<: *a, width: 9}}"
    assert load_config(write(tmp_path, "a.yaml", text)).model.options == {"depth": 3, "width": 9}


def test_a_flood_of_values_out_of_a_few_lines_is_refused_at_once(tmp_path):
    lists = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))
    merged = "\n".join(f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}]}}" for i in range(1, 40))
    for text in (f"a0: &a0 [1]\n{lists}", f"b0: &b0 {{k: 1}}\n{merged}"):
        with pytest.raises(ConfigError, match=r"line 6 stands for more than 100000 values"):
            load_config(write(tmp_path, "a.yaml", text))
    with pytest.raises(ConfigError, match="the group of line 1 is within itself"):
        load_config(write(tmp_path, "a.yaml", "sr: &a {options: {x: *a}}"))


def test_what_is_no_file_of_a_bounded_length_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for base, reason in (("pipe", "a pipe or a device"), ("/dev/zero", "a pipe or a device"), (".", "a folder")):
        with pytest.raises(ConfigError, match=rf"\(named as _BASE_ in .*cannot be read: it is .*{reason}"):
            load_config(write(tmp_path, "a.yaml", {"_BASE_": base}))
    with open(tmp_path / "long.yaml", "wb") as file:
        file.truncate(2**40)  # a hole, which takes no room
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        load_config(tmp_path / "long.yaml")


def test_files_built_on_files_have_an_end(tmp_path):
    for i in range(150):
        write(tmp_path, f"chain{i}.yaml", {"_BASE_": f"chain{i + 1}.yaml"})
        write(tmp_path, f"fan{i}.yaml", {"_BASE_": [f"fan{i + 1}.yaml"] * 2})
    write(tmp_path, "fan150.yaml", {})
    for first in ("chain0.yaml", "fan60.yaml"):
        with pytest.raises(ConfigError, match="is built on more than 100 files"):
            load_config(tmp_path / first)


def numeric(node, prefix=""):
    """Every key whose value is a number, or a list of numbers, or an empty list that is for them."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, CfgNode):
            yield from numeric(value, f"{key}.")
        elif isinstance(value, list):
            if not value or not isinstance(value[0], str):
                yield key
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield key


OF_NAMES = {"compare.models", "fusion.branches", "fusion.search"}  # lists that are empty and not for numbers


def test_every_number_has_limits_and_every_default_keeps_them():
    assert set(numeric(get_config())) - OF_NAMES == set(LIMITS)
    check_config(get_config())


@pytest.mark.parametrize("key", LIMITS)
def test_numbers_out_of_their_limits_and_those_that_are_none_are_refused(key):
    default, (least, most) = value_of(get_config(), key), LIMITS[key]
    many = isinstance(default, list)
    wrong = [math.nan, math.inf, -math.inf] if many or isinstance(default, float) else []
    wrong += [value for value in (least - 1, most + 1) if math.isfinite(value)]
    for value in wrong:
        value = value if isinstance(default, float) or not math.isfinite(value) else round(value)
        given = [value] * (len(default) or 1) if many else value
        with pytest.raises(ConfigError, match=rf"^{re.escape(key)} must be "):
            load_config(None, [key, given])
        with pytest.raises(ConfigError, match=rf"^{re.escape(key)} must be "):
            load_config(None, [key, write_yaml(given)])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.clip_grad", ".nan"], "train.clip_grad must be at least 0, not nan"),
        (["train.warmup_factor", "0"], "train.warmup_factor must be above 0 and at most 1, not 0.0"),
        (["adam.beta1", "1"], "adam.beta1 must be at least 0 and below 1, not 1.0"),
        (["train.stepsize", "[]"], "train.stepsize must be whole numbers of at least 1, not []"),
        (["test.ranks", "[1.5]"], "test.ranks must be whole numbers of at least 1, not [1.5]"),
        (["fusion.weights", "[1, x]"], "fusion.weights must be numbers of at least 0, not [1, 'x']"),
        (["data.norm_std", "[1, 1]"], "data.norm_std holds a number for each of the three colours, not [1, 1]"),
        (["sr.options", "{a: [.inf]}"], "sr.options.a.0 is inf, which is no finite number"),
        (["test.expected", "{folder: {rank1: .nan}}"], "test.expected.folder.rank1 is nan, which is no finite"),
        (["data.save_dir", ""], "data.save_dir is empty"),
        (["stages", "{../../x: {}}"], "stages.../../x cannot be the name of a stage"),
        (["stages", "{root: {}}"], "stages.root cannot be the name of a stage"),
        (["stages", "{'': {}}"], "stages. cannot be the name of a stage"),
    ],
)
def test_values_that_cannot_be_are_refused_by_key(overrides, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        load_config(None, overrides)


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = load_config(None, ["data.save_dir", "~", "data.root", "~/data", "model.load_weights", "~/w.pth"])
    assert (cfg.data.save_dir, cfg.data.root) == ("/home/me", "/home/me/data")
    assert file_of(cfg, cfg.model.load_weights) == "/home/me/w.pth"
    assert config_hash(cfg) == config_hash(load_config(None, ["model.load_weights", "~/w.pth"]))


def test_a_written_configuration_keeps_its_stages_in_order(tmp_path):
    cfg = load_config(None, ["stages", "{second: {}, first: {}, a: {model: {load_weights: '{second}/x'}}}"])
    assert list(load_config(write(tmp_path, "a.yaml", config_text(cfg))).stages) == ["second", "first", "a"]


def test_fp16_needs_a_gpu():
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        load_config(None, ["use_gpu", "False", "train.precision", "fp16"])


def test_the_dump_of_a_configuration_loads_to_the_same(tmp_path):
    cfg = load_config(None, ["train.lr", "0.5", "data.options", "{folder: {lr_camera: '2'}}"])
    again = load_config(write(tmp_path, "dump.yaml", config_text(cfg)))
    assert config_hash(again) == config_hash(cfg) and again == cfg


def test_the_hash_forgets_where_things_lie_and_remembers_what_matters():
    base = config_hash(get_config())
    assert config_hash(load_config(None, ["data.root", "/x", "data.workers", "0", "test.evaluate", "True"])) == base
    for change in (["train.lr", "0.1"], ["data.kernel", "bicubic"], ["sr.options", "{depth: 3}"]):
        assert config_hash(load_config(None, change)) != base


def test_bits_of_grey_count_only_where_they_are_not_the_files():
    assert "grey_bits" not in _deciding(load_config())["data"]  # jobs made before there was the key go on
    deep = load_config(None, ["data.grey_bits", "12"])
    assert differing_keys(deep, load_config()) == ["data.grey_bits"]
    with pytest.raises(ConfigError, match=r"data\.grey_bits must be at least 8 and at most 16, not 20"):
        load_config(None, ["data.grey_bits", "20"])


def test_a_mirrored_border_is_another_experiment_and_a_black_one_is_that_of_before():
    def made(*changes):
        return load_config(None, ["data.transforms", "[random_flip, pad_crop]", *changes])

    pairs = ("data.pairs", "True")
    for cfg in (made(), made("data.padding", "official"), made(*pairs, "data.padding", "official")):
        assert padding_of(cfg) == "official" and "padding" not in _deciding(cfg)["data"]
    assert padding_of(made(*pairs)) == "reflect" and padding_of(made(*pairs), pairs=False) == "official"
    assert config_hash(made(*pairs)) == config_hash(made(*pairs, "data.padding", "reflect"))
    assert differing_keys(made(*pairs), made(*pairs, "data.padding", "official")) == ["data.padding"]
    for transforms in ("[random_flip]", "[]"):  # there is no border
        plain = load_config(None, [*pairs, "data.transforms", transforms])
        assert "padding" not in _deciding(plain)["data"]
    with pytest.raises(ConfigError, match=r"data\.padding is 'black'.* Allowed: '', 'reflect', 'official'"):
        made("data.padding", "black")


@pytest.mark.parametrize("method", ["psh_rnet", "kgnet", "dgrl", "msifla"])
def test_methods_that_learn_from_low_views_of_cut_images_mirror_their_border(repo, method):
    last = list(stage_configs(load_config(repo / f"configs/_base_/{method}.yaml")).values())[-1]
    assert "pad_crop" in last.data.transforms and padding_of(last) == "reflect"


def test_every_config_in_the_project_loads(repo):
    files = sorted((repo / "configs").rglob("*.yaml"))
    assert files
    for path in files:
        check_config(load_config(path))


def test_null_empties_a_free_group():
    cfg = load_config(None, ["sr.options", {"depth": 3}, "sr.options", None, "sr.options", {"width": 2}])
    assert cfg.sr.options == {"width": 2}
    assert load_config(None, ["sr.options", {"depth": 3}, "sr.options", "{}"]).sr.options == {}
