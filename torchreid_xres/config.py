"""Configuration: the host's public keys, plus one function that adds ours.

The keys that torchreid's own scripts use keep their names and meaning (KaiyangZhou/deep-person-reid,
``scripts/default_config.py``); :func:`add_xres_config` adds everything else. A file may name its parent
with ``_BASE_`` (or several: the later ones win). A key that does not exist, or a value of the wrong type, is refused
with the nearest name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from yacs.config import CfgNode

BASE_KEY = "_BASE_"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and what is allowed."""


def host_config() -> CfgNode:
    """Return the defaults of the keys that torchreid's scripts have."""
    return CfgNode(
        {
            "model": {
                "name": "resnet50",
                "pretrained": True,  # start from weights on the internet where the model offers them
                "load_weights": "",  # file of weights to start from
                "resume": "",  # checkpoint to go on from; empty: the run's own last one, if there is one
            },
            "data": {
                "type": "image",
                "root": "reid-data",  # folder that holds the data sets
                "sources": ["market1501"],  # training sets
                "targets": ["market1501"],  # test sets
                "workers": 4,  # loader processes
                "split_id": 0,  # which split of a multi-split set, 0-based
                "height": 256,  # pixels, network input
                "width": 128,  # pixels, network input
                "combineall": False,  # train on train + query + gallery
                "transforms": ["random_flip"],
                "k_tfm": 1,  # augmentations of one image per draw
                "norm_mean": [0.485, 0.456, 0.406],
                "norm_std": [0.229, 0.224, 0.225],
                "save_dir": "log",
                "load_train_targets": False,
            },
            "market1501": {"use_500k_distractors": False},
            "cuhk03": {"labeled_images": False, "classic_split": False, "use_metric_cuhk03": False},
            "sampler": {
                "train_sampler": "RandomSampler",
                "train_sampler_t": "RandomSampler",
                "num_instances": 4,  # images per identity in a batch
                "num_cams": 1,
                "num_datasets": 1,
            },
            "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
            "train": {
                "optim": "adam",
                "lr": 0.0003,
                "weight_decay": 5e-4,
                "max_epoch": 60,
                "start_epoch": 0,
                "batch_size": 32,  # images
                "fixbase_epoch": 0,  # first epochs in which only open_layers learn
                "open_layers": ["classifier"],
                "staged_lr": False,
                "new_layers": ["classifier"],
                "base_lr_mult": 0.1,
                "lr_scheduler": "single_step",
                "stepsize": [20],  # epochs
                "gamma": 0.1,
                "print_freq": 20,  # batches between log lines
                "seed": 1,
            },
            "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
            "rmsprop": {"alpha": 0.99},
            "adam": {"beta1": 0.9, "beta2": 0.999},
            "loss": {
                "name": "softmax",
                "softmax": {"label_smooth": True},
                "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0},
            },
            "test": {
                "batch_size": 100,
                "dist_metric": "euclidean",
                "normalize_feature": False,
                "ranks": [1, 5, 10, 20],
                "evaluate": False,  # only evaluate, no training
                "eval_freq": -1,  # epochs between evaluations; -1: only after the last
                "start_eval": 0,
                "rerank": False,
                "visrank": False,
                "visrank_topk": 10,
            },
            "use_gpu": torch.cuda.is_available(),
        }
    )


