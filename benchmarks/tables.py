"""Keep a job's records beside the code, and make the documents' tables from what is kept.

    python benchmarks/tables.py keep log/quickstart --name quickstart --command "python tools/train.py ..."
    python benchmarks/tables.py write README.md     # between <!-- accuracy: NAME --> or the like and <!-- end -->, and
                                                    # in sentences <!-- says: SUITE ROW KEY -->12.3<!-- end -->
    python benchmarks/tables.py show quickstart
    python benchmarks/tables.py show first_round_cuhk03_mini --style latex_booktabs
    python benchmarks/tables.py latex first_round_cuhk03_mini --rows bicubic edsr dgrl --columns rank1 mAP mAP_gain
    python benchmarks/tables.py figures log/suite.json --figure mAP --cost multiply_adds --out log/figures
    python benchmarks/tables.py calibration strangers_cuhk03 strangers_vehicle2cam --out log/strangers.svg

latex and figures are of a suite: a kept one, or the file that benchmarks/accuracy.py --keep wrote.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from ablation import as_of_now
from collect import tables
from suites import quoted_blocks, suite_of
from tabulate import tabulate

from torchreid_xres.comparison.calibration import draw_calibration
from torchreid_xres.comparison.curves import FIGURES
from torchreid_xres.comparison.figures import FORMATS, save_figure
from torchreid_xres.comparison.gain import gain
from torchreid_xres.comparison.latex import USUAL, latex_table
from torchreid_xres.comparison.registries import registry_table
from torchreid_xres.comparison.suite import (
    COSTS,
    brief_table,
    cost_table,
    forecast_table,
    quoted_table,
    rate_table,
    restored_table,
    rows_of,
    signed,
    suite_table,
    vpfa_table,
)
from torchreid_xres.comparison.tradeoff import COST_AXES, draw_gains, draw_magnification, queries_beside, usual_cost
from torchreid_xres.features.records import read_json
from torchreid_xres.features.tables import ablation_table, accuracy_table, curve_table
from torchreid_xres.files import write_json, write_text
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.registry import did_you_mean

RESULTS = Path(__file__).parent / "results"
MAKERS = {
    "accuracy": lambda names: accuracy_table(read(names)),
    "curve": lambda names: curve_table(read(names)),
    "registry": registry_table,
    "ablation": lambda name: ablation_table(as_of_now(kept(name))),
    "suite": lambda name: suite_table(kept(name)),
    "brief": lambda names: brief_table(kept(names.split()[0]), names.split()[1:]),
    "restored": lambda names: restored_table(kept(names.split()[0]), names.split()[1:]),
    "rates": lambda name: rate_table(kept(name)),
    "costs": lambda name: cost_table(kept(name)),
    "vpfa": lambda name: vpfa_table(kept(name)),
    "forecast": lambda names: forecast_table([kept(name) for name in names.split()]),
    "quoted": lambda name: quoted_block(name),
    "ratios": lambda name: ratio_table(read(name)),
    "gains": lambda name: gain_table(read(name)),
    "calibration": lambda names: calibration_table(read(names)),
    "surgery": lambda names: surgery_table([kept(name) for name in names.split()]),
    "rows": lambda name: tabulate(read(name), headers="keys", tablefmt="github", floatfmt=".3g"),
}
MARK = re.compile(rf"(<!-- ({'|'.join(MAKERS)}): ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SAYS = re.compile(r"(<!-- says: (\w+) (\w+) (\w+) -->)[^<]*(<!-- end -->)")


def keep(jobs: list[Path], name: str, commands: list[str]) -> Path:
    """Copy the records of finished jobs to ``results/<name>.json``, each with the command that made it.

    Raises:
        ValueError: if there is not one command for each job.
    """
    records = []
    for job, command in zip(jobs, commands, strict=True):
        done = json.loads((job / "stages.json").read_text(encoding="utf-8"))["done"]
        records += [{**record, "command": command} for stage in done.values() for record in stage]
    path = RESULTS / f"{name}.json"
    write_json(records, path)
    return path


def ratio_table(rows: list[dict]) -> str:
    """Return a benchmark's rows without times and speeds, which belong to one machine."""
    own = ("seconds", "img/s", "ms a crop", "lower quartile", "upper quartile", "runs")
    kept = [{key: value for key, value in row.items() if key not in own} for row in rows]
    return tabulate(kept, headers="keys", tablefmt="github", floatfmt=".3g")


def gain_table(rows: list[dict]) -> str:
    """Return a benchmark of options, a line for each network and work: how many times as fast as the first side."""
    lines: dict[tuple, dict] = {}
    for row in rows:
        key = (row["network"], row["work"], row["batch"])
        line = lines.setdefault(key, dict(zip(("network", "work", "batch"), key, strict=True)))
        line[row["side"]] = row["times the first"]
    return tabulate(list(lines.values()), headers="keys", tablefmt="github", floatfmt=".2f")


