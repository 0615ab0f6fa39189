"""Run the cells of a suite, each once, and collect what the benchmark's tables are made from."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cells import features_cell, run_cell, run_vpfa
from suites import Row, Suite, configured, start_of

from torchreid_xres.comparison.gain import gains
from torchreid_xres.comparison.suite import (
    as_latex,
    cost_table,
    quoted_table,
    rate_table,
    suite_table,
    vpfa_table,
)
from torchreid_xres.config import ConfigError, as_dict, config_hash
from torchreid_xres.files import whole_file, write_json

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
            if row.features:
                done = [cell for cell in cells if cell["status"] == "done"]
                work = partial(features_cell, row, seed, manifests_of(done))
                cells.append(facts | {"start": "given", "input": [row.height, 0], "status": "done"} | work())
                continue
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

    The figures by query (``queries``, wherever in a cell) are arrays in a file beside it.
    With ``finished`` nothing is done: the cell in the file is returned whatever became of it, or nothing.
    """
    cell = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if cell:
        cell["start"] = facts["start"]  # as the configuration is read now
    if finished or cell.get("status") == "done":
        return with_arrays(cell, path.with_suffix(".npz"))
    try:
        cell = facts | work() | {"status": "done"}
        write_arrays(arrays_of(cell), path.with_suffix(".npz"))
    except Exception as error:  # whatever is wrong with one cell is no reason to leave the others out
        cell = failed(facts, error)
    write_json(without_arrays(cell), path)
    return cell


def lay_out(kept: Path, suite: Suite, out: Path) -> None:
    """Write the cells of a collected result into a suite's folder, but those that are there, so that none is run again.

    What VPFA's modules made of them is not among it, nor are features that were given.

    Raises:
        ConfigError: if it is of another suite.
    """
    result = json.loads(kept.read_text(encoding="utf-8"))
    if result["suite"] != suite.name:
        raise ConfigError(f"{kept} is of the suite {result['suite']}, not {suite.name}")
    with np.load(kept.with_suffix(".npz"), allow_pickle=False) as file:
        arrays = dict(file)
    for row in result["rows"]:
        facts = {"suite": suite.name} | {key: row[key] for key in ("label", "kind", "config", "start", "input")}
        splits = len(row["records"]) // len(row["cells"])
        trained = [(number, cell) for number, cell in enumerate(row["cells"]) if cell["config_sha256"]]
        for (number, made), cost in zip(trained, row["costs"], strict=True):
            cell = facts | {key: made.pop(key) for key in ("seed", "config_sha256")}
            path = out / "cells" / f"{cell['label']}_{cell['seed']}_{cell['config_sha256'][:12]}.json"
            if path.is_file():
                continue
            own = f"{cell['label']}/{cell['seed']}/"
            queries = {key.removeprefix(own): values for key, values in arrays.items() if key.startswith(own)}
            write_arrays(arrays_of({"queries": queries}), path.with_suffix(".npz"))
            records = row["records"][number * splits : (number + 1) * splits]
            write_json(cell | {"records": records, "cost": cost, "origin": made, "status": "done"}, path)


