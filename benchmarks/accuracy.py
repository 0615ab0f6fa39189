"""The benchmark of the field: every method, every front end and torchreid's own networks, alike, on one data set.

    python benchmarks/accuracy.py --suite synth_person
    python benchmarks/accuracy.py --suite cuhk03_mini --root DATA --seeds 1 2 3
    python benchmarks/accuracy.py --suite vehicle2cam --root DATA --only osnet_x0_25 bicubic vdsr train.max_epoch 4
    python benchmarks/accuracy.py --suite synth_person --vpfa     # and each model with its queries' features moved
    python benchmarks/accuracy.py --suite synth_person --finished  # the tables of what was run so far
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
import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import measure
from cells import run_cell, run_vpfa
from suites import Row, Suite, configured, quoted_blocks, start_of, suite_of

from torchreid_xres.config import ConfigError, as_dict, config_hash
from torchreid_xres.files import write_json
from torchreid_xres.jobs.command import USER_ERRORS, part_pairs, tell
from torchreid_xres.report.suite import (
    as_latex,
    compared,
    cost_table,
    quoted_table,
    rate_table,
    suite_table,
    vpfa_table,
)

# Parts of a record that the collected result leaves out.
BULKY = ("cmc", "by_camera", "tpr", "accept", "versions", "machine")


def run_suite(
    suite: Suite,
    wanted: list[tuple[int, Row]],
    more: list[Any],
    out: Path,
    with_vpfa: bool = False,
    finished: bool = False,
) -> list[dict]:
    """Run what is not done yet of a suite's cells, and return all that were asked for, finished or failed.

    Args:
        suite: a suite.
        wanted: seeds and rows, in the order to be run.
        more: the user's keys and values.
        out: folder of the suite.
        with_vpfa: learn the modules of VPFA for each finished cell, too.
        finished: run nothing; what was not run is left out.
    """
    cells: list[dict] = []
    for seed, row in wanted:
        if not finished:
            print(f"\n{row.label}, seed {seed}: {len(cells) + 1} of {len(wanted)}", flush=True)
        facts = {"suite": suite.name, "label": row.label, "kind": row.kind, "seed": seed, "config": row.config}
        path = out / "cells" / f"{row.label}_{seed}.json"
        try:
            cfg = configured(row, seed, more)
            sha256 = config_hash(cfg)
            path = path.with_stem(f"{path.stem}_{sha256[:12]}")
            facts |= {"config_sha256": sha256, "start": start_of(cfg), "input": [cfg.data.height, cfg.data.width]}
            cell = kept(path, facts, partial(run_cell, row, cfg, out), finished)
            if with_vpfa and cell.get("status") == "done":
                settings = hashlib.sha256(json.dumps(as_dict(cfg.vpfa), sort_keys=True).encode()).hexdigest()[:8]
                beside = path.with_stem(f"{path.stem}_vpfa_{settings}")
                cell["vpfa"] = kept(beside, facts, partial(run_vpfa, row, cfg, out), finished)
        except ConfigError as error:
            cell = failed(facts, error)
            if not finished:
                write_json(cell, path)
        cells += [cell] if cell else []
    return cells


def kept(path: Path, facts: dict[str, Any], work: Callable[[], dict], finished: bool = False) -> dict:
    """Return the finished cell in a file, or do the work and keep what it gave, or why it did not.

    With ``finished`` nothing is done: the cell in the file is returned whatever became of it, or nothing.
    """
    cell = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if finished or cell.get("status") == "done":
        return cell
    try:
        cell = facts | work() | {"status": "done"}
    except Exception as error:  # whatever is wrong with one cell is no reason to leave the others out
        cell = failed(facts, error)
    write_json(cell, path)
    return cell


def failed(facts: dict[str, Any], error: Exception) -> dict:
    """Return the cell of a run that failed, and say so."""
    reason = f"{type(error).__name__}: {error}"
    print(f"failed: {reason}", file=sys.stderr, flush=True)
    return facts | {"status": "failed", "reason": reason}


def collected(suite: Suite, cells: list[dict]) -> dict[str, Any]:
    """Return what the tables are made from: a row for each model with a finished cell, and what there is not."""
    done = [cell for cell in cells if cell["status"] == "done"]
    manifests = one_manifest(done)
    differences = compared(done, {label: row.against for label, row in suite.rows.items()})
    rows = []
    for label in suite.rows:
        own = [cell for cell in done if cell["label"] == label]
        if own:
            first = {key: own[0][key] for key in ("label", "kind", "config", "start", "input")}
            rows.append({
                **first,
                "seeds": [cell["seed"] for cell in own],
                "records": slim(record for cell in own for record in cell["records"]),
                "costs": [cell["cost"] for cell in own],
                "difference": differences.get(label),
            })  # fmt: skip
    wrong = [(cell, cell) for cell in cells if cell["status"] != "done"]
    wrong += [(cell, cell["vpfa"]) for cell in done if cell.get("vpfa", {}).get("status") == "failed"]
    panned = [cell for cell in done if cell.get("vpfa", {}).get("status") == "done"]
    return {
        "suite": suite.name,
        "about": suite.about,
        "manifests": sorted(map(str, manifests)),
        "rows": rows,
        "vpfa": panned_rows(suite, panned),
        "failed": [{"label": c["label"], "seed": c["seed"], "reason": part["reason"]} for c, part in wrong],
        "left_out": suite.left_out,
    }


def one_manifest(cells: list[dict]) -> set[str]:
    """Return the manifests of finished cells, one for each data set and split.

    Raises:
        ValueError: if cells were measured under several, and which; such cannot stand in one table.
    """
    found: dict[tuple, dict[str, str]] = {}
    for cell in cells:
        for record in cell["records"]:
            held = found.setdefault((record["dataset"], record["split_id"]), {})
            held.setdefault(record["manifest"], f"{cell['label']}, seed {cell['seed']}")
    for (dataset, split), held in found.items():
        if len(held) > 1:
            told = "; ".join(f"{str(manifest)[:12]} ({first})" for manifest, first in held.items())
            raise ValueError(f"cells of {dataset}, split {split}, are of several manifests, the first of each: {told}")
    return {manifest for held in found.values() for manifest in held}


def panned_rows(suite: Suite, cells: list[dict]) -> list[dict]:
    """Return a row for each model whose queries were moved: what each module of VPFA makes of them."""
    rows = []
    for label in suite.rows:
        own = [cell for cell in cells if cell["label"] == label]
        if own:
            parts = [{"label": name, **part} for cell in own for name, part in cell["vpfa"]["parts"].items()]
            modules = [name for name in own[0]["vpfa"]["parts"] if name != "before"]
            rows.append({
                "label": label,
                "seeds": [cell["seed"] for cell in own],
                "records": {name: slim(rec for part in parts if part["label"] == name for rec in part["records"])
                            for name in modules},
                "difference": compared(parts, dict.fromkeys(modules, "before"), same_training=True),
            })  # fmt: skip
    return rows


def slim(records: Iterable[dict]) -> list[dict]:
    """Return records without what the tables do not need."""
    return [{key: value for key, value in record.items() if key not in BULKY} for record in records]


def tables(result: dict, quoted: list[dict], style: str) -> str:
    """Return all that is to be read of a suite as text in a table format of ``tabulate``."""
    shown = [result["about"]]
    if result["rows"]:
        by_rate = rate_table(result, style)
        shown += [suite_table(result, style=style), *([by_rate] if by_rate else []), cost_table(result, style)]
    else:
        shown += ["No cell is finished."]
    shown += [f"Queries' features moved by VPFA's modules\n\n{vpfa_table(result, style)}"] if result["vpfa"] else []
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
    parser.add_argument("--vpfa", action="store_true", help="also learn VPFA's modules for each trained model")
    parser.add_argument("--finished", action="store_true", help="run nothing, show what was run so far")
    parser.add_argument("--list", action="store_true", help="say which rows the suite has, and stop")
    parser.add_argument("--out", type=Path, help="folder of cells and runs; log/accuracy_<suite> if left out")
    parser.add_argument("--keep", type=Path, help="also write the collected result to this JSON file")
    parser.add_argument("--style", default="github", help="a table format of tabulate: github, simple, latex_booktabs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="keys changed in every row")
    args = parser.parse_args(argv)
    part_pairs(parser, args, ("seeds", "only"))
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
        cells = run_suite(suite, wanted, more, out, args.vpfa, args.finished)
        result = collected(suite, cells)
        given = ["--suite", suite.name, *(["--root", "DATA"] if args.root else [])]
        given += [*(["--seeds", *args.seeds] if args.seeds else []), *(["--only", *args.only] if args.only else [])]
        given += [f"--{flag}" for flag in ("vpfa", "finished") if getattr(args, flag)] + args.opts
        result["command"] = shlex.join(["python", "benchmarks/accuracy.py", *given])
        result |= {key: measure.facts(args)[key] for key in ("machine", "versions")}
        if args.keep:
            write_json(result, args.keep)
        quoted = quoted_blocks()
        print("\n" + tables(result, [quoted[name] for name in suite.quoted], args.style))
    except USER_ERRORS as error:
        return tell(error)
    return 0 if result["rows"] else 1


if __name__ == "__main__":
    sys.exit(main())
