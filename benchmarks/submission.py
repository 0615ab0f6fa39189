"""A row to be sent to others, in a folder that says all about it, and the check of one that came.

xres bench --suite cuhk03_mini --root DATA --row mine=mine.yaml --submit mine/
xres bench check mine/
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from collect import arrays_of, with_arrays, without_arrays, write_arrays
from provenance import ROOT
from suites import PROTOCOL, Row, Suite, configured, kept_result, suite_of
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, config_hash, config_text, get_config, load_config, value_of
from torchreid_xres.data.protocol import file_sha256
from torchreid_xres.features.records import read_json
from torchreid_xres.files import write_json, write_text

ABOUT = "row.json"
CLOSE = 0.01  # points, between a record's figures and the means over its queries, which are kept in fp32
NEEDED = ("commit", "processor", "threads", "precision", "versions")


class Finding(NamedTuple):
    """What was looked at, and whether it is as it should be; None: it cannot be said, or need not be."""

    sound: bool | None
    told: str


def submit(suite: Suite, row: Row, cells: list[dict], more: list[Any], command: str, folder: Path) -> None:
    """Write a row's finished cells, configurations and figures by query, and what they are of, into a folder.

    Raises:
        ConfigError: if no cell is finished, or the folder holds something else.
    """
    own = [cell for cell in cells if cell["label"] == row.label and cell["status"] == "done"]
    if not own:
        raise ConfigError(f"--submit {folder}: no cell of {row.label} is finished")
    if folder.exists() and not (folder / ABOUT).is_file() and any(folder.iterdir()):
        raise ConfigError(f"--submit {folder}: the folder holds something else; take one that is new or empty")
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for cell in own:
        name = f"{row.label}_{cell['seed']}"
        write_json(without_arrays(cell), folder / f"{name}.json")
        write_arrays(arrays_of(cell), folder / f"{name}.npz")
        names += [f"{name}.json", f"{name}.npz"]
        if not row.features:
            cfg = configured(row, cell["seed"], more)
            cfg.data.root = get_config().data.root
            write_text(config_text(cfg), folder / f"{name}.yaml")
            names.append(f"{name}.yaml")
    manifests = sorted({record["manifest"] for cell in own for record in cell["records"]})
    about = {"suite": suite.name, "label": row.label, "command": command, "manifests": manifests}
    sums = {name: file_sha256(folder / name) for name in names}
    write_json({**about, "seeds": [cell["seed"] for cell in own], "files": sums}, folder / ABOUT)
    print(f"\nthe row {row.label} lies in {folder}; next: xres bench check {folder}")


def findings(folder: Path) -> Iterator[Finding]:
    """Look at a row that was submitted: files, configurations, manifest, figures, and what made them.

    Raises:
        OSError, ValueError: if the folder holds no submitted row.
        ConfigError: for a suite that does not exist.
    """
    about = read_json(folder / ABOUT)
    suite = suite_of(about["suite"])
    sums = {name: file_sha256(folder / name) if (folder / name).is_file() else None for name in about["files"]}
    wrong = [name for name, sha256 in about["files"].items() if sums[name] != sha256]
    yield Finding(not wrong, f"files: {len(sums)} as they were written" if not wrong else f"files: {_list(wrong)} "
                  "missing or changed since")  # fmt: skip
    known = kept_result(suite.name)
    if known.is_file():
        wanted = read_json(known)["manifests"]
        same = about["manifests"] == wanted
        yield Finding(same, f"manifest: {'that' if same else 'not that'} of the suite's kept rows "
                      f"({_list(one[:12] for one in about['manifests'])})")  # fmt: skip
    else:
        yield Finding(None, f"manifest: no rows of {suite.name} are kept here to compare with")
    for seed in about["seeds"]:
        yield from _of_cell(folder / f"{about['label']}_{seed}.json", suite, about["manifests"])


def _of_cell(path: Path, suite: Suite, manifests: list[str]) -> Iterator[Finding]:
    name = path.stem
    try:
        cell = with_arrays(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".npz"))
    except (OSError, ValueError) as error:
        yield Finding(False, f"{name}: {error}")
        return
    if path.with_suffix(".yaml").is_file():
        yield from _of_configuration(name, load_config(path.with_suffix(".yaml")), cell, suite)
    else:
        yield Finding(None, f"{name}: its features were given, and how they came about is not in the folder")
    other = [record["manifest"][:12] for record in cell["records"] if record["manifest"] not in manifests]
    if other:
        yield Finding(False, f"{name}: records of other manifests: {_list(other)}")
    queries = cell.get("queries")
    if queries is None:
        yield Finding(False, f"{name}: no figures by query, so the printed ones cannot be made from them")
        return
    gaps = [gap for split, record in enumerate(cell["records"]) for gap in _gaps(record, queries, split)]
    told = f"{name}: {len(queries['mAP'])} queries give the printed figures"
    yield Finding(not gaps, told if not gaps else f"{name}: the queries give other figures: {'; '.join(gaps)}")
    origin = cell.get("origin", {})
    lost = [key for key in NEEDED if key not in origin] if path.with_suffix(".yaml").is_file() else []
    yield Finding(not lost, f"{name}: {'made by' if not lost else f'says nothing of {_list(lost)}; made by'} "
                  f"{origin.get('processor', '?')}, torch {origin.get('versions', {}).get('torch', '?')}")  # fmt: skip
    yield _of_commit(name, origin.get("commit", ""))


def _of_configuration(name: str, cfg: CfgNode, cell: dict, suite: Suite) -> Iterator[Finding]:
    same = config_hash(cfg) == cell["config_sha256"]
    yield Finding(same, f"{name}: the configuration {'is' if same else 'is not'} the one that was run")
    protocol = load_config(None, suite.common)
    other = [key for key in PROTOCOL if value_of(cfg, key) != value_of(protocol, key)]
    yield Finding(not other, f"{name}: {f'{_list(other)} of another protocol' if other else 'the suite protocol'}")


def _gaps(record: dict, queries: dict[str, np.ndarray], split: int) -> Iterator[str]:
    """Name the figures of a record that its queries do not give."""
    inside = queries["split"] == record["split_id"] if "split_id" in record else queries["split"] == split
    parts = {"": (record, inside)}
    rates = np.array([f"{rate:g}" for rate in queries["rate"].tolist()])
    for rate, part in record.get("by_rate", {}).items():
        parts[f" at x{rate}"] = part, inside & (rates == rate)
    for where, (told, rows) in parts.items():
        for key in ("rank1", "mAP"):
            found = float(np.nanmean(queries[key][rows])) if rows.any() else float("nan")
            if not abs(found - told[key]) <= CLOSE:
                yield f"{key}{where} {found:.2f}, not {told[key]:.2f}"


def _of_commit(name: str, commit: str) -> Finding:
    if commit.endswith("-dirty"):
        return Finding(False, f"{name}: made by changed files over commit {commit.removesuffix('-dirty')}")
    asked = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        known = bool(commit) and subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except OSError:
        known = False
    return Finding(known or None, f"{name}: {commit or 'no commit is named'}{'' if known else ', not known here'}")


def _list(names: Any) -> str:
    return ", ".join(names)


def check(argv: list[str]) -> int:
    """Print what is found in a folder, and return the exit status: 1 if anything is wrong."""
    parser = argparse.ArgumentParser("xres bench check", description="Check a row that was submitted.")
    parser.add_argument("folder", type=Path, help="made by xres bench --submit")
    found = list(findings(parser.parse_args(argv).folder))
    for sound, told in found:
        print(f"{'ok   ' if sound else 'WRONG' if sound is False else 'note '}  {told}")
    return int(any(sound is False for sound, _ in found))
