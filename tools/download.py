"""Fetch published weights and openly offered sets, checked; for the other sets say how to get them.

    python tools/download.py list
    python tools/download.py get osnet_x0_25_msmt17 rcan_x4 --root path/to/data
    python tools/download.py get vehicle2cam --root path/to/data
    python tools/download.py get mlr_market1501                   # not ours to give: says how to get it, exit 1

What was cut goes on with the same command, what is there is checked again. A file whose publisher states no SHA-256 is
held to the one found at its first fetch, which SHA256SUMS in the folder keeps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torchreid_xres.config import get_config
from torchreid_xres.data import DATASETS
from torchreid_xres.data.catalogue import catalogue, how_to_get
from torchreid_xres.data.download import fetch, fetch_set
from torchreid_xres.jobs.command import USER_ERRORS, tell, tool
from torchreid_xres.text import text_table


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("list", help="show what there is")
    get = tasks.add_parser("get", help="fetch files and sets")
    get.add_argument("names", nargs="+", metavar="NAME", help="as the list has them")
    root = get_config().data.root
    get.add_argument("--root", type=Path, default=Path(root), help=f"folder that holds the sets (default: {root})")
    get.add_argument("--weights", type=Path, help="folder for weights (default: weights in --root)")
    args = parser.parse_args(argv)
    if args.task == "get":
        args.weights = args.weights or args.root / "weights"
    return args


def show() -> None:
    """Print all offers, and the sets that have to be asked for."""
    rows = [
        {"name": offer.name, "what": offer.what, "goes to": offer.use or "--root", "terms": offer.terms}
        for offer in catalogue().values()
    ]
    print(text_table(rows, disable_numparse=[0]))
    others = ", ".join(name for name in DATASETS if name not in catalogue())
    print(f"\nSets that are not fetched; get NAME says how to get them: {others}")


def get(name: str, args: argparse.Namespace) -> int:
    """Fetch one thing, or say how to get it; returns the exit status."""
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


@tool("the same command goes on where it was")
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.task == "list":
        show()
        return 0
    statuses = []
    for name in args.names:
        try:
            statuses.append(get(name, args))
        except USER_ERRORS as error:
            statuses.append(tell(error))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
