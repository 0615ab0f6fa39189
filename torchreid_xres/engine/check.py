"""What a configuration names is looked up before anything is trained or removed: a typo costs a second, not a night."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.config import ConfigError, as_dict, file_of, stage_configs, value_of
from torchreid_xres.data import DATASETS, dataset_options
from torchreid_xres.engine.job import has_splits
from torchreid_xres.engine.run import TASKS
from torchreid_xres.engine.vpfa import checked
from torchreid_xres.host_mends.data import TRANSFORMS
from torchreid_xres.models.registry import MODELS, require_options
from torchreid_xres.registry import did_you_mean
from torchreid_xres.sr import FRONT_ENDS
from torchreid_xres.sr.build import require_front_end_options


def check_names(cfg: CfgNode) -> None:
    """Refuse a configuration that names what does not exist, in any stage, or leaves nothing to train or evaluate.

    Looked up are tasks, models with their options, front ends, data sets, transforms, options of front ends, modules
    of VPFA, what ``test.expected`` expects figures of, whether ``data.save_dir`` can be a folder, and the GPU if one is
    asked for.
    Nothing is read, built or written.

    Args:
        cfg: a configuration as :func:`~torchreid_xres.config.load_config` returns it.

    Raises:
        ConfigError: naming the key, the stage if there are several, and what there is.

    Example:
        >>> from torchreid_xres.config import load_config
        >>> check_names(load_config(None, ["model.name", "osnet_x0_26"]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        torchreid_xres.config.ConfigError: model.name is 'osnet_x0_26'; did you mean 'osnet_x0_25'? There are: ...
    """
    for name in cfg.compare.models:
        _require("compare.models", name, host.model_factory())
    if cfg.compare.models:
        _check_epochs(cfg)
    stages = stage_configs(cfg)
    for stage, own in stages.items():
        try:
            _check_stage(own)
            if stage == list(stages)[-1] or has_splits(own):  # others are done once for all splits
                _check_splits(own)
        except ConfigError as error:
            raise ConfigError(f"stages.{stage}: {error}" if stage else str(error)) from None
    _check_expected(cfg.test.expected, list(stages.values())[-1].data.targets)


def check_weights(cfg: CfgNode) -> None:
    """Refuse a configuration whose files of weights are not there, in any stage; those of earlier stages are yet to be.

    Args:
        cfg: a configuration as :func:`~torchreid_xres.config.load_config` returns it.

    Raises:
        ConfigError: naming the key, the stage if there are several, and the file.

    Example:
        >>> from torchreid_xres.config import load_config
        >>> check_weights(load_config(None, ["model.load_weights", "{root}/none.pth", "data.root", "d"]))
        Traceback (most recent call last):
        torchreid_xres.config.ConfigError: model.load_weights is '{root}/none.pth', and there is no file 'd/none.pth'
    """
    for stage, own in stage_configs(cfg).items():
        for key in _weights(own):
            given = value_of(own, key)
            path = file_of(own, given)
            if given and "{" not in path and not Path(path).is_file():
                where = f"stages.{stage}: " if stage else ""
                raise ConfigError(f"{where}{key} is {given!r}, and there is no file {path!r}")


def _weights(cfg: CfgNode) -> list[str]:
    """Return the keys of files of weights that a stage reads."""
    if cfg.test.evaluate:
        return _weights_of_model(cfg)
    options = [key for key, value in cfg.model.options.items() if key.endswith("_weights") and isinstance(value, str)]
    resumed = ["model.resume"] * (cfg.task == "train")
    return [*resumed, *_weights_of_model(cfg), *(f"model.options.{key}" for key in options)]


def _weights_of_model(cfg: CfgNode) -> list[str]:
    if cfg.test.evaluate or cfg.model.name not in MODELS:
        return ["model.load_weights", *["compare.weights"] * bool(cfg.compare.models)]
    takes = inspect.signature(MODELS[cfg.model.name].build).parameters
    read = {"model.reid_weights": "reid_weights" in takes, "sr.weights": "sr_weights" in takes}
    read |= {"loss.ps.teacher": cfg.model.name == "psh_rnet", "compare.weights": cfg.compare.models}
    return ["model.load_weights", *(key for key, does in read.items() if does)]


def _check_stage(cfg: CfgNode) -> None:
    models = host.model_factory()  # ours are in it, too
    _require("task", cfg.task, TASKS)
    _require("model.name", cfg.model.name, models)
    _require("model.reid", cfg.model.reid, models)
    _require("sr.name", cfg.sr.name, _front_ends(cfg.model.name))
    for key in ("sources", "targets"):
        if not cfg.data[key]:
            raise ConfigError(f"data.{key} is empty; it names at least one data set")
        for name in cfg.data[key]:
            _require(f"data.{key}", name, host.image_datasets())
    for name in cfg.data.targets if cfg.test.query_rates else ():
        if name not in DATASETS:
            raise ConfigError(f"test.query_rates must be empty for {name!r}, a set of torchreid, which knows no rates")
    for name in cfg.data.options:
        _require("data.options", name, ("*", *DATASETS))
    try:
        with dataset_options(as_dict(cfg.data.options)):
            pass
    except ValueError as error:
        raise ConfigError(f"data.options: {error}") from None
    for name in cfg.data.transforms:
        _require("data.transforms", str(name).lower(), (*TRANSFORMS, "pad_crop"))
    try:
        require_options(cfg.model.name, cfg.model.options)
    except TypeError as error:
        raise ConfigError(f"model.options: {error}") from None
    _check_front_end_options(cfg)
    checked(cfg)
    if cfg.task == "train":
        _check_epochs(cfg)
    _refuse_file("data.save_dir", Path(cfg.data.save_dir))
    if cfg.use_gpu and not torch.cuda.is_available():
        raise ConfigError("use_gpu is True, and torch finds no GPU here; use_gpu False works on the CPU")


def _check_splits(cfg: CfgNode) -> None:
    first, last = cfg.data.split_id, cfg.data.split_id + cfg.data.num_splits - 1
    for name in (*cfg.data.sources, *cfg.data.targets):
        there = DATASETS[name].build.num_splits if name in DATASETS else math.inf  # the host's sets tell when asked
        if not 0 <= first <= last < there:
            keys = f"data.split_id {first} and data.num_splits {cfg.data.num_splits}"
            raise ConfigError(f"{keys} ask for the splits {first} to {last} of {name!r}; it has 0 to {there - 1}")


def _front_ends(model: str) -> set[str]:
    """Return the front ends that a model may have; to one that has none, ``sr.name`` may be of another stage's."""
    own = {name: set(MODELS[name].meta.get("sr", FRONT_ENDS)) for name in MODELS}
    if model in MODELS and "sr" in inspect.signature(MODELS[model].build).parameters:
        return own[model]
    return set().union(*own.values())


def _check_front_end_options(cfg: CfgNode) -> None:
    """Refuse ``sr.options`` that the front end lacks; those of a model with a network of its own are its own matter."""
    if cfg.model.name not in MODELS or "sr" in MODELS[cfg.model.name].meta:
        return
    if "sr_options" in inspect.signature(MODELS[cfg.model.name].build).parameters:
        try:
            require_front_end_options(cfg.sr.name, cfg.sr.options)
        except TypeError as error:
            raise ConfigError(f"sr.options: {error}") from None


def _require(key: str, name: object, allowed: Collection[str]) -> None:
    if str(name) not in allowed:
        there = ", ".join(sorted(allowed))
        raise ConfigError(f"{key} is {name!r}{did_you_mean(name, allowed)} There are: {there}")


def _check_epochs(cfg: CfgNode) -> None:
    if cfg.train.max_epoch < 1 and not cfg.test.evaluate:
        raise ConfigError(
            f"train.max_epoch must be at least 1, not {cfg.train.max_epoch}; test.evaluate True evaluates only"
        )


def _refuse_file(key: str, folder: Path) -> None:
    file = next((part for part in (folder, *folder.parents) if part.is_file()), None)
    if file is not None:
        raise ConfigError(f"{key} is {str(folder)!r}, but {str(file)!r} is a file; it names a folder")


def _check_expected(expected: Mapping, targets: list[str]) -> None:
    for name, figures in expected.items():
        if name not in targets:
            hint = did_you_mean(name, targets)
            raise ConfigError(f"test.expected is of {name!r}{hint} There are, in data.targets: {', '.join(targets)}")
        if not isinstance(figures, Mapping) or any(type(least) not in (int, float) for least in figures.values()):
            raise ConfigError(
                f"test.expected.{name} holds the least value of each figure in per cent, such as {{rank1: 60.0}}, not "
                f"{figures!r}"
            )