def calibration_table(rows: list[dict]) -> str:
    """Return expected against counted strangers, a row for each data set and magnification."""
    lines: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        head = {key: row[key] for key in ("data set", "magnification", "images", "queries")}
        line = lines.setdefault(tuple(head.values()), head)
        line[f"counted at {row['expected']:g}"] = row["counted"]
    return tabulate(list(lines.values()), headers="keys", tablefmt="github", floatfmt=".2g")


def surgery_table(results: list[dict]) -> str:
    """Return what trained networks are without each of their parts, a row for each part, data sets side by side.

    Rank-1 by rate stands there where a data set has several rates.

    Args:
        results: as ``benchmarks/surgery.py`` keeps them.
    """
    headers, lines = ["put out"], {row["put out"]: [row["put out"]] for result in results for row in result["rows"]}
    for result in results:
        _, *keys = result["rows"][0]
        keys = keys if len(keys) > 3 else keys[:2]  # one rate says what all queries say
        headers += [f"{result['of']['dataset']}: {keys[0]}", *(key.replace("rank-1 ", "r1@") for key in keys[1:])]
        rows = {row["put out"]: row for row in result["rows"]}
        for part, line in lines.items():
            line += [f"{rows[part][key]:.1f}" if part in rows else "-" for key in keys]
    return tabulate(list(lines.values()), headers, tablefmt="github", disable_numparse=True)


def quoted_block(name: str) -> str:
    """Return papers' figures on a data set, under what is to be known of how they were measured."""
    block = quoted_blocks()[name]
    return f"\n{block['about']}\n\n{quoted_table(block)}"


def read(names: str) -> list[dict]:
    """Return the kept records of several names, separated by blanks."""
    found = [kept(name) for name in names.split()]
    return [record for content in found for record in (content["rows"] if isinstance(content, dict) else content)]


def kept(name: str) -> Any:
    """Return the content of ``results/<name>.json``, or of another JSON file.

    Raises:
        FileNotFoundError: if nothing is kept under that name; the message names the closest.
    """
    path = kept_file(name)
    if not path.is_file():
        names = sorted(other.stem for other in RESULTS.glob("*.json"))
        raise FileNotFoundError(
            f"no records are kept as {name!r}{did_you_mean(name, names)} There are: {', '.join(names) or 'none'}"
        )
    return read_json(path)


def kept_file(name: str) -> Path:
    """Return the file of records by their name, or by their path, which ends in ``.json``."""
    return Path(name) if name.endswith(".json") else RESULTS / f"{name}.json"


def shown(names: list[str], style: str) -> str:
    """Return all tables of a kept suite, or the accuracy of kept records, in a table format of ``tabulate``.

    Raises:
        ValueError: if a suite is named together with something else.
    """
    content = kept(names[0])
    if isinstance(content, list):
        return accuracy_table(read(" ".join(names)), style=style)
    if "suite" not in content or len(names) > 1:
        raise ValueError(f"what is shown is records of evaluations, or one suite; {names[0]} is neither, or not alone")
    quoted = quoted_blocks()
    return tables(content, [quoted[name] for name in suite_of(content["suite"]).quoted], style)


def suite(name: str) -> dict[str, Any]:
    """Return a suite's collected result.

    Raises:
        ValueError: if what is kept is none, or has no row.
    """
    content = kept(name)
    if not isinstance(content, dict) or "suite" not in content or not content["rows"]:
        raise ValueError(f"{name} is no suite with finished rows, as benchmarks/accuracy.py --keep writes it")
    return content


def figures(name: str, labels: list[str], figure: str, cost: str, out: Path) -> Iterator[str]:
    """Draw a suite's gains against a cost, and its accuracy against magnification, and give what is to be said of them.

    Raises:
        ValueError: if there is no such row, no gain, or no figures by query; the gains are drawn before that is known.
    """
    result = suite(name)
    rows = rows_of(result, labels)
    queries = queries_beside(kept_file(name))
    cost = cost or usual_cost(rows)
    for stem, draw in (
        (f"{figure}_gain_over_{cost}", lambda: draw_gains(result, rows, queries, figure, cost)),
        (f"{figure}_over_magnification", lambda: draw_magnification(rows, queries, figure)),
    ):
        drawn = draw()
        for ending in FORMATS:
            save_figure(drawn.figure, out / f"{stem}{ending}")
        yield f"{out / stem}: {drawn.about}"
        yield from (f"- not in it: {label}, {reason}" for label, reason in drawn.left_out.items())


