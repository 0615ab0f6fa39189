"""The suites of suites.yaml: which rows there are, the configuration of each, and what papers say (quoted.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, file_says, load_config, stage_configs, value_of
from torchreid_xres.config_files import config_folder
from torchreid_xres.features.records import read_json
from torchreid_xres.jobs.run import model_options
from torchreid_xres.models import MODELS
from torchreid_xres.yaml_text import read_yaml

SUITES = Path(__file__).with_name("suites.yaml")
QUOTED = Path(__file__).with_name("quoted.yaml")
# What a suite's rows must agree in, so that they are measured alike.
PROTOCOL = (
    "data.sources", "data.targets", "data.options", "data.rates", "data.kernel", "data.protocol_seed", "data.grey_bits",
    "data.split_id", "data.num_splits", "data.combineall", "data.load_train_targets", "data.height", "data.width",
    "data.part", "data.pictures",
    "test.metric", "test.draws", "test.seed", "cuhk03.labeled_images", "cuhk03.classic_split",
    "cuhk03.use_metric_cuhk03", "market1501.use_500k_distractors",
)  # fmt: skip


class Row(NamedTuple):
    """A model of a suite.

    Attributes:
        label: its name in tables.
        kind: rows of one kind stand together.
        config: its configuration's file; of features given: folders that hold ``query.npz`` and ``gallery.npz``.
        changes: keys changed in it, each followed by its value.
        against: label of the row it is compared with.
        seeds: of its cells.
        members: networks that it is an ensemble of; 0: it is none.
        features: whether its features are given.
        height: of the network's input where they are, pixels.
    """

    label: str
    kind: str
    config: str
    changes: list[Any]
    against: str
    seeds: list[int]
    members: int = 0
    features: bool = False
    height: int = 0


class Suite(NamedTuple):
    """A suite by its name: rows by label, what is not in it and why, what it is about, and what all rows have."""

    name: str
    about: str
    rows: dict[str, Row]
    left_out: dict[str, str]
    quoted: list[str]
    common: list[Any]


def as_pairs(changes: Mapping[str, Any] | None) -> list[Any]:
    """Return keys and values one after the other, as :func:`load_config` takes them."""
    return [part for pair in (changes or {}).items() for part in pair]


def suite_of(name: str) -> Suite:
    """Return a suite of suites.yaml.

    Raises:
        ConfigError: if there is none of that name.
    """
    content = read_yaml(SUITES.read_text(encoding="utf-8"))
    suites, groups = content["suites"], content["groups"]
    if name not in suites:
        raise ConfigError(f"there is no suite {name!r}; there are: {', '.join(suites)}")
    suite = suites[name]
    parts = {kind: groups[group] for kind, group in suite.get("groups", {}).items()} | suite.get("rows", {})
    own, against = suite.get("changes", {}), suite.get("compared", {})
    rows = {}
    for kind, members in parts.items():
        seeds = suite.get("seeds_of", {}).get(kind, suite["seeds"])
        for label, member in members.items():
            if label in suite.get("left_out", {}):
                continue
            changes = [suite.get("common"), member.get("changes"), own.get(kind), own.get(label)]
            flat = [part for group in changes for part in as_pairs(group)]
            other = against.get(label, member.get("against", suite["against"]))
            seen = suite.get("seeds_of", {}).get(label, seeds)
            rows[label] = Row(label, kind, member["config"], flat, other, seen, member.get("members", 0))
    return Suite(
        name, suite["about"], rows, suite.get("left_out", {}), suite.get("quoted", []), as_pairs(suite.get("common"))
    )


def given_row(suite: Suite, text: str) -> Row:
    """Return the row that a user names as ``LABEL=CONFIG``, or ``LABEL=FOLDER[,FOLDER...]`` with features.

    What its configuration does not say the suite does: which images, at which rates, at which size.

    Raises:
        ConfigError: for a text of another form, a label that is taken, or a configuration of another protocol.
    """
    label, _, source = text.partition("=")
    if not label or not source:
        raise ConfigError(f"--row is LABEL=CONFIG, or LABEL=FOLDER with query.npz and gallery.npz, not {text!r}")
    if label in suite.rows:
        raise ConfigError(f"--row {label}: the suite {suite.name} has a row of that name; take another")
    seeds = next(iter(suite.rows.values())).seeds
    protocol = load_config(None, suite.common)
    folders = source.split(",")
    if all((Path(folder) / "query.npz").is_file() for folder in folders):
        counted = list(range(1, len(folders) + 1))
        row = Row(label, "given", source, [], suite.rows[_strongest(suite)].label, counted, features=True)
        return row._replace(height=protocol.data.height)
    own = load_config(source)
    stages = {f"stages.{name}.": stage for name, stage in stage_configs(own).items() if name}
    changes = []
    for key in PROTOCOL:
        wanted = value_of(protocol, key)
        said = [(key, value_of(own, key))] if file_says(source, key) else []
        said += [(f"{at}{key}", value_of(one, key)) for at, one in stages.items() if file_says(source, f"{at}{key}")]
        for where, value in said:
            if value != wanted:
                raise ConfigError(
                    f"--row {label}: {source} has {where} {value}, and {suite.name} is measured with {wanted}; rows of "
                    f"another protocol do not stand in its table. Leave the key out, or set it to {wanted}"
                )
        changes += [key, wanted]
    return Row(label, "given", str(Path(source).resolve()), changes, _strongest(suite), seeds)


def _strongest(suite: Suite) -> str:
    return "augmented" if "augmented" in suite.rows else next(iter(suite.rows.values())).against


def kept_result(name: str) -> Path:
    """Return the file of a suite's kept result."""
    return Path(__file__).parent / "results" / f"accuracy_{name}.json"


