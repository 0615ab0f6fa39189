"""Configuration: files, overrides, stages, and what is refused.

What keys there are is in ``config_keys.py``. A file may name its parent
with ``_BASE_`` (or several: the later ones win). A key that does not exist, or a value of the wrong type, is refused
with the nearest name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from torchreid_xres.config_files import config_names, config_path, named_config
from torchreid_xres.config_keys import ABOVE_0, BELOW_1, CHOICES, CHOICES_OF_LISTS, LIMITS, WHOLE, get_config
from torchreid_xres.registry import did_you_mean
from torchreid_xres.yaml_text import read_yaml, write_yaml

BASE_KEY = "_BASE_"
MOST_FILES = 100  # that a file may be built on
MOST_BYTES = 2**20  # of a file
# Keys that came after records were kept: at their default a configuration is the one that it was without them.
ADDED = (
    "data.camera", "data.grey_bits", "data.originals", "data.padding", "data.part", "data.random_rates",
    "data.random_share", "data.validation", "loss.asymmetric", "loss.msifla.cascade_epochs", "loss.msifla.unit",
    "loss.sr.coupling", "loss.sr.feature", "loss.sr.plain", "loss.sr.views", "model.gallery_run", "train.patience",
    "train.seed_offset", "train.sr_lr", "train.sr_optimizer",
)  # fmt: skip


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and what is allowed."""


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a configuration: defaults, then ``_BASE_`` files from the root down, then the file, then overrides.

    Args:
        path: YAML file, the name of a configuration that comes with the package, or None for the defaults alone.
        overrides: alternating keys and values, ``["train.lr", "1e-3"]``.

    Returns:
        The resolved configuration, checked.

    Raises:
        ConfigError: unknown key, wrong type, unknown choice, circular ``_BASE_``, or a file that is no YAML mapping.
    """
    cfg = get_config()
    for part, source in _chain(config_path(path)) if path else []:
        _merge(cfg, part, source)
    if len(overrides) % 2:
        raise ConfigError(f"options come as KEY VALUE pairs; {overrides[-1]!r} has no value")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        nested: Any = _parse(text, cfg, key)
        for name in reversed(key.split(".")):
            nested = {name: nested}
        _merge(cfg, nested, "the command line")
    for key in ("root", "save_dir"):
        cfg.data[key] = os.path.expanduser(cfg.data[key])
    check_config(cfg)
    return cfg


def says(part: Any, key: str) -> bool:
    """Return whether keys and values, nested, say anything of a dotted key.

    Example:
        >>> says({"data": {"height": 64}}, "data.height"), says({"data": {"height": 64}}, "data.width")
        (True, False)
    """
    for name in key.split("."):
        if not isinstance(part, Mapping) or name not in part:
            return False
        part = part[name]
    return True


def file_says(path: str | Path, key: str) -> bool:
    """Return whether a configuration's file, or one that it is built on, sets a dotted key, to whatever value."""
    return any(says(part, key) for part, _ in _chain(config_path(path)))


def _parse(text: Any, cfg: CfgNode, key: str) -> Any:
    """Return a command-line value; for keys that hold text it is taken as it stands, else read as YAML."""
    held: Any = cfg
    for name in key.split("."):
        held = held.get(name) if isinstance(held, CfgNode) else None
    if isinstance(held, str) or not isinstance(text, str):
        return text
    value = _read_yaml(text, f"{key}: {text!r} is not a YAML value")
    _require_plain(value, key, "the command line")
    return value


def _read_yaml(text: str, complaint: str) -> Any:
    try:
        return read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{complaint}: {error}") from error


def _require_plain(value: Any, key: str, source: str, around: tuple[int, ...] = ()) -> None:
    """Refuse what YAML can say and a configuration cannot hold: dates, bytes, sets, groups within themselves."""
    if id(value) in around:
        raise ConfigError(f"{key} in {source} is within itself")
    if isinstance(value, (Mapping, list, tuple)):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, part in inner:
            _require_plain(part, f"{key}.{name}" if key else str(name), source, (*around, id(value)))
    elif value is not None and not isinstance(value, (str, bool, int, float)):
        raise ConfigError(
            f"{key} in {source} is of type {type(value).__name__}; allowed are text (in quotes, if it looks like "
            f"something else), numbers, true, false, null, lists and groups of keys"
        )