def said(name: str, label: str, key: str) -> str:
    """Return what a sentence says of a row of a suite.

    Args:
        name: of a kept suite.
        label: of the row.
        key: a figure of its records or of its costs, the mean over seeds; ``mAP_gain`` or ``rank1_gain``, with its
            interval; ``mAP_over_LABEL``, that over another row; or ``verdict``, of mAP.

    Raises:
        ValueError: if there is no such row or key.
    """
    figure, _, other = key.partition("_over_")
    if other:
        one, two = (queries_beside(kept_file(name))[which] for which in (label, other))
        figures = (np.array([queries[figure] for queries in side], dtype=float) for side in (one, two))
        return signed(gain(*figures, one[0]["pid"], one[0]["split"])._asdict())
    (row,) = rows_of(suite(name), [label])
    told = row["difference"] or {}
    figure = key.removesuffix("_gain")
    if key == "verdict" and told:
        return told["mAP"]["verdict"]
    if figure != key and figure in told:
        return signed(told[figure])
    if key in COSTS and row["costs"]:
        _, unit, digits = COSTS[key]
        return f"{mean(cost[key] for cost in row['costs']) / unit:.{digits}f}"
    if all(key in record for record in row["records"]):
        return f"{mean(record[key] for record in row['records']):.1f}"
    raise ValueError(f"{name} says nothing of {label}'s {key}")


def filled(text: str) -> str:
    """Return a document with every marked table, and every marked figure in a sentence, made anew."""
    text = MARK.sub(lambda m: f"{m[1]}{MAKERS[m[2]](m[3])}\n{m[4]}", text)
    return SAYS.sub(lambda m: f"{m[1]}{said(m[2], m[3], m[4])}{m[5]}", text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("keep")
    verb.add_argument("jobs", type=Path, nargs="+")
    verb.add_argument("--name", required=True)
    verb.add_argument("--command", required=True, action="append", help="once for each job, in their order")
    verbs.add_parser("write").add_argument("documents", type=Path, nargs="+")
    verb = verbs.add_parser("show")
    verb.add_argument("names", nargs="+", help="records of one kind, or one suite of benchmarks/accuracy.py")
    verb.add_argument("--style", default="github", help="a table format of tabulate: github, simple, latex_booktabs")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("name", metavar="NAME", help="a kept suite, or a JSON file of benchmarks/accuracy.py --keep")
    named.add_argument("--rows", nargs="+", default=[], metavar="LABEL", help="these rows, in this order; default: all")
    verb = verbs.add_parser("latex", parents=[named], help="a table for a paper, with caption and label")
    usual = f"default: {' '.join(USUAL)}; a wrong one lists all"
    verb.add_argument("--columns", nargs="+", default=[], metavar="KEY", help=usual)
    verb.add_argument("--caption", default="", help="LaTeX; made of the suite if left out")
    verb.add_argument("--label", default="", help="tab:SUITE if left out")
    verb.add_argument("--mark-costs", action="store_true", help="mark the least cost of a kind, too")
    verb.add_argument("--out", type=Path, help="a file; printed if left out")
    verb = verbs.add_parser("figures", parents=[named], help="gain against cost, and accuracy against magnification")
    verb.add_argument("--figure", choices=tuple(FIGURES), default="rank1")
    verb.add_argument("--cost", choices=tuple(COST_AXES), default="", help="default: the first that all rows have")
    verb.add_argument("--out", type=Path, required=True, help=f"folder; each figure as {', '.join(FORMATS)}")
    verb = verbs.add_parser("calibration", help="expected against counted strangers, of benchmarks/strangers.py")
    verb.add_argument("names", nargs="+", help="kept results, or JSON files of benchmarks/strangers.py --keep")
    verb.add_argument("--out", type=Path, required=True, help=f"a figure: {', '.join(FORMATS)}")
    args = parser.parse_args(argv)
    try:
        if args.verb == "keep":
            print(keep(args.jobs, args.name, args.command))
        elif args.verb == "show":
            print(shown(args.names, args.style))
        elif args.verb == "latex":
            how = {"caption": args.caption, "label": args.label, "mark_costs": args.mark_costs}
            text = latex_table(suite(args.name), args.rows, args.columns, **how)
            if args.out:
                write_text(text + "\n", args.out)
            print(args.out or text)
        elif args.verb == "figures":
            for line in figures(args.name, args.rows, args.figure, args.cost, args.out):
                print(line)
        elif args.verb == "calibration":
            save_figure(draw_calibration(read(" ".join(args.names))), args.out)
            print(args.out)
        else:
            for document in args.documents:
                if not document.is_file():
                    raise FileNotFoundError(f"there is no document {document}")
                document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
    except USER_ERRORS as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
