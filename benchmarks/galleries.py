"""Galleries in files and in Milvus Lite beside each other: build, search, memory and disk, at several sizes.

    python benchmarks/galleries.py                            # 10,000, 100,000 and 1,000,000 x 512: an hour or two
    python benchmarks/galleries.py --images 1000 --queries 5

Features are drawn as benchmarks/search.py draws them and come in as a build keeps them, batch by batch; the network is
left out. Build and search have a process each, so the search finds nothing in memory: "open s" is until the first
answer, "ms" the median of the queries after it, asked one by one. "MB" is the peak of memory beyond the libraries,
"disk bytes an image" all that lies in the gallery's folder over the images. "same hits" is the share of queries whose
hits are those of the files, in the same order. With one thread times are the processor's, without waiting for the disk.

Milvus Lite is written in Python, and its makers mean it for small archives: a server is another program, and its
figures are not these.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import measure
import numpy as np
import search
import torch

from torchreid_xres.search.gallery import Gallery
from torchreid_xres.search.storage import Row

HOMES = {"files": "{}/gallery", "Milvus Lite": "milvus:{}/g.db"}
BATCH = 64  # images that a build keeps at once


def rows(args: argparse.Namespace, count: int) -> Iterator[list[Row]]:
    """Yield batches of rows as a build makes them."""
    number = 0
    for piece in search.pieces(args, count, 0):
        made = []
        for feature in piece.numpy():
            name = f"{number // 20:06d}/{number:07d}_c{number % 6}.jpg"
            made.append(Row(name, 20_000, 10**18 + number, 256, 128, feature.tobytes(), None, sharpness=0.1))
            number += 1
        for start in range(0, len(made), BATCH):
            yield made[start : start + BATCH]


def build(args: argparse.Namespace, place: str, count: int) -> dict[str, Any]:
    """Make a gallery, and return what that took."""
    about = {"model": "drawn", "weights_sha256": "0" * 64, "full_size": None, "metric": "cosine"}
    gallery = Gallery(place, _Named(about))
    gallery.folder.mkdir(parents=True, exist_ok=True)
    storage = gallery._storage
    before, seconds = measure.start_of_peak(), 0.0
    storage.begin(about=json.dumps(about), weights="/none", images="/images")
    with storage.changing() as changes:
        for batch in rows(args, count):
            start = measure.clock()
            changes.make(batch)
            seconds += measure.clock() - start
    _close(storage)
    return {"build rows/s": count / seconds, "build MB": None if before is None else round(measure.peak() - before)}


def ask(args: argparse.Namespace, place: str, count: int) -> tuple[dict[str, Any], list[list[str]]]:
    """Ask a gallery, and return what that took, and the names found."""
    queries = torch.cat(list(search.pieces(args, args.queries, 1)))
    before, start = measure.start_of_peak(), measure.clock()
    gallery = Gallery(place)
    gallery.search(queries[:1], args.k)
    opened, times, found = measure.clock() - start, [], []
    for query in queries.split(1):
        start = measure.clock()
        found.append([hit.name for hit in gallery.search(query, args.k)[0]])
        times.append(measure.clock() - start)
    told = {"open s": opened, "ms": 1e3 * statistics.median(times)}
    told |= {"search MB": None if before is None else round(measure.peak() - before)}
    _close(gallery._storage)
    return told, found


class _Named:
    """In place of an extractor, whose name a new gallery takes."""

    weights, query_encoder = Path("/none"), None

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about


def _close(storage: Any) -> None:
    if storage.searches:
        storage.close()


def _apart(call: Any, args: argparse.Namespace, *more: Any) -> Any:
    """Call in a process of its own."""
    context = get_context("forkserver" if measure.FORKS else "spawn")
    if measure.FORKS:
        context.set_forkserver_preload([__name__, "galleries"])  # the libraries are loaded once
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_threaded, call, args, *more).result()


def _threaded(call: Any, args: argparse.Namespace, *more: Any) -> Any:
    torch.set_num_threads(args.threads)
    return call(args, *more)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--homes", nargs="+", choices=HOMES, default=list(HOMES))
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--place", type=Path, help="folder for the galleries, which are removed after")
    measure.options(parser, repeats=1)
    args = parser.parse_args(argv)
    args.intrinsic, args.noise, args.images_each = 32, 0.5, 20
    torch.set_num_threads(args.threads)
    told = []
    try:
        for count in args.images:
            compare(args, count, told)
    finally:  # also of what was stopped
        measure.finish(args, f"Galleries of {args.dim} dimensions", told)
    return 0


def compare(args: argparse.Namespace, count: int, told: list[dict[str, Any]]) -> None:
    """Add what each home takes for so many images."""
    args.gallery, right = count, None
    for home in args.homes:
        with tempfile.TemporaryDirectory(dir=args.place) as folder:
            place = HOMES[home].format(folder)
            made = _apart(build, args, place, count)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            asked, found = _apart(ask, args, place, count)
        right = found if right is None else right
        same = float(np.mean([one == other for one, other in zip(found, right, strict=True)]))
        told.append({"images": count, "home": home, **made, **asked, "disk bytes an image": round(size / count)})
        told[-1]["same hits"] = same
        print(told[-1], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