def add_xres_config(cfg: CfgNode) -> CfgNode:
    """Add this package's keys to a host configuration, in place, and return it."""
    free = {"new_allowed": True}  # nodes whose keys belong to the thing they configure

    # Data. Empty means: as the data set says.
    cfg.data.rates = []  # down-sampling rates of the protocol; 4.0 = a quarter of the side
    cfg.data.kernel = "area"  # down-sampling kernel: area, bilinear, bicubic, lanczos, bilinear_plain
    cfg.data.protocol_seed = 0  # which rate each file gets, and which split is drawn
    cfg.data.interpolation = "bilinear"  # how images come to the network's size: bilinear, bicubic
    cfg.data.pad = 10  # pixels of black border from which the transform "pad_crop" cuts a piece of the input's size
    cfg.data.pictures = ""  # folder of pictures to read in place of the sets' own, one PNG for each manifest name
    cfg.data.num_splits = 1  # splits to run, from split_id on; mean and deviation are reported
    cfg.data.pairs = False  # training items carry the HR and LR view of one image
    cfg.data.pair_rates = []  # rates of LR views of HR images, drawn anew each time
    cfg.data.options = CfgNode(**free)  # options of single data sets: {mlr_market1501: {lr_camera: 1}}

    cfg.sampler.num_low = 2  # low-resolution images among num_instances (MixedIdentitySampler)

    cfg.model.reid = "osnet_x0_25"  # model of the host's zoo behind the front end
    cfg.model.reid_weights = ""  # file of weights the re-ID network starts from
    cfg.model.options = CfgNode(**free)  # further options of the registered model

    cfg.sr = CfgNode()
    cfg.sr.name = "bicubic"  # front end; tools list them with an unknown name
    cfg.sr.scale = 2  # integer factor of the front end's own grid
    cfg.sr.weights = ""  # file of published or own weights of the front end
    cfg.sr.options = CfgNode(**free)  # sizes of the front end: {depth: 20, width: 64}
    cfg.sr.frozen = False  # keep the front end as loaded

    cfg.loss.sr = CfgNode()
    cfg.loss.sr.name = "l1"  # reconstruction loss on [0, 1] images: l1, mse
    cfg.loss.sr.weight = 1.0

    cfg.loss.heatmap = CfgNode()
    cfg.loss.heatmap.name = "l1"  # of keypoint heat maps: l1, mse

    cfg.loss.ps = CfgNode()  # PS-HRNet's pseudo-siamese loss
    cfg.loss.ps.teacher = ""  # file of the teacher's weights
    cfg.loss.ps.weight = 0.5
    cfg.loss.ps.terms = ["seq1", "seq4", "seq5", "logits"]  # outputs that follow the teacher's

    cfg.loss.msifla = CfgNode()  # MSIFLA's two losses
    cfg.loss.msifla.coupling = "alternate"  # a step on each; joint: one on both; detached: L_ReID spares the cascade
    cfg.loss.msifla.rates = [4.0, 3.0, 2.0]  # versions of a high-resolution image that the cascade learns from

    cfg.loss.dgrl = CfgNode()  # DGRL's losses; one of weight 0 is not computed
    cfg.loss.dgrl.l1 = 5.0  # smooth L1 between the stems' features (gamma)
    cfg.loss.dgrl.id = 1.0  # identity loss
    cfg.loss.dgrl.wrt = 1.0  # weighted regularised triplet loss
    cfg.loss.dgrl.kl = 1.0  # mutual loss of the branches
    cfg.loss.dgrl.side = 0.5  # what a side branch counts in the identity and triplet losses (alpha, beta)
    cfg.loss.dgrl.restored = ""  # folder of the task restore_pairs; empty: low views are restored in each step

    # Several runs in a row, each once: {name: changes to the whole configuration}, in this order. "{name}" in a text
    # value of a later one is that stage's folder.
    cfg.stages = CfgNode(**free)
    cfg.task = "train"  # what a stage does: train (and evaluate), or another name of engine.run.TASKS

    cfg.train.epoch_batches = 250  # batches of an epoch where the paper counts iterations (prpr_restorer)
    cfg.train.warmup_epochs = 0  # first epochs at a lower learning rate
    cfg.train.warmup_factor = 0.1  # what they begin with, as a part of train.lr
    cfg.train.warmup_shape = "linear"  # linear: up to train.lr in steps; constant: all at warmup_factor
    cfg.train.precision = "fp32"  # fp32, bf16 (CPU and GPU), fp16 (GPU, with loss scaling)
    cfg.train.channels_last = True  # memory layout of convolutions; same numbers up to rounding, faster
    cfg.train.clip_grad = 0.0  # largest norm of the whole gradient; 0: no clipping

    cfg.test.metric = ""  # market, single_shot; empty: as the data set says
    cfg.test.draws = 10  # gallery draws of a single-shot evaluation
    cfg.test.seed = 0  # of these draws
    cfg.test.flip = False  # add the features of the mirrored image
    cfg.test.query_rates = []  # evaluate again with every low query at each of these rates
    cfg.test.expected = CfgNode(**free)  # least figures to reach, in per cent: {mlr_cuhk03: {rank1: 60.0}}

    cfg.fusion = CfgNode()  # what the task "fuse" does with the branches of a model
    cfg.fusion.branches = []  # folders of their runs, the original images' first
    cfg.fusion.weights = [2.0, 1.0, 1.0, 1.0]  # of their distances
    cfg.fusion.search = []  # further records with weights searched on training identities: "all", "size"

    # Models of the host trained by the host's own engine on the same images, shown in the same table.
    cfg.compare = CfgNode()
    cfg.compare.models = []
    cfg.compare.weights = ""  # file of weights these start from
    return cfg


