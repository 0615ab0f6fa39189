"""Run a kept cell of a suite again, and compare what comes out.

    xres bench verify --suite vehicle2cam --root DATA --cell dgrl:2

On the same machine, with the same code and libraries, it comes out to the last digit. On another rounding goes other
ways, and a training with it: then the figures are to lie within twice the standard deviation over the row's kept seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from collect import run_suite
from suites import kept_result, suite_of

from torchreid_xres.config import ConfigError
from torchreid_xres.features.records import read_json

KEYS = ("rank1", "mAP")
TWICE = 2  # standard deviations over seeds that a cell may lie off on another machine


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "xres bench verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", required=True, help="a name of suites.yaml")
    parser.add_argument("--cell", required=True, metavar="LABEL:SEED")
    parser.add_argument("--root", help="folder that holds the data sets")
    parser.add_argument("--kept", type=Path, help="file with the suite's rows; default: the one beside the code")
    parser.add_argument("--out", type=Path, help="folder of the new cell; log/verify_<suite> if left out")
    return parser


def verify(argv: list[str]) -> int:
    """Run a cell again, print both figures, and return the exit status: 1 if they are too far apart."""
    args = parser().parse_args(argv)
    suite = suite_of(args.suite)
    label, _, text = args.cell.partition(":")
    kept = read_json(args.kept or kept_result(suite.name))
    rows = {row["label"]: row for row in kept["rows"]}
    if label not in suite.rows or label not in rows or text not in map(str, rows[label]["seeds"]):
        there = ", ".join(f"{name}:{seed}" for name, row in rows.items() if name in suite.rows for seed in row["seeds"])
        raise ConfigError(f"--cell {args.cell}: no such cell is kept; there are: {there}")
    old, seed = rows[label], int(text)
    out = args.out or Path("log") / f"verify_{suite.name}"
    (cell,) = run_suite(suite, [(seed, suite.rows[label])], ["data.root", args.root] if args.root else [], out)
    if cell["status"] != "done":
        return 1
    found = compared(by_seed(old), seed, cell["records"])
    made = old["cells"][old["seeds"].index(seed)]
    differs = [f"{key}: {made.get(key)}, now {now}" for key, now in cell["origin"].items() if made.get(key) != now]
    print(f"\n{label}, seed {seed}, of {suite.name}")
    for key, part in found.items():
        print(f"{key}: kept {part.kept:.2f}, now {part.now:.2f}: {part.told}")
    print("other than then: " + "; ".join(differs) if differs else "code, libraries, processor and threads as then")
    return int(any(not part.sound for part in found.values()))


class Compared(NamedTuple):
    """A figure as kept and as it is now, in per cent, and the standard deviation over seeds; None: of one seed."""

    kept: float
    now: float
    deviation: float | None

    @property
    def sound(self) -> bool:
        """Whether the figure came out again."""
        return self.now == self.kept or abs(self.now - self.kept) <= TWICE * (self.deviation or 0.0)

    @property
    def told(self) -> str:
        """Say so."""
        if self.now == self.kept:
            return "the same"
        gap = f"{self.now - self.kept:+.2f}"
        if self.deviation is None:
            return f"{gap}, and one seed says nothing of how far is near"
        return f"{gap}, {'within' if self.sound else 'beyond'} {TWICE} x {self.deviation:.2f}"


def by_seed(row: dict[str, Any]) -> dict[int, list[dict]]:
    """Return the records of a kept row, one for each split, by seed."""
    splits = len(row["records"]) // len(row["seeds"])
    return {seed: row["records"][i * splits : (i + 1) * splits] for i, seed in enumerate(row["seeds"])}


def compared(kept: dict[int, list[dict]], seed: int, now: list[dict]) -> dict[str, Compared]:
    """Return the figures of a cell's records beside those that are kept of it, the means over splits.

    Example:
        >>> kept = {1: [{"rank1": 50.0, "mAP": 60.0}], 2: [{"rank1": 54.0, "mAP": 60.0}]}
        >>> compared(kept, 1, [{"rank1": 52.0, "mAP": 60.5}])["rank1"].told
        '+2.00, within 2 x 2.83'
        >>> compared(kept, 1, [{"rank1": 52.0, "mAP": 60.5}])["mAP"].sound
        False
    """
    found = {}
    for key in KEYS:
        of_seeds = {one: mean(record[key] for record in records) for one, records in kept.items()}
        deviation = stdev(of_seeds.values()) if len(of_seeds) > 1 else None
        found[key] = Compared(of_seeds[seed], mean(record[key] for record in now), deviation)
    return found
