"""Draw the README's picture: small queries, what a stock network finds for them, what a cross-resolution one finds.

    python tools/train.py --config-file configs/quickstart.yaml
    python benchmarks/first_picture.py log/quickstart/split0 --out docs/pictures/first.png

Of the queries at the smallest size that the cross-resolution run answers rightly and the stock run does not, those that
it moves the farthest, each of another identity. The picture in docs/pictures is of a run with ``train.precision fp32``:
another processor or precision, and it shows others. The drawn people of the quick start are nobody; do not publish such
a picture of a set of real ones.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from torchreid_xres.data.io import picture_path, save_image
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.jobs.extraction import engine_features, trained_engine
from torchreid_xres.jobs.run import ranking_options
from torchreid_xres.models.layers import Normalization
from torchreid_xres.pictures.lists import Place, RankedLists
from torchreid_xres.pictures.queries import RunPictures
from torchreid_xres.pictures.ranks import COLOURS, marked
from torchreid_xres.pictures.seen import squares

HEIGHT, FRAME, GAP, HEAD = 132, 4, 8, 22  # pixels: of a person, a frame, between pictures, for a heading
SHOWN = 5  # hits of a list


def lists_of(folder: Path) -> tuple[RankedLists, RunPictures]:
    """Return a run's ranked lists, and the pictures that they are of."""
    run, engine = trained_engine(folder)
    query, gallery = engine_features(run, engine, ("query", "gallery")).values()
    pictures = RunPictures(engine, query.dataset, Normalization(run.cfg.data.norm_mean, run.cfg.data.norm_std))
    return RankedLists(query, gallery, ranking_options(run.cfg, query.dataset)), pictures


def told_apart(stock: RankedLists, ours: RankedLists, count: int) -> list[int]:
    """Return queries of the largest rate, ours first of their list, in order of their place in the stock one's.

    Raises:
        ValueError: if there are none.
    """
    rates = np.asarray(ours.query.rate)
    gain = np.where((rates == rates.max()) & (ours.rank == 1) & (stock.rank > 1), stock.rank, 0)
    chosen: dict[int, int] = {}  # by identity
    for q in np.argsort(-gain, kind="stable")[: np.count_nonzero(gain)].tolist():
        chosen.setdefault(int(ours.query.pid[q]), q)
    if not chosen:
        raise ValueError("there is no query that the one run finds and the other does not")
    return list(chosen.values())[:count]


def framed(img: PIL.Image.Image, colour: str) -> PIL.Image.Image:
    """Return a picture at the common height within a frame."""
    img = img.resize((round(img.width * HEIGHT / img.height), HEIGHT), PIL.Image.Resampling.BICUBIC)
    canvas = PIL.Image.new("RGB", (img.width + 2 * FRAME, HEIGHT + 2 * FRAME), colour)
    canvas.paste(img, (FRAME, FRAME))
    return canvas


def found(pictures: RunPictures, places: list[Place]) -> list[PIL.Image.Image]:
    """Return the pictures of a list, hits and misses told apart by frame and mark."""
    seen = [(squares(pictures.seen("gallery", place.gallery), HEIGHT), place.hit) for place in places]
    return [framed(marked(img, hit, HEIGHT), COLOURS[hit]) for img, hit in seen]


def drawing(parts: list[tuple[str, list[list[PIL.Image.Image]]]]) -> PIL.Image.Image:
    """Draw columns of rows of pictures, each column under its heading."""
    font = PIL.ImageFont.load_default(14)
    widths = [max(sum(img.width for img in row) + GAP * (len(row) - 1) for row in rows) for _, rows in parts]
    widths = [max(width, int(font.getlength(title))) for width, (title, _) in zip(widths, parts, strict=True)]
    step = HEIGHT + 2 * FRAME + GAP
    size = sum(widths) + 3 * GAP * (len(parts) - 1) + 2 * GAP, HEAD + len(parts[0][1]) * step + GAP
    canvas = PIL.Image.new("RGB", size, "white")
    pen = PIL.ImageDraw.Draw(canvas)
    left = GAP
    for width, (title, rows) in zip(widths, parts, strict=True):
        pen.text((left, 4), title, fill="black", font=font)
        for number, row in enumerate(rows):
            x = left
            for img in row:
                canvas.paste(img, (x, HEAD + number * step))
                x += img.width + GAP
        left += width + 3 * GAP
    return canvas


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="folder of one split, with a stock run and a cross-resolution one")
    parser.add_argument("--stock", default="osnet_x0_25", help="folder of the stock run in it (default osnet_x0_25)")
    parser.add_argument("--ours", default="sr_reid", help="folder of the cross-resolution run in it (default sr_reid)")
    parser.add_argument("--count", type=int, default=2, help="queries (default 2)")
    parser.add_argument("--out", type=picture_path, default=Path("first.png"), metavar="FILE", help="default first.png")
    args = parser.parse_args(argv)
    try:
        with redirect_stdout(sys.stderr):  # torchreid's loaders print what they have found
            (stock, pictures), (ours, _) = (lists_of(args.split / name) for name in (args.stock, args.ours))
        chosen = told_apart(stock, ours, args.count)
        queries = [[framed(squares(pictures.seen("query", q), HEIGHT), "black")] for q in chosen]
        height, width = ours.query.size[chosen[0]]
        columns = [(f"query, {width}x{height} pixels", queries)]
        for title, lists in (("a stock network finds", stock), ("a cross-resolution network finds", ours)):
            columns.append((title, [found(pictures, places) for places in lists.top(chosen, SHOWN)]))
        save_image(drawing(columns).quantize(128, dither=PIL.Image.Dither.NONE), args.out)
    except USER_ERRORS as error:
        return tell(error)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
