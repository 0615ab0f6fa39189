"""Search a folder of images for the person or vehicle of a picture, or of each of many.

    xres search build log/sr_reid/split0/sr_reid path/to/images --gallery log/gallery
    xres search query path/to/picture.jpg --gallery log/gallery --top 10
    xres search query path/to/pictures another.jpg --gallery log/gallery --accept 0.001 --out hits.json
    xres search query scene.jpg --box 310 84 42 96 --gallery log/gallery --out hits.html --out hits.csv
    xres search adapt --gallery log/gallery
    xres search serve --gallery log/gallery

``build`` takes the folder of a trained run, or a checkpoint: one in a run's folder, one of torchreid with ``--model``
and ``--size``, or any with ``--config-file``. It may be stopped at any time and goes on where it was; later it adds
only new and changed images and drops those that are gone. ``query`` takes pictures of any sizes, or a box of one, and
chooses front end and branch by each picture's resolution. A search always finds something; ``strangers``
says how many images of others the archive is expected to have that are as near, and ``--accept`` marks what is near
enough by the evaluation of the gallery's run. For data that is smaller than the network's input even at full
resolution, ``build`` wants to know ``--full-size`` (Market-1501: 128 64). ``adapt`` learns from the gallery's images,
without labels, to describe bad crops as the sharp images are described; ``query`` then does so by itself, and the
gallery's features stay as they are. ``serve`` does all that on a page in the browser, for this machine alone unless
``--host`` says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from choices import PRECISIONS
from program import new_parser, tool
from search_adapt import adapt
from search_build import build
from search_query import query, query_options
from search_serve import serve, serve_options


def parser() -> argparse.ArgumentParser:
    parser = new_parser("search", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make a gallery of a folder of images, or bring it up to date")
    build.add_argument("run", type=Path, help="folder of a trained run, or a checkpoint")
    build.add_argument("images", type=Path, help="folder of images, with all folders below it")
    what = build.add_mutually_exclusive_group()
    what.add_argument("--config-file", metavar="NAME|FILE", help="configuration of a checkpoint that is in no run")
    what.add_argument("--model", help="the network's name, for a checkpoint of torchreid")
    build.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="its input (default: 256 128)")
    build.add_argument("--full-size", type=int, nargs=2, metavar=("H", "W"), help="of a picture of full resolution")
    query = commands.add_parser("query", help="find the images that are most like a picture, or each of several")
    query.add_argument("images", type=Path, nargs="+", help="pictures, and folders of them with all folders below")
    query.add_argument("--run", type=Path, help="where run or checkpoint are now, if they were moved")
    query.add_argument("--box", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="of one picture only this part")
    query.add_argument("--top", type=int, default=10, help="images to find")
    query.add_argument(
        "--accept", type=float, metavar="FPR",
        help="mark the hits that are near enough: no farther than what the run's evaluation accepted at this false "
        "positive rate, a share such as 0.001",
    )  # fmt: skip
    query.add_argument("--dataset", default="", help="the evaluated set --accept is of, for a run with several")
    query_options(query)
    query.add_argument("--no-adapt", action="store_true", help="leave aside what adapt has learned")
    adapt = commands.add_parser("adapt", help="learn from a gallery's images to describe low-resolution queries")
    adapt.add_argument("--run", type=Path, help="where run or checkpoint are now, if they were moved")
    adapt.add_argument("--steps", type=int, help="of learning (default: 680 for 2,000 images, by their root)")
    adapt.add_argument(
        "--query-size", type=int, nargs=2, default=(), metavar=("H", "W"),
        help="input of the query encoder; half the network's costs a quarter (default: the network's)",
    )  # fmt: skip
    for command in (build, query, adapt, serve_options(commands)):
        command.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="where the gallery is kept")
        command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: the GPU if there is one")
        command.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: as the run was evaluated")
    build.add_argument("--batch", type=int, default=64, help="images that pass the network at once")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    if args.command == "build" and args.size and not args.model:
        reader.error("--size is the input of a --model of torchreid; others have it in their configuration")
    if args.command == "query" and args.dataset and args.accept is None:
        reader.error("--dataset says which evaluation --accept is of; give --accept, too")
    return args


@tool(parse, "the same command goes on from here")
def main(args: argparse.Namespace) -> int:
    return {"build": build, "query": query, "adapt": adapt, "serve": serve}[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
