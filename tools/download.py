"""Fetch published weights and openly offered sets, checked; for the other sets say how to get them.

    xres download list
    xres download get osnet_x0_25_msmt17 rcan_x4 --root path/to/data
    xres download get vehicle2cam --root path/to/data
    xres download get mlr_market1501                   # not ours to give: says how to get it, exit 1

What was cut goes on with the same command, what is there is checked again. A file whose publisher states no SHA-256 is
held to the one found at its first fetch, which SHA256SUMS in the folder keeps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from choices import DATA_ROOT
from program import new_parser, tool


def parser() -> argparse.ArgumentParser:
    parser = new_parser("download", __doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("list", help="show what there is")
    get = tasks.add_parser("get", help="fetch files and sets")
    get.add_argument("names", nargs="+", metavar="NAME", help="as the list has them")
    get.add_argument("--root", type=Path, default=Path(DATA_ROOT), help=f"folder of the sets (default: {DATA_ROOT})")
    get.add_argument("--weights", type=Path, help="folder for weights (default: weights in --root)")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    args = parser().parse_args(argv)
    if args.task == "get":
        args.weights = args.weights or args.root / "weights"
    return args


def show() -> None:
    """Print all offers, and the sets that have to be asked for."""
    from torchreid_xres.data import DATASETS
    from torchreid_xres.data.catalogue import catalogue
    from torchreid_xres.text import text_table

    rows = [
        {"name": offer.name, "what": offer.what, "goes to": offer.use or "--root", "terms": offer.terms}
        for offer in catalogue().values()
    ]
    print(text_table(rows, disable_numparse=[0]))
    others = ", ".join(name for name in DATASETS if name not in catalogue())
    print(f"\nSets that are not fetched; get NAME says how to get them: {others}")


def get(name: str, args: argparse.Namespace) -> int:
    """Fetch one thing, or say how to get it; returns the exit status."""
    from torchreid_xres.data import DATASETS
    from torchreid_xres.data.catalogue import catalogue, how_to_get
    from torchreid_xres.data.download import fetch, fetch_set

    offers = catalogue()
    if name in offers and offers[name].folder:
        print(f"{name}: {fetch_set(offers[name], args.root)} (terms: {offers[name].terms})")
    elif name in offers:
        offer = offers[name]
        found = fetch(offer, args.weights)
        checked = {
            "published": "as published",
            "recorded": "as at its first fetch",
            "first use": "none is published: recorded on first use",
        }
        print(f"{name}: {found.path} {'fetched' if found.new else 'was there'} (for {offer.use}; {offer.terms})")
        print(f"  SHA-256 {found.sha256}, {checked[found.how]}")
    elif name in DATASETS:
        print(how_to_get(name))
        return 1
    else:
        raise KeyError(f"nothing is named {name!r}; 'list' shows what there is")
    return 0


@tool(parse, "the same command goes on where it was")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.jobs.ending import USER_ERRORS, tell

    if args.task == "list":
        show()
        print("next: xres download get NAME")
        return 0
    statuses = []
    for name in args.names:
        try:
            statuses.append(get(name, args))
        except USER_ERRORS as error:
            statuses.append(tell(error))
    print("next: xres list data-sets --root ROOT says what is there; xres list configs, what needs it")
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
