"""Rank-1 and mAP of trained runs under each option of speed: what rounding does to the ranks.

    python benchmarks/precision.py log/dgrl_mlr_cuhk03_mini/split0/dgrl --root DATA --compile

The first side is single precision in the plain layout; the others add one option after the other.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import measure
import torch

from torchreid_xres.engine.base import LAST
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.jobs.run import Run

SIDES = {
    "fp32": {},
    "+ channels last": {"channels_last": True},
    "+ bf16": {"precision": "bf16_unchecked"},
    "+ compile": {"compile": True},
}


def record_of(folder: Path, root: str | None, options: dict, scratch: Path) -> dict:
    """Return the record of a trained run's first target under some options of ``train``."""
    run = Run.load(folder)
    cfg = run.cfg
    cfg.test.evaluate, cfg.test.query_rates, cfg.model.load_weights = True, [], str(folder / LAST)
    cfg.data.root = root or cfg.data.root
    for name, value in {"channels_last": False, "precision": "fp32", "compile": False, **options}.items():
        cfg.train[name] = value
    run.folder = scratch
    return run.evaluate()[0]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of trained runs")
    parser.add_argument("--root", help="folder that holds the data sets; where each run had them if left out")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write the result to this JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    try:
        for folder in args.runs:
            options, first = {}, {}
            for side, more in SIDES.items():
                if side == "+ compile" and not args.compile:
                    continue
                options |= more
                with tempfile.TemporaryDirectory() as scratch:
                    found = record_of(folder, args.root, options, Path(scratch))
                first = first or found
                rows.append({
                    "data set": found["dataset"], "model": found["model"], "side": side,
                    **{name: found[name] for name in ("rank1", "rank5", "mAP")},
                    "rank1 moved": found["rank1"] - first["rank1"], "mAP moved": found["mAP"] - first["mAP"],
                })  # fmt: skip
    except USER_ERRORS as error:
        return tell(error)
    measure.finish(args, "Ranks under each option", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
