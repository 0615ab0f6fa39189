"""The benchmark of the field: every method, every front end and torchreid's own networks, alike, on one data set.

    xres bench --suite synth_person
    xres bench --suite cuhk03_mini --root DATA --seeds 1 2 3
    xres bench --suite vehicle2cam --root DATA --only osnet_x0_25 bicubic vdsr train.max_epoch 4
    xres bench --suite synth_person --vpfa     # and each model with its low images' features moved
    xres bench --suite synth_person --finished  # the tables of what was run so far
    xres bench --suite vehicle2cam --with KEPT.json --keep KEPT.json   # what is missing in a collected result, into it
    xres bench --suite vehicle2cam --list
    xres bench --suite cuhk03_mini --root DATA --row mine=mine.yaml   # or mine=FOLDER with features
    xres bench --suite cuhk03_mini --root DATA --row mine=mine.yaml --submit mine/   # to be sent to others
    xres bench --suite mlr_market --dry    # whether a suite at the papers' sizes would run, and for how long
    xres bench check mine/      # whether what was sent says what it shows
    xres bench verify --suite vehicle2cam --root DATA --cell dgrl:2   # whether a kept cell comes out again

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
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suites import Row, Suite


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "xres bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", required=True, help="a name of suites.yaml")
    parser.add_argument("--root", help="folder that holds the data sets")
    parser.add_argument("--seeds", nargs="+", help="train.seed of each row's cells; default: the suite's")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="these rows only")
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="LABEL=CONFIG",
        dest="given",
        help="a row of your own beside the suite's (with --only: those and this): a configuration, or folders with the "
        "features query.npz and gallery.npz, one for each seed, separated by commas",
    )
    parser.add_argument("--vpfa", action="store_true", help="also learn VPFA's modules for each trained model")
    parser.add_argument("--finished", action="store_true", help="run nothing, show what was run so far")
    parser.add_argument("--list", action="store_true", help="say which rows the suite has, and stop")
    parser.add_argument(
        "--dry", action="store_true", help="a step of each row on drawn stand-ins for the set, and stop"
    )
    parser.add_argument("--images-a-second", type=float, default=0.0, help="of another machine that trains resnet50")
    parser.add_argument("--out", type=Path, help="folder of cells and runs; log/accuracy_<suite> if left out")
    parser.add_argument(
        "--with", type=Path, dest="earlier", metavar="KEPT", help="do not run again what --keep wrote there"
    )
    parser.add_argument("--keep", type=Path, help="also write the collected result to this JSON file")
    parser.add_argument("--submit", type=Path, metavar="FOLDER", help="also write the one --row there, for others")
    parser.add_argument("--style", default="github", help="a table format of tabulate: github, simple, latex_booktabs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="keys changed in every row")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["check"], ["verify"]):
        return other_command(*argv)
    args = parse(argv)
    from torchreid_xres.jobs.ending import carried_out

    return carried_out(lambda: bench(args), "the same command goes on with the cells that are left")


def other_command(name: str, *argv: str) -> int:
    """Carry out ``check`` or ``verify``, and return the exit status."""
    from submission import check
    from verify import verify

    from torchreid_xres.jobs.ending import carried_out

    work = {"check": check, "verify": verify}[name]
    return carried_out(lambda: work(list(argv)), "the same command begins again")


def bench(args: argparse.Namespace) -> int:
    """Run what is not done yet, print the tables, and return the exit status: 1 if no cell is finished."""
    from collect import collected, lay_out, run_suite, tables, write_result
    from submission import submit
    from suites import given_row, quoted_blocks, suite_of

    from torchreid_xres.config import ConfigError
    from torchreid_xres.jobs.command import part_pairs

    part_pairs(args, ("seeds", "only"))
    wrong = [seed for seed in args.seeds or [] if not seed.isdecimal()]
    if wrong:
        raise ConfigError(f"--seeds are whole numbers, not {', '.join(wrong)}")
    suite = suite_of(args.suite)
    own = [given_row(suite, text) for text in args.given]
    if args.submit and len(own) != 1:
        raise ConfigError(f"--submit writes the row of one --row, and there are {len(own)}")
    suite = suite._replace(rows=suite.rows | {row.label: row for row in own})
    unknown = set(args.only or []) - set(suite.rows)
    if unknown:
        raise ConfigError(f"--only names {', '.join(sorted(unknown))}; there are: {', '.join(suite.rows)}")
    if args.list:
        tell_rows(suite, own)
        return 0
    rows = [row for row in suite.rows.values() if not args.only or row.label in args.only or row in own]
    out = args.out or Path("log") / f"accuracy_{suite.name}"
    if args.dry:
        from dry import dry

        return dry(suite, rows, out / "dry", args.images_a_second)
    if args.seeds:
        rows = [row if row.features else row._replace(seeds=list(map(int, args.seeds))) for row in rows]
    seeds = dict.fromkeys(seed for row in rows for seed in row.seeds)
    wanted = [(seed, row) for seed in seeds for row in rows if seed in row.seeds]
    more = [*(["data.root", args.root] if args.root else []), *args.opts]
    if args.earlier:
        lay_out(args.earlier, suite, out)
    cells = run_suite(suite, wanted, more, out, args.vpfa, args.finished)
    result, arrays = collected(suite, cells)
    result["about"] += f" Changed in every row: {shlex.join(args.opts)}." if args.opts else ""
    given = ["--suite", suite.name, *(["--root", "DATA"] if args.root else [])]
    given += [*(["--seeds", *args.seeds] if args.seeds else []), *(["--only", *args.only] if args.only else [])]
    given += [part for text in args.given for part in ("--row", text)]
    given += [f"--{flag}" for flag in ("vpfa", "finished") if getattr(args, flag)] + args.opts
    result["command"] = shlex.join(["python", "benchmarks/accuracy.py", *given])
    if args.keep:
        write_result(result, arrays, args.keep)
    quoted = quoted_blocks()
    print("\n" + tables(result, [quoted[name] for name in suite.quoted], args.style))
    if args.submit:
        submit(suite, own[0], cells, more, result["command"], args.submit)
    print(f"\nnext: each cell's figures are in {out}/cells, what it trained in {out}/runs")
    return 0 if result["rows"] else 1


def tell_rows(suite: Suite, own: list[Row]) -> None:
    """Print a line for each row, and how long the suite takes as far as rows of it are kept."""
    from suites import kept_seconds

    seconds = kept_seconds(suite.name)
    cost = {row.label: len(row.seeds) * seconds[row.label] for row in suite.rows.values() if row.label in seconds}
    for row in suite.rows.values():
        source = row.config if row in own else f"configs/{row.config}"
        took = f", {seconds[row.label]:.0f} processor seconds each" if row.label in seconds else ""
        print(f"{row.label}: {row.kind}, {source}, against {row.against}; {len(row.seeds)} seeds{took}")
    cells = sum(len(row.seeds) for row in suite.rows.values() if row.label in cost)
    print(
        f"{cells} cells of {len(cost)} kept rows take {sum(cost.values()) / 3600:.1f} processor hours; "
        f"{len(suite.rows) - len(cost)} rows were not measured yet"
    )
    print(f"next: xres bench --suite {suite.name}")


if __name__ == "__main__":
    sys.exit(main())
