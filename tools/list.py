"""List what there is: models, front ends, data sets and whether they are on disk, losses, configurations, mends.

    python tools/list.py                                     # everything
    python tools/list.py models losses
    python tools/list.py data-sets --root /path/to/data      # which are there, and how to get the others
    python tools/list.py configs --match vehicle             # rows with this text in them
    python tools/list.py front-ends --json front_ends.json
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

from torchreid_xres.config import get_config
from torchreid_xres.files import require_other_file, write_text
from torchreid_xres.jobs.command import tool
from torchreid_xres.report.registries import KINDS, inventory
from torchreid_xres.text import text_table

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def shown(row: dict, width: int) -> dict:
    """Return a row with long texts broken into lines."""
    return {key: textwrap.fill(str(value), width, break_long_words=False) for key, value in row.items()}


@tool("no file is half written")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--root", default=get_config().data.root, help="folder that holds the data sets")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of configurations")
    parser.add_argument("--match", default="", metavar="TEXT", help="only rows that hold this text, in any case")
    parser.add_argument("--width", type=int, default=48, help="characters of a column before its text is broken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there; - for the terminal")
    args = parser.parse_args(argv)
    if args.width < 1:
        parser.error(f"--width must be at least 1, not {args.width}")
    if args.json:
        require_other_file(args.json, [args.configs], "--json")
    found = {kind: inventory(kind, args.root, args.configs) for kind in args.kinds or KINDS}
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
