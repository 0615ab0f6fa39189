"""Write a cross-resolution set to disk for other frameworks, or compare a set with a manifest.

    xres prepare write mlr_cuhk03 --root path/to/data --out path/to/mlr_cuhk03
    xres prepare write synth_person --out path/to/set --format jpg --quality 90 --options rates=[2,4] seed=1
    xres prepare verify path/to/mlr_cuhk03
    xres prepare verify log/run/split0/model/manifest_mlr_cuhk03.json --root path/to/data

The folder gets train, query and gallery with file names as in Market-1501, the low-resolution images at the sizes the
protocol gives them, a table images.csv, and manifest.json with each file's rate and SHA-256. Called again, ``write``
goes on where it was stopped, and replaces what was changed or removed since. ``verify`` names what is missing,
changed or extra, and then exits with 1.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path

from choices import DATA_ROOT, FORMATS
from program import new_parser, tool


def parser() -> argparse.ArgumentParser:
    parser = new_parser("prepare", __doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    write = tasks.add_parser("write", help="write a set to disk")
    write.add_argument("name", help='data set, as "xres list data-sets" names it')
    write.add_argument("--root", default=DATA_ROOT, help="folder that holds the sets")
    write.add_argument("--out", type=Path, required=True, help="a new or empty folder, or one to go on with")
    write.add_argument("--format", choices=FORMATS, default="png", help="png keeps every pixel (default)")
    write.add_argument("--quality", type=int, default=95, help="of JPEG, 1 to 100 (default 95)")
    write.add_argument("--split", type=int, default=0, help="which split (default 0)")
    write.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="options of the set")
    verify = tasks.add_parser("verify", help="compare a set with a manifest")
    verify.add_argument("what", type=Path, help="folder of a written set, or a manifest of the set below --root")
    verify.add_argument("--root", help="folder that holds the sets")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


def read_options(pairs: list[str]) -> dict:
    """Return ``KEY=VALUE`` pairs as a dictionary, values read as YAML.

    Raises:
        ValueError: for a text without ``=``, or a value that is no YAML.
    """
    from torchreid_xres.yaml_text import read_yaml

    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--options takes KEY=VALUE, not {pair!r}")
        try:
            options[key] = read_yaml(value)
        except ValueError as fault:
            raise ValueError(f"--options {pair}: no value in YAML: {fault}") from fault
    return options


def write(args: argparse.Namespace) -> int:
    from torchreid_xres.data.prepare import write_set

    done = write_set(
        args.name,
        args.root,
        args.out,
        split_id=args.split,
        options=read_options(args.options),
        suffix=args.format,
        quality=args.quality,
    )
    for role, count in done.manifest.counts.items():
        print(f"{role}: {count['images']} images, {count['identities']} identities, {count['low']} low resolution")
    if done.found:
        print(f"{done.found} images were there already")
    if done.psnr is None:
        print("written without loss: every file has the pixels of our loader")
    else:
        print(f"JPEG at quality {args.quality} costs: {done.psnr:.1f} dB PSNR left on average, of what was written now")
    protocol = done.manifest.options["written"]["protocol"]
    print(f"{args.out}: protocol {protocol[:12]}, files {done.manifest.sha256[:12]}")
    print(f"next: xres prepare verify {shlex.quote(str(args.out))}")
    return 0


def verify(args: argparse.Namespace) -> int:
    from torchreid_xres.data.prepare import verify_source, verify_written
    from torchreid_xres.data.protocol import Manifest
    from torchreid_xres.terminal import printable

    if args.what.is_dir():
        if args.root:
            raise ValueError(f"{args.what} is a written set, which needs no --root")
        faults = verify_written(args.what)
    elif args.root is None:
        raise ValueError(f"{args.what} is no folder; for a manifest, --root names the folder that holds the sets")
    else:
        faults = verify_source(Manifest.load(args.what), args.root)
    for name, fault in faults.items():
        print(f"{fault}: {printable(name)}")
    kinds = Counter("at another rate" if fault.startswith("at rate") else fault for fault in faults.values())
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "all files are as recorded")
    print(f"next: {'xres prepare write mends a written set' if faults else 'train on it with any framework'}")
    return 1 if faults else 0


@tool(parse, "the same command goes on where it was")
def main(args: argparse.Namespace) -> int:
    return write(args) if args.task == "write" else verify(args)


if __name__ == "__main__":
    sys.exit(main())
