"""The benchmark of the field: every method, every front end and torchreid's own networks, alike, on one data set.

    python benchmarks/accuracy.py --suite synth_person
    python benchmarks/accuracy.py --suite cuhk03_mini --root DATA --seeds 1 2 3
    python benchmarks/accuracy.py --suite vehicle2cam --root DATA --only osnet_x0_25 bicubic vdsr train.max_epoch 4
    python benchmarks/accuracy.py --suite vehicle2cam --list

The suites are in suites.yaml: rows with what they have in common (manifest, input size, epochs, batch, augmentation). A
cell is a row under one seed; it is run once, and one that fails is recorded with its reason and tried again by the next
call. All rows have their first seed before any has its second, so a stopped benchmark is whole as far as it goes. The
papers' own figures, from quoted.yaml, stand in tables of their own.

Train (s): wall's clock, all stages. Training img/s: steps of the last stage, or of all branches of a fusion, one after
the other. Extraction img/s: queries and gallery alike. Both with decoding, by the processor's clock where torch has one
thread. Multiply-adds: of one query, the mean over its rates.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import measure
import numpy as np
import torch
import yaml
from throughput import our_calls
from torch.utils.data import default_collate
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, config_hash, load_config, stage_configs
from torchreid_xres.engine.base import LAST, XresMixin, to_device
from torchreid_xres.engine.extraction import run_features
from torchreid_xres.engine.features import FeatureSet
from torchreid_xres.engine.fusion import fused_sets
from torchreid_xres.engine.job import own_runs, run_job
from torchreid_xres.engine.logs import logged_to
from torchreid_xres.engine.run import Run
from torchreid_xres.engine.stages import write_json
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.metrics import rank_features
from torchreid_xres.models.weights import load_weights
from torchreid_xres.report.complexity import complexity
from torchreid_xres.report.suite import as_latex, compared, cost_table, quoted_table, suite_table

ROOT = Path(__file__).resolve().parents[1]
SUITES = ROOT / "benchmarks" / "suites.yaml"
QUOTED = ROOT / "benchmarks" / "quoted.yaml"
TIMED = 4  # batches of training, and of queries and gallery each, that are timed
BULKY = ("cmc", "by_camera", "tpr", "versions", "machine")  # parts of a record that the collected result leaves out


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


def configured(row: Row, seed: int, more: list[Any]) -> CfgNode:
    """Return the configuration of a cell; ``more`` are the user's keys and values, which win."""
    changes = [*row.changes, "compare.models", [], "train.seed", seed, *more]
    return load_config(ROOT / "configs" / row.config, changes)


def run_cell(row: Row, cfg: CfgNode, out: Path) -> dict:
    """Train and evaluate a row under one seed, and measure what it costs.

    Args:
        row: of a suite.
        cfg: its configuration, from :func:`configured`.
        out: folder of the suite; all stages but the last are shared with other cells there.

    Returns:
        ``records`` (the last stage's, one for each split), ``queries`` (figures of single queries, in per cent) and
        ``cost``.
    """
    cfg = cfg.clone()
    cfg.data.save_dir = str(out / "runs" / f"{row.label}_{config_hash(cfg)[:12]}")
    with logged_to(cfg.data.save_dir, "train"):
        records = run_job(cfg, shared=out / "shared")
        last = list(stage_configs(cfg))[-1]
        own = [record for record in records if record["stage"] == last]
        splits = range(cfg.data.split_id, cfg.data.split_id + cfg.data.num_splits)
        ends = [own_runs(cfg, split, Path(cfg.data.save_dir), out / "shared")[-1] for split in splits]
        queries = [figures_of_queries(end, record["protocol"]) for end, record in zip(ends, own, strict=True)]
        cost = cost_of(ends[0].folder)
    seconds = sum(record.get("train_seconds", 0.0) for record in records) / len(ends)
    return {
        "records": own,
        "queries": {key: [value for part in queries for value in part[key]] for key in queries[0]},
        "cost": {**cost, "train_seconds": round(seconds, 1)},
    }


def tested_features(run: Run) -> dict[str, FeatureSet]:
    """Return the features of a finished run's queries and gallery; those of a fusion are put together."""
    roles = ("query", "gallery")
    if run.cfg.task != "fuse":
        return run_features(run.folder, roles)
    branches = [run_features(folder, roles) for folder in run.cfg.fusion.branches]
    return fused_sets(*([branch[role] for branch in branches] for role in roles), run.cfg.fusion.weights)