def _chain(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[dict, str]]:
    """Return a file and its ancestors as (mapping, file name), oldest ancestor first."""
    by = f" (named as {BASE_KEY} in {seen[-1]})" if seen else ""
    try:
        path = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a null character
        raise ConfigError(f"no configuration file can be called {str(path)!r}{by}: {error}") from error
    if path in seen:
        raise ConfigError(f"{BASE_KEY} goes in a circle: {' -> '.join(p.name for p in (*seen, path))}")
    part = _read_yaml(_text_of(path, by), f"{path} is not YAML") or {}
    if not isinstance(part, dict):
        raise ConfigError(f"{path} holds a {type(part).__name__}, not keys and values")
    _require_plain(part, "", str(path))
    bases = part.pop(BASE_KEY, [])
    older: list[tuple[dict, str]] = []
    for base in bases if isinstance(bases, list) else [bases]:
        if len(older) + len(seen) >= MOST_FILES:
            raise ConfigError(f"{path} is built on more than {MOST_FILES} files by {BASE_KEY}")
        beside = path.parent / str(base)
        older += _chain(beside if os.path.exists(beside) else named_config(str(base)) or beside, (*seen, path))
    return [*older, (part, str(path))]


def _text_of(path: Path, by: str) -> str:
    try:
        if not path.is_file() and path.exists():
            kind = "a folder" if path.is_dir() else "no file that ends, such as a pipe or a device"
            raise ConfigError(f"the configuration file {path}{by} cannot be read: it is {kind}")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"{path}{by} has more than {MOST_BYTES} bytes, which no configuration has")
        return content.decode("utf-8")
    except FileNotFoundError:
        near = did_you_mean(path.stem, config_names())
        more = f"{near[:-1]} of the package?" if "?" in near else ""
        raise ConfigError(f"no configuration file {path}{by}{more}") from None
    except OSError as error:
        raise ConfigError(f"the configuration file {path}{by} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def _merge(node: CfgNode, part: Mapping, source: str, prefix: str = "") -> None:
    for name, value in part.items():
        name = str(name)
        key = f"{prefix}{name}"
        if name not in node:
            if node.is_new_allowed():
                node[name] = _plain(value)
                continue
            near = difflib.get_close_matches(key, _all_keys(get_config()), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(node))}"
            raise ConfigError(f"unknown key {key!r} in {source}{hint}")
        if isinstance(node[name], CfgNode):
            if value in (None, {}) and node[name].is_new_allowed():
                node[name] = CfgNode(new_allowed=True)  # null and {} empty what a parent file filled
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
    if isinstance(old, float) and type(new) is int and abs(new) < 2**1000:
        return float(new)
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


def check_config(cfg: CfgNode) -> None:
    """Refuse choices that do not exist and combinations that cannot work.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    for key, allowed in CHOICES.items():
        _require_choice(key, value_of(cfg, key), allowed)
    for key, allowed in CHOICES_OF_LISTS.items():
        for value in value_of(cfg, key):
            _require_choice(key, value, allowed)
    for key in LIMITS:
        _require_within(key, value_of(cfg, key))
    for key in ("norm_mean", "norm_std"):
        if len(cfg.data[key]) != 3:
            raise ConfigError(f"data.{key} holds a number for each of the three colours, not {cfg.data[key]}")
    _require_finite(cfg)
    if not cfg.data.save_dir.strip():
        raise ConfigError("data.save_dir is empty; it names the folder of the run ('.' is the current one)")
    if cfg.train.precision == "fp16" and not cfg.use_gpu:
        raise ConfigError("train.precision fp16 needs a GPU; on the CPU use bf16 or fp32")
    _check_validation(cfg)
    if cfg.stages:
        for stage in stage_configs(cfg).values():
            check_config(stage)


def _check_validation(cfg: CfgNode) -> None:
    share, patience = cfg.data.validation, cfg.train.patience
    if cfg.data.part == "validation" and not share:
        raise ConfigError("data.part is 'validation', but data.validation is 0; a share above it makes that part")
    if share and cfg.data.combineall:
        raise ConfigError("data.combineall trains on the test too, so data.validation must be 0")
    if patience and not (share and cfg.test.eval_freq > 0):
        raise ConfigError(
            f"train.patience {patience} chooses the epoch on the validation part, so data.validation (here {share:g}) "
            f"and test.eval_freq (here {cfg.test.eval_freq}) must be above 0"
        )


def _require_within(key: str, value: Any) -> None:
    least, most = LIMITS[key]
    bounds = "above 0" if least == ABOVE_0 else f"at least {least:g}" if least > -math.inf else "finite"
    bounds += " and below 1" if most == BELOW_1 else f" and at most {most:g}" if most < math.inf else ""
    if not isinstance(value, list):
        if not (math.isfinite(value) and least <= value <= most):
            raise ConfigError(f"{key} must be {bounds}, not {value}")
        return
    kinds = (int,) if key in WHOLE else (int, float)
    fit = all(type(one) in kinds and math.isfinite(one) and least <= one <= most for one in value)
    if not fit or (key in WHOLE and not value):
        raise ConfigError(f"{key} must be {'whole ' * (key in WHOLE)}numbers of {bounds}, not {value}")


def _require_finite(node: Any, key: str = "") -> None:
    """Refuse an infinite number or one that is none, wherever it is."""
    if isinstance(node, (Mapping, list, tuple)):
        for name, inner in node.items() if isinstance(node, Mapping) else enumerate(node):
            _require_finite(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"{key} is {node}, which is no finite number")


def value_of(cfg: CfgNode, key: str) -> Any:
    """Return what a configuration has under a dotted key, such as ``loss.ps.teacher``."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _require_choice(key: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}{did_you_mean(value, allowed)} Allowed: {', '.join(map(repr, allowed))}")


