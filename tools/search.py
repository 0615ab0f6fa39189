"""Search a folder of images for the person or vehicle of a picture, or of each of many.

    xres search build path/to/images --gallery log/gallery --model osnet_x0_25_msmt17
    xres search query path/to/picture.jpg --gallery log/gallery
    xres search build log/sr_reid/split0/sr_reid path/to/images --gallery log/gallery
    xres search build path/to/frames --boxes path/to/det.csv --gallery log/gallery
    xres search query path/to/crop.jpg --gallery log/gallery --not-camera 2 --after 2024-05-01 --group track
    xres search query path/to/pictures another.jpg --gallery log/gallery --accept 0.001 --out hits.json
    xres search query scene.jpg --box 310 84 42 96 --gallery log/gallery --out hits.html --out hits.csv
    xres search adapt --gallery log/gallery
    xres search serve --gallery log/gallery

``build`` fetches the weights that ``--model`` names, once, and the gallery remembers them. In their place it takes the
folder of a trained run, or a checkpoint: one in a run's folder, one of torchreid with ``--model`` and ``--size``, or
any with ``--config-file``. With ``--boxes`` it takes boxes in images, or in a video's frames, in place of whole images.
It may be stopped at any time and goes on where it was; later it adds only new and changed images and drops those that
are gone. ``query`` takes pictures of any sizes, or a box of one, and chooses front end and branch by each picture's
resolution. A search always finds something; ``strangers`` says how many images of others the archive is expected to
have that are as near, and ``--accept`` marks what is near enough by the evaluation of the gallery's run. For data that
is smaller than the network's input even at full resolution, ``build`` wants to know ``--full-size`` (Market-1501: 128
64). ``adapt`` learns from the gallery's images, without labels, to describe bad crops as the sharp images are
described; ``query`` then does so by itself, and the gallery's features stay as they are. ``serve`` does all that on a
page in the browser, for this machine alone unless ``--host`` says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from choices import BACKENDS, GROUPS, INDEXES, PRECISIONS
from lazily import load_late
from program import new_parser, tool
from search_adapt import adapt
from search_build import build
from search_query import light_query, query, query_options
from search_serve import serve, serve_options


def place(text: str) -> Path | str:
    """Return what ``--gallery`` names: a folder, or a place in Milvus."""
    return text if text.startswith("milvus:") else Path(text)


def parser() -> argparse.ArgumentParser:
    parser = new_parser("search", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make a gallery of a folder of images, or bring it up to date")
    build.add_argument("run", type=Path, nargs="?", help="folder of a trained run, or a checkpoint")
    build.add_argument("images", type=Path, help="folder of images, with all folders below it; or a video")
    what = build.add_mutually_exclusive_group()
    what.add_argument("--config-file", metavar="NAME|FILE", help="configuration of a checkpoint that is in no run")
    what.add_argument(
        "--model", metavar="NAME",
        help="weights to fetch, as xres download lists them (default: the gallery's own, or osnet_x0_25_msmt17 for a "
        "new one); with a checkpoint of torchreid the name of its network",
    )  # fmt: skip
    build.add_argument("--weights", type=Path, metavar="DIR", help="where fetched weights are kept")
    build.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="its input (default: 256 128)")
    build.add_argument("--full-size", type=int, nargs=2, metavar=("H", "W"), help="of a picture of full resolution")
    build.add_argument(
        "--boxes", type=Path, metavar="FILE",
        help="take these boxes in the images in place of whole ones: MOTChallenge's text, COCO's JSON, or a table with "
        "the columns path,left,top,width,height and any of frame,camera,time,track,identity",
    )  # fmt: skip
    build.add_argument("--rate", type=float, default=0, metavar="N", help="frames of each second of a video to take")
    build.add_argument(
        "--names", metavar="REGEX", help="what names say: an expression with the groups (?P<camera>...) or "
        "(?P<identity>...); empty: as at first, _c2 and the beginning or folder",
    )  # fmt: skip
    build.add_argument(
        "--own-statistics", action=argparse.BooleanOptionalAction, default=None,
        help="measure the network's batch statistics anew on the images of a new gallery of at least 200, which finds "
        "more where it has learned from other cameras (default: for fetched networks, not for a run of your own)",
    )  # fmt: skip
    query = commands.add_parser("query", help="find the images that are most like a picture, or each of several")
    query.add_argument("images", type=Path, nargs="+", help="pictures, and folders of them with all folders below")
    query.add_argument("--run", type=Path, help="where run or checkpoint are now, if they were moved")
    query.add_argument("--box", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="of one picture only this part")
    query.add_argument("--camera", nargs="+", default=(), metavar="C", help="search images of these cameras alone")
    query.add_argument("--not-camera", nargs="+", default=(), metavar="C", help="leave out images of these")
    query.add_argument("--after", default="", metavar="TIME", help="a date (2024-05-01T12:30), or seconds in a video")
    query.add_argument("--before", default="", metavar="TIME", help="the same; both times are within")
    query.add_argument("--group", choices=GROUPS, help="of each identity, track or camera find the best image alone")
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
    adapt.add_argument(
        "--caution", type=float, default=1.0, metavar="SHARE",
        help="1: the query encoder answers only where it agrees more with what the network says of sharp pictures; "
        "0.25: earlier, which was right for persons, and wrong for vehicles that look alike",
    )  # fmt: skip
    for command in (build, query, adapt, serve_options(commands)):
        command.add_argument(
            "--gallery", type=place, required=True, metavar="DIR|milvus:...",
            help="where the gallery is kept: a folder, milvus:FILE.db (Milvus Lite), or milvus:http://HOST:PORT",
        )  # fmt: skip
        command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: the GPU if there is one")
        command.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: as the run was evaluated")
    build.add_argument(
        "--backend", choices=BACKENDS, default="auto",
        help="what computes on a CPU; auto: OpenVINO where it is installed and is measured to be faster",
    )  # fmt: skip
    build.add_argument("--batch", type=int, default=64, help="images that pass the network at once")
    build.add_argument(
        "--index", choices=INDEXES, default="",
        help="of Milvus: FLAT is exact; of the others the recall is measured (default: as it is, FLAT for a new one)",
    )  # fmt: skip
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    if args.command == "build" and args.size and args.run is not None and not args.model:
        reader.error("--size is the input of a --model of torchreid; others have it in their configuration")
    if args.command == "build" and args.config_file and args.run is None:
        reader.error("--config-file says what network a checkpoint is of; give the checkpoint, too")
    if args.command == "build" and not 0 <= args.rate < float("inf"):
        reader.error(f"--rate is a number of frames, not {args.rate}")
    if args.command == "query" and args.dataset and args.accept is None:
        reader.error("--dataset says which evaluation --accept is of; give --accept, too")
    return args


@tool(parse, "the same command goes on from here", light_query)
def main(args: argparse.Namespace) -> int:
    return {"build": build, "query": query, "adapt": adapt, "serve": serve}[args.command](args)


if __name__ == "__main__":
    load_late()
    sys.exit(main())