def kept_seconds(name: str) -> dict[str, float]:
    """Return the processor seconds of a cell of each kept row of a suite, the mean over its seeds."""
    path = kept_result(name)
    rows = read_json(path)["rows"] if path.is_file() else []
    return {row["label"]: mean(c["train_processor_seconds"] for c in row["costs"]) for row in rows if row["costs"]}


def quoted_blocks() -> dict[str, dict]:
    """Return papers' figures by name: what they are of, their names, and a row for each model."""
    return read_yaml(QUOTED.read_text(encoding="utf-8"))


def configured(row: Row, seed: int, more: list[Any]) -> CfgNode:
    """Return the configuration of a cell; ``more`` are the user's keys and values, which win.

    The networks of an ensemble have seeds of their own, which no other cell has; the first of a larger one are those of
    a smaller one.
    """
    changes = [*row.changes, "compare.models", [], "train.seed", seed]
    for number in range(1, row.members + 1):
        changes += [f"stages.n{number}.train.seed", 100 * seed + number]
    if row.members:
        branches = [f"{{n{number}}}" for number in range(1, row.members + 1)]
        fused = {"branches": branches, "weights": [1.0] * row.members, "search": []}
        changes += ["stages.fused.task", "fuse", "stages.fused.fusion", fused]
    return load_config(config_folder() / row.config, [*changes, *more])


def start_of(cfg: CfgNode) -> str:
    """Return where the weights of the re-ID networks come from: of the last stage, or of what it begins with."""
    stages = stage_configs(cfg)
    last = list(stages.values())[-1]
    named = last.fusion.branches if last.task == "fuse" else [last.model.gallery_run]
    made = [own for name, own in stages.items() if f"{{{name}}}" in named] or [last]
    return " + ".join(dict.fromkeys(map(_start, made)))


def _start(cfg: CfgNode) -> str:
    if cfg.model.load_weights:
        return Path(cfg.model.load_weights).name
    options = model_options(cfg, cfg.model.name) if cfg.model.name in MODELS else {}
    if options.get("reid_weights"):
        return Path(options["reid_weights"]).name
    return "ImageNet" if cfg.model.pretrained else "random"
