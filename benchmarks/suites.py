"""The suites of suites.yaml: which rows there are, the configuration of each, and what papers say (quoted.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, load_config, stage_configs
from torchreid_xres.config_files import config_folder

SUITES = Path(__file__).with_name("suites.yaml")
QUOTED = Path(__file__).with_name("quoted.yaml")


class Row(NamedTuple):
    """A model of a suite: its configuration, the keys changed in it, the row it is compared with, its seeds."""

    label: str
    kind: str
    config: str
    changes: list[Any]
    against: str
    seeds: list[int]


class Suite(NamedTuple):
    """A suite by its name: rows by label, what is not in it and why, and what it is about."""

    name: str
    about: str
    rows: dict[str, Row]
    left_out: dict[str, str]
    quoted: list[str]


def as_pairs(changes: Mapping[str, Any] | None) -> list[Any]:
    """Return keys and values one after the other, as :func:`load_config` takes them."""
    return [part for pair in (changes or {}).items() for part in pair]


def suite_of(name: str) -> Suite:
    """Return a suite of suites.yaml.

    Raises:
        ConfigError: if there is none of that name.
    """
    content = yaml.safe_load(SUITES.read_text(encoding="utf-8"))
    suites, groups = content["suites"], content["groups"]
    if name not in suites:
        raise ConfigError(f"there is no suite {name!r}; there are: {', '.join(suites)}")
    suite = suites[name]
    parts = {kind: groups[group] for kind, group in suite.get("groups", {}).items()} | suite.get("rows", {})
    own = suite.get("changes", {})
    rows = {}
    for kind, members in parts.items():
        for label, member in members.items():
            if label in suite.get("left_out", {}):
                continue
            changes = [suite.get("common"), member.get("changes"), own.get(kind), own.get(label)]
            flat = [part for group in changes for part in as_pairs(group)]
            seeds = suite["seeds"][:1] if kind in suite.get("once", []) else suite["seeds"]
            rows[label] = Row(label, kind, member["config"], flat, member.get("against", suite["against"]), seeds)
    return Suite(name, suite["about"], rows, suite.get("left_out", {}), suite.get("quoted", []))


def quoted_blocks() -> dict[str, dict]:
    """Return papers' figures by name: what they are of, their names, and a row for each model."""
    return yaml.safe_load(QUOTED.read_text(encoding="utf-8"))


def configured(row: Row, seed: int, more: list[Any]) -> CfgNode:
    """Return the configuration of a cell; ``more`` are the user's keys and values, which win."""
    changes = [*row.changes, "compare.models", [], "train.seed", seed, *more]
    return load_config(config_folder() / row.config, changes)


def start_of(cfg: CfgNode) -> str:
    """Return where the re-ID network's weights come from."""
    last = list(stage_configs(cfg).values())[-1]
    files = [Path(last.model[key]).name for key in ("load_weights", "reid_weights") if "{root}" in last.model[key]]
    branches = [own.model.load_weights for own in stage_configs(cfg).values() if "{root}" in own.model.load_weights]
    return (files + [Path(file).name for file in branches] + ["ImageNet" if last.model.pretrained else "random"])[0]
