"""What a configuration names is looked up before anything is trained or removed: a typo costs a second, not a night."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.checkpoint import random_state_kept
from torchreid_xres.config import ConfigError, as_dict, file_of, stage_configs, value_of
from torchreid_xres.data import DATASETS, dataset_options
from torchreid_xres.engine.base import ENGINES
from torchreid_xres.host_mends.data import TRANSFORMS
from torchreid_xres.jobs.job import has_splits
from torchreid_xres.jobs.run import TASKS, model_options
from torchreid_xres.jobs.tasks.vpfa import checked
from torchreid_xres.models.registry import MODELS, build_model, require_options
from torchreid_xres.models.weights import without_starts
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
    _check_expected(list(stages.values())[-1])


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
        path = file_of(own, own.model.gallery_run)
        if path and "{" not in path and not own.test.evaluate and not Path(path, "run.json").is_file():
            where = f"stages.{stage}: " if stage else ""
            raise ConfigError(f"{where}model.gallery_run is {path!r}, which is no folder of a run: it has no run.json")


def check_networks(cfg: CfgNode) -> None:
    """Refuse networks that cannot be built, or of torchreid's zoo, that do not take the input's size: before data.

    Each is built once without weights; the zoo's also take two images.

    Args:
        cfg: a configuration as :func:`~torchreid_xres.config.load_config` returns it.

    Raises:
        ConfigError: naming the stage if there are several, the network, and what it said.

    Example:
        >>> from torchreid_xres.config import load_config
        >>> check_networks(load_config(None, ["model.name", "hacnn"]))
        Traceback (most recent call last):
        torchreid_xres.config.ConfigError: data.height 256 and data.width 128 do not fit hacnn: Input size does not \
