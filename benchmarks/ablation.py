"""Run a table of ablations: each row is the given configuration with a few keys changed.

    python benchmarks/ablation.py --config-file configs/psh_rnet_mlr_cuhk03_mini.yaml --table losses --root DATA
    python benchmarks/ablation.py --config-file configs/psh_rnet_mlr_market.yaml --list

The tables are in ablations.yaml, with the papers' figures and what a row has other than the paper's. A row that is
done is not run again, nor is one that another table has, and a stage that several rows share (a teacher) is run once.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

from front_end_effect import restoration

from torchreid_xres.config import ConfigError, config_hash, load_config, stage_configs
from torchreid_xres.features.tables import ablation_table
from torchreid_xres.files import write_json
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.logs import logged_to
from torchreid_xres.yaml_text import read_yaml

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "benchmarks" / "ablations.yaml"


@cache
def all_tables() -> dict[str, dict[str, dict]]:
    """Return the ablation tables by model and name."""
    return read_yaml(TABLES.read_text(encoding="utf-8"))


def tables_of(model: str) -> dict[str, dict]:
    """Return the ablation tables of a model by name.

    Raises:
        ConfigError: if it has none.
    """
    if model not in all_tables():
        raise ConfigError(f"there is no ablation table for {model!r}; there are some for: {', '.join(all_tables())}")
    return all_tables()[model]


def changes_of(table: dict, row: dict) -> list[Any]:
    """Return the keys and values of a row, those that all rows of its table have first."""
    return [*table.get("common", []), *row["changes"]]


def from_root(config: str) -> str:
    """Return a configuration's path as a user types it, from the project's root where it is inside."""
    path = Path(config).resolve()
    return str(path.relative_to(ROOT)) if ROOT in path.parents else config


def run_row(config: str, overrides: list[Any], out: Path, figures: list[str]) -> list[dict]:
    """Run one row as a job in a folder named after what it is, all stages but the last in a folder that rows share.

    Args:
        config: the configuration's file.
        overrides: the row's keys and values.
        out: folder of the table.
        figures: of the table; where ``psnr`` is among them, the restored queries are compared with their originals.

    Returns:
        The records of the last stage.
    """
    cfg = load_config(config, [*overrides, "compare.models", []])
    home = out / "rows" / config_hash(cfg)[:12]
    cfg = load_config(config, [*overrides, "compare.models", [], "data.save_dir", str(home)])
    with logged_to(home, "train"):
        records = run_job(cfg, shared=out / "shared")
    last = list(stage_configs(cfg))[-1]
    records = [record for record in records if record["stage"] == last]
    return [record | _fidelity(cfg, record, home, out) for record in records] if "psnr" in figures else records


def _fidelity(cfg: Any, record: dict, home: Path, out: Path) -> dict[str, float]:
    """Return the mean PSNR and SSIM of the restored queries of a record; nothing where there is nothing to compare."""
    if record["dataset"] != cfg.data.targets[0]:
        return {}
    found = restoration(*trained_engine(own_runs(cfg, record["split_id"], home, out / "shared")[-1].folder))
    return {} if found is None else {figure: float(values.mean()) for figure, values in found[1].items()}


def as_of_now(result: dict) -> dict:
    """Return a measured table with what is said of its rows today; what was measured otherwise than today says so.

    Args:
        result: as this program writes it, now or before its rows were mended.

    Returns:
        The same records; a row whose changes are no longer those of its namesake stands beside no figure of the paper.
    """
    args = parser().parse_args(shlex.split(result["command"])[2:])
    model = load_config(ROOT / args.config_file, args.opts).model.name
    table = all_tables().get(model, {}).get(args.table)
    known = {row["label"]: row for row in table["rows"]} if table else {}
    figures = table["figures"] if table else result["figures"]
    rows = []
    for kept in result["rows"]:
        row, measured = known.get(kept["label"]), changes_of(result, kept)
        if row is None or changes_of(table, row) != measured:
            words = " ".join(part if isinstance(part, str) else json.dumps(part) for part in measured)
            told = f"measured before this row was mended, with {words or 'no key changed'}: no row of the paper"
            rows.append({**kept, "paper": "", "quoted": [None] * len(figures), "differs": [told]})
            continue
        differs = [*row["differs"], *other_places(model, args, row)]
        found = [(record["config_sha256"], record["seed"]) for record in kept["records"]]
        if any(sha256 not in hashes(args, [*measured, "train.seed", seed]) for sha256, seed in found):
            differs.append(f"measured under an earlier state of {args.config_file}, or of the defaults of its keys")
        rows.append({**kept, **row, "differs": differs})
    return {**result, "source": table["source"] if table else result["source"], "figures": figures, "rows": rows}


def hashes(args: argparse.Namespace, changes: list[Any]) -> tuple[str, ...]:
    """Return the hash that the records of a row have today, as of machines without and with a GPU."""
    return _hashes(args.config_file, json.dumps([*args.opts, *changes]))


@cache
def _hashes(config: str, changes: str) -> tuple[str, ...]:
    cfg = load_config(ROOT / config, [*json.loads(changes), "compare.models", []])
    found = []
    for cfg.use_gpu in (False, True):
        found.append(own_runs(cfg, 0, Path("log"))[-1].sha256)
    return tuple(found)


def other_places(model: str, args: argparse.Namespace, row: dict) -> list[str]:
    """Return a line for each other row of the model that is the same configuration and has other figures of a paper."""
    own, lines = all_tables()[model][args.table], []
    mine = dict(zip(own["figures"], row["quoted"], strict=True))
    for table in all_tables()[model].values():
        for other in table["rows"]:
            theirs = dict(zip(table["figures"], other["quoted"], strict=True))
            unlike = [key for key in mine if None not in (mine[key], theirs.get(key)) and mine[key] != theirs[key]]
            if unlike and hashes(args, changes_of(own, row)) == hashes(args, changes_of(table, other)):
                there = f"{unlike[0].replace('rank', 'rank-')} {theirs[unlike[0]]:g}"
                lines.append(f"by its configuration the row is also that of {other['paper']}, quoted with {there}")
    return lines


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's command line, which also reads the commands that results keep."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--config-file", required=True)
    made.add_argument("--table", help="name of a table")
    made.add_argument("--list", action="store_true", help="say which tables the configuration's model has, and stop")
    made.add_argument("--root", help="folder that holds the data sets")
    made.add_argument("--seeds", type=int, nargs="+", help="train.seed of several runs of each row")
    made.add_argument("--out", type=Path, help="folder of the runs; log/ablation_<configuration> if left out")
    made.add_argument("--keep", type=Path, help="also write the result to this JSON file")
    made.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="keys changed in every row")
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        common = [*(["data.root", args.root] if args.root else []), *args.opts]
        cfg = load_config(args.config_file, common)
        tables = tables_of(cfg.model.name)
        if args.list or args.table not in tables:
            shown = "\n".join(f"{name}: {len(t['rows'])} rows ({t['source']})" for name, t in tables.items())
            if args.list:
                print(shown)
                return 0
            wrong = "--table is needed" if args.table is None else f"no table {args.table!r} for {cfg.model.name!r}"
            raise ConfigError(f"{wrong}. There are:\n{shown}")
        table = tables[args.table]
        out = args.out or Path("log") / f"ablation_{Path(args.config_file).stem}"
        result: dict[str, Any] = {"table": args.table, **table, "rows": []}
        result["command"] = shlex.join(
            ["python", "benchmarks/ablation.py", "--config-file", from_root(args.config_file), "--table", args.table]
            + (["--seeds", *map(str, args.seeds)] if args.seeds else [])
            + args.opts
        )
        for row in table["rows"]:
            records = []
            for seed in args.seeds or [cfg.train.seed]:
                changes = [*common, *changes_of(table, row), "train.seed", seed]
                records += run_row(args.config_file, changes, out, table["figures"])
            result["rows"].append({**row, "records": records})
            write_json(result, out / f"{args.table}.json")
        if args.keep:
            write_json(result, args.keep)
    except USER_ERRORS as error:
        return tell(error)
    targets = ", ".join(cfg.data.targets)
    print(f"\n{targets}, beside figures quoted from {table['source']}\n\n{ablation_table(as_of_now(result))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
