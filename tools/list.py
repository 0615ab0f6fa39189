"""List what there is: models, front ends, data sets and whether they are on disk, losses, configurations, mends.

    xres list                                     # everything
    xres list models losses
    xres list data-sets --root /path/to/data      # which are there, and how to get the others
    xres list configs --match vehicle             # rows with this text in them
    xres list front-ends --json front_ends.json
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

from choices import DATA_ROOT, KINDS
from program import new_parser, tool

# Of each kind the line that says what to do with what is listed.
NEXT = {
    "models": "xres complexity --model NAME",
    "front-ends": "xres complexity --front-end NAME",
    "data-sets": "xres download get NAME",
    "losses": "xres train --config-file NAME loss.name LOSS",
    "configs": "xres train --config-file NAME",
    "mends": "import torchreid_xres, in a script of torchreid's",
}


def shown(row: dict, width: int) -> dict:
    """Return a row with long texts broken into lines."""
    return {key: textwrap.fill(str(value), width, break_long_words=False) for key, value in row.items()}


def parser() -> argparse.ArgumentParser:
    parser = new_parser("list", __doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--root", default=DATA_ROOT, help="folder that holds the data sets")
    parser.add_argument("--configs", type=Path, help="folder of configurations, if not those that come with us")
    parser.add_argument("--match", default="", metavar="TEXT", help="only rows that hold this text, in any case")
    parser.add_argument("--width", type=int, default=48, help="characters of a column before its text is broken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there; - for the terminal")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    if args.width < 1:
        reader.error(f"--width must be at least 1, not {args.width}")
    return args


@tool(parse, "no file is half written")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.comparison.registries import inventory
    from torchreid_xres.config_files import config_folder
    from torchreid_xres.files import require_other_file, write_text
    from torchreid_xres.text import text_table

    configs = args.configs or config_folder()
    if args.json:
        require_other_file(args.json, [configs], "--json")
    found = {kind: inventory(kind, args.root, configs) for kind in args.kinds or KINDS}
    for kind, rows in found.items():
        texts = (" ".join(map(str, row.values())).lower() for row in rows)
        found[kind] = [row for row, text in zip(rows, texts, strict=True) if args.match.lower() in text]
    text = json.dumps(found, indent=1)
    if args.json and str(args.json) != "-":
        write_text(text + "\n", args.json)
    if str(args.json) == "-":
        print(text)
        return 0
    for kind, rows in found.items():
        print(f"{kind.replace('-', ' ')}: {len(rows)}\n")
        if rows:
            lines = [shown(row, args.width) for row in rows]
            broken = any("\n" in text for line in lines for text in line.values())
            print(text_table(lines, "grid" if broken else "github"))
        print()
    print(f"next: {NEXT[next(iter(found))] if len(found) == 1 else NEXT['configs']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