match, expected (160, 64) but got (256, 128)
    """
    tried: set[tuple] = set()
    with random_state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself will show them
        for stage, own in stage_configs(cfg).items():
            trained = own.task == "train" and not own.test.evaluate
            for name in [own.model.name, *cfg.compare.models] if trained else ():
                reid = [own.model.reid] if "reid" in _takes(name) else []
                try:
                    _try_out(own, name, [one for one in (name, *reid) if one not in MODELS], tried)
                except ConfigError as error:
                    raise ConfigError(f"stages.{stage}: {error}" if stage else str(error)) from error


def _try_out(cfg: CfgNode, name: str, of_zoo: list[str], tried: set[tuple]) -> None:
    size = cfg.data.height, cfg.data.width
    for one in of_zoo:
        if (one, cfg.loss.name, size) in tried:
            continue
        tried.add((one, cfg.loss.name, size))
        device = "cuda" if cfg.use_gpu else "cpu"
        network = _built(one, cfg.loss.name).to(device)
        try:
            with torch.no_grad():
                network.train()(torch.zeros(2, 3, *size, device=device))
        except Exception as error:
            raise ConfigError(
                f"data.height {size[0]} and data.width {size[1]} do not fit {one}: {_first_line(error)}"
            ) from error
    if name in MODELS:
        options = without_starts(model_options(cfg, name))
        ENGINES[name].build.engine_options(cfg)
        of_stage = any(isinstance(value, str) and "{" in value for value in options.values())  # its files are yet to be
        if not of_stage and (name, repr(options)) not in tried:
            tried.add((name, repr(options)))
            _built(name, cfg.loss.name, **options)


def _built(name: str, loss: str, **options: Any) -> nn.Module:
    try:
        return build_model(name, num_classes=2, loss=loss, pretrained=False, **options)
    except Exception as error:
        raise ConfigError(f"{name} cannot be built: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _takes(name: str) -> Collection[str]:
    return inspect.signature(MODELS[name].build).parameters if name in MODELS else ()


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
    takes = _takes(cfg.model.name)
    followed = bool(cfg.model.gallery_run)  # whose weights are those of another run
    read = {"model.reid_weights": "reid_weights" in takes and not followed, "sr.weights": "sr_weights" in takes}
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
    _check_validation(cfg)
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
        parts = [name for name in ENGINES if ENGINES[name].build.parts_front_end]
        if cfg.train.sr_optimizer and cfg.model.name not in parts:
            raise ConfigError(
                f"train.sr_optimizer is {cfg.train.sr_optimizer!r}, but model.name {cfg.model.name!r} has no front end "
                f"to be parted from the rest; it must be '' for all but {', '.join(parts)}"
            )
    _refuse_file("data.save_dir", Path(cfg.data.save_dir))
    if cfg.use_gpu and not torch.cuda.is_available():
        raise ConfigError("use_gpu is True, and torch finds no GPU here; use_gpu False works on the CPU")


def _check_validation(cfg: CfgNode) -> None:
    asked = ["sources"] * bool(cfg.data.validation) + ["targets"] * (cfg.data.part == "validation")
    for key in asked:
        for name in cfg.data[key]:
            if name not in DATASETS:
                raise ConfigError(f"data.validation must be 0 for {name!r} in data.{key}, a set of torchreid's own")
    ours = cfg.task == "train" and cfg.model.name in ENGINES
    if cfg.train.patience and ours and ENGINES[cfg.model.name].build.figures:
        raise ConfigError(f"train.patience must be 0 for {cfg.model.name}, whose evaluation has no mAP to choose by")


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
    if "sr" in _takes(model):
        return own[model]
    return set().union(*own.values())


def _check_front_end_options(cfg: CfgNode) -> None:
    """Refuse ``sr.options`` that the front end lacks; those of a model with a network of its own are its own matter."""
    if cfg.model.name not in MODELS or "sr" in MODELS[cfg.model.name].meta:
        return
    if "sr_options" in _takes(cfg.model.name):
        try:
            require_front_end_options(cfg.sr.name, cfg.sr.options)
        except TypeError as error:
            raise ConfigError(f"sr.options: {error}") from None


def _require(key: str, name: object, allowed: Collection[str]) -> None:
    if str(name) not in allowed:
        there = ", ".join(sorted(allowed))
        raise ConfigError(f"{key} is {name!r}{did_you_mean(name, allowed)} There are: {there}")


def _check_epochs(cfg: CfgNode) -> None:
    if not cfg.train.max_epoch and cfg.train.patience:
        raise ConfigError("train.patience must be 0 where train.max_epoch is 0: there is no epoch to choose")
    if cfg.train.start_epoch >= max(1, cfg.train.max_epoch) and not cfg.test.evaluate:
        raise ConfigError(
            f"train.start_epoch is {cfg.train.start_epoch}, so that nothing is left to train up to train.max_epoch "
            f"{cfg.train.max_epoch}; test.evaluate True evaluates only"
        )


def _refuse_file(key: str, folder: Path) -> None:
    file = next((part for part in (folder, *folder.parents) if part.is_file()), None)
    if file is not None:
        raise ConfigError(f"{key} is {str(folder)!r}, but {str(file)!r} is a file; it names a folder")


def _check_expected(cfg: CfgNode) -> None:
    for name, figures in cfg.test.expected.items():
        if name not in cfg.data.targets:
            hint = did_you_mean(name, cfg.data.targets)
            there = ", ".join(cfg.data.targets)
            raise ConfigError(f"test.expected is of {name!r}{hint} There are, in data.targets: {there}")
        if not isinstance(figures, Mapping) or any(type(least) not in (int, float) for least in figures.values()):
            raise ConfigError(
                f"test.expected.{name} holds the least value of each figure in per cent, such as {{rank1: 60.0}}, not "
                f"{figures!r}"
            )
        ranks = [f"rank{rank}" for rank in sorted({1, *cfg.test.ranks})]
        own = ENGINES[cfg.model.name].build.figures if cfg.task == "train" and cfg.model.name in ENGINES else ""
        for figure in figures:
            if not (re.fullmatch(own, figure) if own else figure in (*ranks, "mAP", "mINP")):
                there = f"those like {own}" if own else ", ".join((*ranks, "mAP", "mINP"))
                raise ConfigError(f"test.expected.{name} names {figure!r}; there are {there}")