def figures_of_queries(run: Run, protocol: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return rank-1 and average precision of each query of a finished run, in per cent; None without a match."""
    sets = tested_features(run)
    query, gallery = sets["query"], sets["gallery"]
    how = {key: protocol[key] for key in ("protocol", "draws", "seed")} | {"metric": protocol["distance"]}
    labels = (query.pid, gallery.pid, query.camid, gallery.camid)
    result = rank_features(query.features, gallery.features, *labels, **how)
    first = np.atleast_2d(result.first).astype(float)  # (draws, Q)
    taken = first >= 0
    hits = np.where(result.valid, 100.0 * (taken & (first < 1)).sum(0) / np.maximum(taken.sum(0), 1), np.nan)
    figures = {"rank1": hits, "mAP": 100.0 * result.ap}
    return {key: [None if np.isnan(v) else round(float(v), 3) for v in values] for key, values in figures.items()}


def cost_of(folder: Path) -> dict[str, float]:
    """Return size, multiply-adds and speeds of the network that was trained, or put together, in a folder."""
    run = Run.load(folder)
    trained = run.cfg.fusion.branches if run.cfg.task == "fuse" else [folder]
    train_speed = 1 / sum(1 / training_speed(Run.load(part)) for part in trained)
    run.cfg.test.evaluate = True
    engine = run.engine()
    load_weights(unwrap(engine.model), folder / LAST, strict=True)
    engine.set_model_mode("eval")
    loaders = engine.test_loader[run.cfg.data.targets[0]]
    return {
        "parameters": sum(p.numel() for p in unwrap(engine.model).parameters()),
        "multiply_adds": multiply_adds(engine, loaders["query"].dataset),
        "train_speed": round(train_speed, 1),
        "extraction_speed": round(extraction_speed(engine, loaders), 1),
    }


def training_speed(run: Run) -> float:
    """Return images a second over some training steps, after as many that do not count; the weights stay on disk."""
    train = our_calls(run, TIMED)["training"]
    train()
    start = measure.clock()
    train()
    return TIMED * run.cfg.train.batch_size / (measure.clock() - start)


@torch.no_grad()
def multiply_adds(engine: XresMixin, dataset: Any) -> float:
    """Return those of one query, the mean over the rates that queries have; the first of each rate is taken."""
    model = unwrap(engine.model)
    rates: dict[float, int] = {}
    for index, (path, *_) in enumerate(dataset.data):
        rates.setdefault(dataset.rate_of[path], index)
    counts = []
    for index in rates.values():
        batch = to_device(default_collate([dataset[index]]), next(model.parameters()).device)
        counts.append(complexity(model, batch if hasattr(model, "extract") else batch["img"], depth=0).multiply_adds)
    return float(np.mean(counts))


@torch.no_grad()
def extraction_speed(engine: XresMixin, loaders: Mapping[str, Any]) -> float:
    """Return images a second, over the first batches of queries and gallery after one that does not count."""
    images, seconds = 0, 0.0
    for role in ("query", "gallery"):
        batches = iter(loaders[role])
        for number in range(TIMED + 1):
            start = measure.clock()
            batch = next(batches, None)
            if batch is None:
                break
            with engine.autocast():
                engine.extract(batch).float().cpu()
            if number or len(loaders[role]) == 1:
                images, seconds = images + len(batch["pid"]), seconds + measure.clock() - start
    return images / seconds


def start_of(cfg: CfgNode) -> str:
    """Return where the re-ID network's weights come from."""
    last = list(stage_configs(cfg).values())[-1]
    files = [Path(last.model[key]).name for key in ("load_weights", "reid_weights") if "{root}" in last.model[key]]
    branches = [own.model.load_weights for own in stage_configs(cfg).values() if "{root}" in own.model.load_weights]
    return (files + [Path(file).name for file in branches] + ["ImageNet" if last.model.pretrained else "random"])[0]


def run_suite(suite: Suite, wanted: list[tuple[int, Row]], more: list[Any], out: Path) -> list[dict]:
    """Run what is not done yet of a suite's cells, and return all that were asked for, finished or failed."""
    cells: list[dict] = []
    for seed, row in wanted:
        path, cell = out / "cells" / f"{row.label}_{seed}.json", {}
        facts = {"suite": suite.name, "label": row.label, "kind": row.kind, "seed": seed, "config": row.config}
        try:
            cfg = configured(row, seed, more)
            sha256 = config_hash(cfg)
            path = path.with_stem(f"{path.stem}_{sha256[:12]}")
            if path.is_file():
                cell = json.loads(path.read_text(encoding="utf-8"))
            if cell.get("status") != "done":
                print(f"\n{row.label}, seed {seed}: cell {len(cells) + 1} of {len(wanted)}", flush=True)
                size = [cfg.data.height, cfg.data.width]
                cell = facts | {"config_sha256": sha256, "start": start_of(cfg), "input": size}
                cell |= run_cell(row, cfg, out) | {"status": "done"}
        # Whatever is wrong with one row is no reason to leave the others out.
        except Exception as error:
            print(f"{row.label}, seed {seed} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            cell = facts | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        write_json(cell, path)
        cells.append(cell)
    return cells


def collected(suite: Suite, cells: list[dict]) -> dict[str, Any]:
    """Return what the tables are made from: a row for each model with a finished cell, and what there is not."""
    done = [cell for cell in cells if cell["status"] == "done"]
    manifests = {record["manifest"] for cell in done for record in cell["records"]}
    differences = compared(done, {label: row.against for label, row in suite.rows.items()})
    rows = []
    for label in suite.rows:
        own = [cell for cell in done if cell["label"] == label]
        if own:
            first = {key: own[0][key] for key in ("label", "kind", "config", "start", "input")}
            records = [record for cell in own for record in cell["records"]]
            rows.append({
                **first,
                "seeds": [cell["seed"] for cell in own],
                "records": [{k: v for k, v in record.items() if k not in BULKY} for record in records],
                "costs": [cell["cost"] for cell in own],
                "difference": differences.get(label),
            })  # fmt: skip
    failed = [{key: cell[key] for key in ("label", "seed", "reason")} for cell in cells if cell["status"] != "done"]
    return {
        "suite": suite.name,
        "about": suite.about,
        "manifests": sorted(map(str, manifests)),
        "rows": rows,
        "failed": failed,
        "left_out": suite.left_out,
    }


def tables(result: dict, quoted: list[dict], style: str) -> str:
    """Return all that is to be read of a suite as text in a table format of ``tabulate``."""
    shown = [result["about"], suite_table(result, style=style), cost_table(result, style=style)]
    gone = [f"{fault['label']}, seed {fault['seed']}: {fault['reason']}" for fault in result["failed"]]
    gone += [f"{label}: {reason}" for label, reason in result["left_out"].items()]
    shown += ["Not in the table:\n" + "\n".join(f"- {line}" for line in gone)] if gone else []
    for block in quoted:
        shown.append(f"Quoted, not measured here: {block['about']}\n\n{quoted_table(block, style)}")
    text = "\n\n".join(shown)
    return as_latex(text) if style.startswith("latex") else text


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, help="a name of suites.yaml")
    parser.add_argument("--root", help="folder that holds the data sets")
    parser.add_argument("--seeds", nargs="+", help="train.seed of each row's cells; default: the suite's")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="these rows only")
    parser.add_argument("--list", action="store_true", help="say which rows the suite has, and stop")
    parser.add_argument("--out", type=Path, help="folder of cells and runs; log/accuracy_<suite> if left out")
    parser.add_argument("--keep", type=Path, help="also write the collected result to this JSON file")
    parser.add_argument("--style", default="github", help="a table format of tabulate: github, simple, latex_booktabs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="keys changed in every row")
    args = parser.parse_args(argv)
    for name in ("seeds", "only"):
        # A flag that takes several names also takes the KEY VALUE pairs behind it; keys have a dot, names have none.
        values = getattr(args, name) or []
        first_key = next((i for i, value in enumerate(values) if "." in value), len(values))
        args.opts = values[first_key:] + args.opts
        setattr(args, name, values[:first_key] or None)
    wrong = [seed for seed in args.seeds or [] if not seed.isdecimal()]
    if wrong:
        parser.error(f"--seeds are whole numbers, not {', '.join(wrong)}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        suite = suite_of(args.suite)
        unknown = set(args.only or []) - set(suite.rows)
        if unknown:
            raise ConfigError(f"--only names {', '.join(sorted(unknown))}; there are: {', '.join(suite.rows)}")
        if args.list:
            for row in suite.rows.values():
                print(f"{row.label}: {row.kind}, configs/{row.config}, against {row.against}")
            return 0
        rows = [row for row in suite.rows.values() if not args.only or row.label in args.only]
        rows = [row._replace(seeds=list(map(int, args.seeds))) for row in rows] if args.seeds else rows
        seeds = dict.fromkeys(seed for row in rows for seed in row.seeds)
        wanted = [(seed, row) for seed in seeds for row in rows if seed in row.seeds]
        out = args.out or Path("log") / f"accuracy_{suite.name}"
        more = [*(["data.root", args.root] if args.root else []), *args.opts]
        cells = run_suite(suite, wanted, more, out)
        result = collected(suite, cells)
        given = ["--suite", suite.name, *(["--root", "DATA"] if args.root else [])]
        given += [*(["--seeds", *args.seeds] if args.seeds else []), *(["--only", *args.only] if args.only else [])]
        given += args.opts
        result["command"] = shlex.join(["python", "benchmarks/accuracy.py", *given])
        result |= {key: measure.facts(args)[key] for key in ("machine", "versions")}
        if args.keep:
            write_json(result, args.keep)
        quoted = yaml.safe_load(QUOTED.read_text(encoding="utf-8"))
        print("\n" + tables(result, [quoted[name] for name in suite.quoted], args.style))
    except (ValueError, TypeError, LookupError, OSError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error  # a KeyError quotes its message
        print(f"{type(error).__name__}: {text}", file=sys.stderr)
        return 2
    return 0 if result["rows"] else 1


if __name__ == "__main__":
    sys.exit(main())
