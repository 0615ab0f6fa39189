"""Write one HTML page of an evaluation: figures, curves, worst and best queries, the record; or of several, compared.

    xres report log/quickstart/split0/sr_reid --out report.html
    xres report log/quickstart/split0/sr_reid --against log/quickstart/split0/osnet_x0_25 --out report.html
    xres report log/quickstart/split0 --out report.html
    xres report log/quickstart/split0/sr_reid/results/synth_person.json --no-images --out report.html

Takes folders of trained runs, a folder in which such lie, or the records (results/*.json) that they hold. Of several
the page shows what each run finds and the others miss, and the errors of each. It is one file that asks for nothing
from outside. Unless --no-images is given it holds pictures of the data set, which often show people: give it only to
those who may see the data.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from choices import MOST_QUERIES
from program import ending, new_parser, tool

if TYPE_CHECKING:
    from torchreid_xres.report.page import Evaluation


def parser() -> argparse.ArgumentParser:
    parser = new_parser("report", __doc__)
    parser.add_argument("run", type=Path, help="folder of a trained run, or of several, or a record")
    parser.add_argument(
        "--against", type=Path, nargs="+", default=[], metavar="RUN", help="others on the same data set"
    )
    parser.add_argument("--dataset", default="", help="registered name, if the run was evaluated on several")
    parser.add_argument("--no-images", action="store_true", help="no pictures and lists; needs the records only")
    most = MOST_QUERIES
    parser.add_argument("--count", type=int, default=6, help=f"queries of each kind shown, 1 to {most} (default 6)")
    parser.add_argument("--root", default="", help="folder of the data sets, if not where the run had them")
    page = ending("pages", (".html", ".htm"))
    parser.add_argument("--out", type=page, default=Path("report.html"), help="default report.html")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


def found(args: argparse.Namespace) -> list[Path]:
    """Return the runs and records that are meant: of a folder all runs below it."""
    from torchreid_xres.features.records import evaluated_runs
    from torchreid_xres.terminal import printable

    paths = []
    for path in (args.run, *args.against):
        below = evaluated_runs(path, args.dataset) if path.is_dir() and not (path / "results").is_dir() else [path]
        if below != [path]:
            print(f"{printable(path)}: {len(below)} runs", file=sys.stderr)
        paths += below
    return paths


def read(path: Path, dataset: str) -> Evaluation:
    from torchreid_xres.features.records import read_record
    from torchreid_xres.files import shown_path
    from torchreid_xres.report.page import Evaluation
    from torchreid_xres.report.training import training_lines

    return Evaluation(read_record(path, dataset), shown_path(path), training_lines(path) if path.is_dir() else {})


@tool(parse, "no file is half written")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.devices.memory import keep_freed_memory
    from torchreid_xres.files import require_place, write_text
    from torchreid_xres.pictures.queries import run_queries
    from torchreid_xres.report.page import evaluation_page, labels
    from torchreid_xres.terminal import printable

    require_place(args.out)
    paths = found(args)
    first = read(paths[0], args.dataset)
    runs = [first, *(read(path, first.record["dataset"]) for path in paths[1:])]
    queries = None
    if not args.no_images:
        keep_freed_memory()
        folders = dict(zip(labels(runs), paths, strict=True))
        with redirect_stdout(sys.stderr):  # torchreid's loaders print what they have found
            queries = run_queries(folders, [run.record for run in runs], args.count, args.root)
    write_text(evaluation_page(*runs, queries=queries), args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e3:.0f} kB, {'with' if queries else 'without'} pictures")
    print(f"next: open {printable(args.out)} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