def write_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write arrays by name into a file, whole or not at all."""
    with whole_file(path) as scratch, open(scratch, "wb") as file:
        np.savez_compressed(file, **arrays)


def arrays_of(part: Any, key: str = "") -> dict[str, np.ndarray]:
    """Return the arrays in a cell by where they are in it: ``queries/mAP``."""
    if isinstance(part, np.ndarray):
        return {key: part}
    inner = part.items() if isinstance(part, dict) else ()
    return {k: v for name, one in inner for k, v in arrays_of(one, f"{key}/{name}" if key else str(name)).items()}


def without_arrays(part: Any) -> Any:
    """Return a cell without its arrays, and without what held nothing else."""
    if not isinstance(part, dict):
        return part
    kept = {name: without_arrays(one) for name, one in part.items() if not isinstance(one, np.ndarray)}
    return {name: one for name, one in kept.items() if one != {} or part[name] == {}}


def with_arrays(cell: dict, path: Path) -> dict:
    """Return a cell with its arrays where they were; as it is if their file is not there."""
    if not path.is_file():
        return cell
    with np.load(path, allow_pickle=False) as file:
        for where in file:
            *way, name = where.split("/")
            at = cell
            for step in way:
                at = at.setdefault(step, {})
            at[name] = file[where]
    return cell


def failed(facts: dict[str, Any], error: Exception) -> dict:
    """Return the cell of a run that failed, and say so."""
    reason = f"{type(error).__name__}: {error}"
    print(f"failed: {reason}", file=sys.stderr, flush=True)
    return facts | {"status": "failed", "reason": reason}


def collected(suite: Suite, cells: list[dict]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what the tables are made from: a row for each model with a finished cell, and what there is not.

    Returns:
        The result, and beside it the figures by query: ``LABEL/SEED/KEY``.
    """
    done = [cell for cell in cells if cell["status"] == "done"]
    manifests = set(manifests_of(done).values())
    told = gains(done, {label: row.against for label, row in suite.rows.items()})
    rows = []
    for label in suite.rows:
        own = [cell for cell in done if cell["label"] == label]
        if own:
            first = {key: own[0][key] for key in ("label", "kind", "config", "start", "input")}
            rows.append({
                **first,
                "seeds": [cell["seed"] for cell in own],
                "records": slim(record for cell in own for record in cell["records"]),
                "costs": [cell["cost"] for cell in own if cell["cost"]],
                "cells": [
                    {"seed": cell["seed"], "config_sha256": cell.get("config_sha256", ""), **cell.get("origin", {})}
                    for cell in own
                ],
                "without_arrays": sum(cell.get("queries") is None for cell in own),
                "difference": told.get(label),
            })  # fmt: skip
    wrong = [(cell, cell) for cell in cells if cell["status"] != "done"]
    wrong += [(cell, cell["vpfa"]) for cell in done if cell.get("vpfa", {}).get("status") == "failed"]
    panned = [cell for cell in done if cell.get("vpfa", {}).get("status") == "done"]
    result = {
        "suite": suite.name,
        "about": suite.about,
        "manifests": sorted(map(str, manifests)),
        "rows": rows,
        "vpfa": panned_rows(suite, panned),
        "failed": [{"label": c["label"], "seed": c["seed"], "reason": part["reason"]} for c, part in wrong],
        "left_out": suite.left_out,
    }
    arrays = {f"{cell['label']}/{cell['seed']}/{key}": values
              for cell in done for key, values in (cell.get("queries") or {}).items()}  # fmt: skip
    return result, arrays


def manifests_of(cells: list[dict]) -> dict[tuple[str, int], str]:
    """Return the manifests of finished cells by data set and split.

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
    return {where: next(iter(held)) for where, held in found.items()}


def write_result(result: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write a collected result, and the figures by query into the ``.npz`` beside it."""
    write_arrays(arrays, path.with_suffix(".npz"))
    write_json(result, path)


def panned_rows(suite: Suite, cells: list[dict]) -> list[dict]:
    """Return a row for each model whose low images were moved: what each module of VPFA makes of them."""
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
                "difference": gains(parts, dict.fromkeys(modules, "before"), same_training=True),
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
    shown += [f"Low images' features moved by VPFA's modules\n\n{vpfa_table(result, style)}"] if result["vpfa"] else []
    gone = [f"{fault['label']}, seed {fault['seed']}: {fault['reason']}" for fault in result["failed"]]
    gone += [f"{label}: {reason}" for label, reason in result["left_out"].items()]
    shown += ["Not in the table:\n" + "\n".join(f"- {line}" for line in gone)] if gone else []
    for block in quoted:
        shown.append(f"Quoted, not measured here: {block['about']}\n\n{quoted_table(block, style)}")
    text = "\n\n".join(shown)
    return as_latex(text) if style.startswith("latex") else text
