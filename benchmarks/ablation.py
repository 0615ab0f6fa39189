"""Run a table of ablations: each row is the given configuration with a few keys changed.

    python benchmarks/ablation.py --config-file configs/psh_rnet_mlr_cuhk03_mini.yaml --table losses --root DATA
    python benchmarks/ablation.py --config-file configs/psh_rnet_mlr_market.yaml --list

The tables are in ablations.yaml, with the papers' figures. A row that is done is not run again, nor is one that another
table has, and a stage that several rows share (a teacher) is run once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from torchreid_xres.config import ConfigError, config_hash, load_config, stage_configs
from torchreid_xres.features.tables import ablation_table
from torchreid_xres.files import write_json
from torchreid_xres.jobs.command import USER_ERRORS, tell
from torchreid_xres.jobs.job import run_job
from torchreid_xres.jobs.logs import logged_to

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "benchmarks" / "ablations.yaml"


def tables_of(model: str) -> dict[str, dict]:
    """Return the ablation tables of a model by name.

    Raises:
        ConfigError: if it has none.
    """
    tables = yaml.safe_load(TABLES.read_text(encoding="utf-8"))
    if model not in tables:
        raise ConfigError(f"there is no ablation table for {model!r}; there are some for: {', '.join(tables)}")
    return tables[model]


def from_root(config: str) -> str:
    """Return a configuration's path as a user types it, from the project's root where it is inside."""
    path = Path(config).resolve()
    return str(path.relative_to(ROOT)) if ROOT in path.parents else config


def run_row(config: str, overrides: list[Any], out: Path) -> list[dict]:
    """Run one row as a job in a folder named after what it is, all stages but the last in a folder that rows share.

    Returns:
        The records of the last stage.
    """
    cfg = load_config(config, [*overrides, "compare.models", []])
    home = out / "rows" / config_hash(cfg)[:12]
    cfg = load_config(config, [*overrides, "compare.models", [], "data.save_dir", str(home)])
    with logged_to(home, "train"):
        records = run_job(cfg, shared=out / "shared")
    last = list(stage_configs(cfg))[-1]
    return [record for record in records if record["stage"] == last]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--table", help="name of a table")
    parser.add_argument("--list", action="store_true", help="say which tables the configuration's model has, and stop")
    parser.add_argument("--root", help="folder that holds the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", help="train.seed of several runs of each row")
    parser.add_argument("--out", type=Path, help="folder of the runs; log/ablation_<configuration> if left out")
    parser.add_argument("--keep", type=Path, help="also write the result to this JSON file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="keys changed in every row")
    args = parser.parse_args(argv)
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
        result = {"table": args.table, "source": table["source"], "figures": table["figures"], "rows": []}
        result["command"] = shlex.join(
            ["python", "benchmarks/ablation.py", "--config-file", from_root(args.config_file), "--table", args.table]
            + (["--seeds", *map(str, args.seeds)] if args.seeds else [])
            + args.opts
        )
        for row in table["rows"]:
            records = []
            for seed in args.seeds or [cfg.train.seed]:
                changes = [*common, *table.get("common", []), *row["changes"], "train.seed", seed]
                records += run_row(args.config_file, changes, out)
            result["rows"].append({**row, "records": records})
            write_json(result, out / f"{args.table}.json")
        if args.keep:
            write_json(result, args.keep)
    except USER_ERRORS as error:
        return tell(error)
    targets = ", ".join(cfg.data.targets)
    print(f"\n{targets}, beside figures quoted from {table['source']}\n\n{ablation_table(result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