def get_config() -> CfgNode:
    """Return all keys with their defaults.

    Example:
        >>> get_config().train.precision
        'fp32'
    """
    return add_xres_config(host_config())


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a configuration: defaults, then ``_BASE_`` files from the root down, then the file, then overrides.

    Args:
        path: YAML file, or None for the defaults alone.
        overrides: alternating keys and values, ``["train.lr", "1e-3"]``.

    Returns:
        The resolved configuration, checked.

    Raises:
        ConfigError: unknown key, wrong type, unknown choice, circular ``_BASE_``, or a file that is no YAML mapping.
    """
    cfg = get_config()
    for part, source in _chain(Path(path)) if path else []:
        _merge(cfg, part, source)
    if len(overrides) % 2:
        raise ConfigError(f"options come as KEY VALUE pairs; {overrides[-1]!r} has no value")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        nested: Any = _parse(text, cfg, key)
        for name in reversed(key.split(".")):
            nested = {name: nested}
        _merge(cfg, nested, "the command line")
    check_config(cfg)
    return cfg


def _parse(text: Any, cfg: CfgNode, key: str) -> Any:
    """Return a command-line value; for keys that hold text it is taken as it stands, else read as YAML."""
    held: Any = cfg
    for name in key.split("."):
        held = held.get(name) if isinstance(held, CfgNode) else None
    if isinstance(held, str) or not isinstance(text, str):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {text!r} is not a YAML value") from error


def _chain(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[dict, str]]:
    """Return a file and its ancestors as (mapping, file name), oldest ancestor first."""
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"{BASE_KEY} goes in a circle: {' -> '.join(p.name for p in (*seen, path))}")
    try:
        part = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        by = f" (named as {BASE_KEY} in {seen[-1]})" if seen else ""
        raise ConfigError(f"no configuration file {path}{by}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(part, dict):
        raise ConfigError(f"{path} holds a {type(part).__name__}, not keys and values")
    bases = part.pop(BASE_KEY, [])
    older = []
    for base in bases if isinstance(bases, list) else [bases]:
        older += _chain(path.parent / str(base), (*seen, path))
    return [*older, (part, str(path))]


def _merge(node: CfgNode, part: Mapping, source: str, prefix: str = "") -> None:
    for name, value in part.items():
        key = f"{prefix}{name}"
        if name not in node:
            if node.is_new_allowed():
                node[name] = _plain(value)
                continue
            near = difflib.get_close_matches(key, _all_keys(get_config()), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(node))}"
            raise ConfigError(f"unknown key {key!r} in {source}{hint}")
        if isinstance(node[name], CfgNode):
            if value is None and node[name].is_new_allowed():
                node[name] = CfgNode(new_allowed=True)  # null empties what a parent file filled
                continue
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key} in {source} is a group of keys, not {value!r}")
            _merge(node[name], value, source, f"{key}.")
        elif node.is_new_allowed():
            node[name] = _plain(value)
        else:
            node[name] = _coerce(node[name], value, key, source)


def _plain(value: Any) -> Any:
    """Turn the mappings of a free node into nodes of their own, so that later files can refine them."""
    if not isinstance(value, Mapping):
        return value
    node = CfgNode(new_allowed=True)
    for name, inner in value.items():
        node[str(name)] = _plain(inner)
    return node


def _coerce(old: Any, new: Any, key: str, source: str) -> Any:
    """Return ``new`` in the type of ``old``; whole numbers serve as floats, nothing else is bent."""
    if isinstance(old, float) and not isinstance(new, bool):
        if isinstance(new, int):
            return float(new)
        if isinstance(new, str):  # YAML reads 1e-3 as text
            try:
                return float(new)
            except ValueError:
                pass
    if isinstance(old, list) and isinstance(new, tuple):
        return list(new)
    if type(new) is not type(old):
        raise ConfigError(
            f"{key} in {source} must be of type {type(old).__name__} (default {old!r}), "
            f"not {type(new).__name__} {new!r}"
        )
    return new


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys


CHOICES = {
    "data.type": ("image",),
    "data.interpolation": ("bilinear", "bicubic"),
    "loss.name": ("softmax", "triplet"),
    "loss.sr.name": ("l1", "mse"),
    "loss.heatmap.name": ("l1", "mse"),
    "train.precision": ("fp32", "bf16", "fp16"),
    "train.warmup_shape": ("linear", "constant"),
    "test.dist_metric": ("euclidean", "cosine"),
    "test.metric": ("", "market", "single_shot"),
}


def check_config(cfg: CfgNode) -> None:
    """Refuse choices that do not exist and combinations that cannot work.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    for key, allowed in CHOICES.items():
        value = cfg
        for name in key.split("."):
            value = value[name]
        if value not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{key} is {value!r}{hint} Allowed: {', '.join(map(repr, allowed))}")
    for key in ("height", "width", "num_splits"):
        if cfg.data[key] < 1:
            raise ConfigError(f"data.{key} must be at least 1, not {cfg.data[key]}")
    for key in ("rates", "pair_rates"):
        if any(not isinstance(r, (int, float)) or r < 1 for r in cfg.data[key]):
            raise ConfigError(f"data.{key} must be numbers of at least 1, not {list(cfg.data[key])}")
    if cfg.train.precision == "fp16" and not cfg.use_gpu:
        raise ConfigError("train.precision fp16 needs a GPU; on the CPU use bf16 or fp32")
    if cfg.stages:
        for stage in stage_configs(cfg).values():
            check_config(stage)