def padding_of(cfg: CfgNode, pairs: bool | None = None) -> str:
    """Return of what the border of ``pad_crop`` is made: ``reflect`` or ``official`` (black).

    Args:
        cfg: a configuration.
        pairs: whether pairs are made; None: as it says.

    Example:
        >>> padding_of(load_config(None, ["data.transforms", "[pad_crop]", "data.pairs", "true"]))
        'reflect'
    """
    if "pad_crop" not in cfg.data.transforms:
        return "official"
    return cfg.data.padding or ("reflect" if (cfg.data.pairs if pairs is None else pairs) else "official")


def stage_configs(cfg: CfgNode) -> dict[str, CfgNode]:
    """Return the whole configuration of each stage by name, in order; without stages, ``cfg`` under an empty name.

    Raises:
        ConfigError: for a change that the configuration has no key for, or a ``{name}`` that is no earlier stage.
    """
    if not cfg.stages:
        return {"": cfg}
    made: dict[str, CfgNode] = {}
    for name, changes in cfg.stages.items():
        if not re.fullmatch(r"\w[\w.-]*", name) or name == "root":
            raise ConfigError(
                f"stages.{name} cannot be the name of a stage, which is that of a folder: letters, digits, '_', '-' "
                "and '.', the first no '-' or '.'; {root} is data.root"
            )
        if not isinstance(changes or {}, Mapping) or "stages" in (changes or {}):
            raise ConfigError(f"stages.{name} must be the keys that change in it, without stages of its own")
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

    return with_changes(cfg, put(as_dict(cfg)), "the stages' folders")


def with_changes(cfg: CfgNode, changes: Mapping, source: str) -> CfgNode:
    """Return a copy with other values, as a file would give them.

    Args:
        cfg: the configuration.
        changes: nested mappings of keys to values.
        source: where they come from, for messages.

    Raises:
        ConfigError: for an unknown key, or a value of another type.
    """
    own = cfg.clone()
    _merge(own, changes, source)
    return own


def as_dict(cfg: CfgNode) -> dict:
    """Return the configuration as plain nested dictionaries."""
    return {k: as_dict(v) if isinstance(v, CfgNode) else v for k, v in cfg.items()}


def file_of(cfg: CfgNode, text: str) -> str:
    """Return the path that a key names: ``{root}`` in it is ``data.root``, so a configuration holds anywhere; ``~``."""
    return os.path.expanduser(text.replace("{root}", cfg.data.root))


def config_text(cfg: CfgNode) -> str:
    """Return a configuration as the YAML that :func:`load_config` reads; stages keep their order."""
    return write_yaml(as_dict(cfg))


def config_hash(cfg: CfgNode) -> str:
    """Return the SHA-256 of what decides a run's result.

    Where files lie, what is told of a training and whether the run only evaluates do not count; nor does what is
    learned after training, unless that is the task.
    """
    return hashlib.sha256(json.dumps(_deciding(cfg), sort_keys=True).encode()).hexdigest()


def differing_keys(one: CfgNode, other: CfgNode) -> list[str]:
    """Return the keys in which two configurations differ, of those that decide a run's result.

    Example:
        >>> differing_keys(load_config(None, ["sr.name", "srcnn"]), load_config(None, ["data.root", "elsewhere"]))
        ['sr.name']
    """

    def flat(part: Any, key: str) -> dict[str, Any]:
        if not isinstance(part, dict) or not part:
            return {key: part}
        return {k: v for name, inner in part.items() for k, v in flat(inner, f"{key}.{name}" if key else name).items()}

    ours, theirs = (flat(_deciding(cfg), "") for cfg in (one, other))
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key, key) != theirs.get(key, key))


def _deciding(cfg: CfgNode) -> dict:
    plain = as_dict(cfg)
    if "vpfa" not in (plain["task"], *((changes or {}).get("task") for changes in plain["stages"].values())):
        plain.pop("vpfa")
    for key in ("root", "save_dir", "workers", "cache_mb"):
        plain["data"].pop(key)
    # An official border is what every configuration had before there was a choice.
    plain["data"]["padding"] = "" if padding_of(cfg) == "official" else "reflect"
    for key in ADDED:
        *groups, name = key.split(".")
        group = reduce(dict.__getitem__, groups, plain)
        if group[name] == value_of(get_config(), key):
            group.pop(name)
    plain["model"].pop("resume")
    for key in ("print_freq", "liveness"):
        plain["train"].pop(key)
    plain["test"].pop("evaluate")
    plain["test"].pop("expected")
    return plain