def stage_configs(cfg: CfgNode) -> dict[str, CfgNode]:
    """Return the whole configuration of each stage by name, in order; without stages, ``cfg`` under an empty name.

    Raises:
        ConfigError: for a change that the configuration has no key for, or a ``{name}`` that is no earlier stage.
    """
    if not cfg.stages:
        return {"": cfg}
    made: dict[str, CfgNode] = {}
    for name, changes in cfg.stages.items():
        own = cfg.clone()
        own.stages = CfgNode(new_allowed=True)
        _merge(own, changes or {}, f"stages.{name}")
        for used in stages_used(own):
            if used not in made:
                there = ", ".join(made) or "none"
                raise ConfigError(f"stages.{name} uses {{{used}}}, which is no earlier stage; there are: {there}")
        made[name] = own
    return made


def stages_used(cfg: CfgNode) -> list[str]:
    """Return the stages whose folders the values of a stage's configuration name."""
    return sorted(set(re.findall(r"\{(\w+)\}", json.dumps(as_dict(cfg)))) - {"root"})


def with_folders(cfg: CfgNode, folders: Mapping[str, str | Path]) -> CfgNode:
    """Return a copy in which each ``{name}`` of a finished stage is that stage's folder."""

    def put(value: Any) -> Any:
        if isinstance(value, str):
            for name, folder in folders.items():
                value = value.replace(f"{{{name}}}", str(folder))
            return value
        if isinstance(value, Mapping):
            return {key: put(inner) for key, inner in value.items()}
        return [put(inner) for inner in value] if isinstance(value, list) else value

    own = cfg.clone()
    _merge(own, put(as_dict(cfg)), "the stages' folders")
    return own


def as_dict(cfg: CfgNode) -> dict:
    """Return the configuration as plain nested dictionaries."""
    return {k: as_dict(v) if isinstance(v, CfgNode) else v for k, v in cfg.items()}


def file_of(cfg: CfgNode, text: str) -> str:
    """Return the path that a key names: ``{root}`` in it is ``data.root``, so a configuration holds anywhere."""
    return text.replace("{root}", cfg.data.root)


def config_hash(cfg: CfgNode) -> str:
    """Return the SHA-256 of what decides a run's result.

    Where files lie, how often a line is printed and whether the run only evaluates do not count.
    """
    plain = as_dict(cfg)
    for key in ("root", "save_dir", "workers"):
        plain["data"].pop(key)
    plain["model"].pop("resume")
    plain["train"].pop("print_freq")
    plain["test"].pop("evaluate")
    plain["test"].pop("expected")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
