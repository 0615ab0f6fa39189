"""Search in a gallery of a million images: exact, and by lists with recall and latency for several numbers of probes.

    python benchmarks/search.py                                        # 1,000,000 x 512: 2.5 GB, some minutes
    python benchmarks/search.py --gallery 100000 --lists 256

Features are drawn as a network's are: identities in a space of few dimensions (--intrinsic), images around their
identity (--noise, of the identities' spread), all turned into --dim dimensions with a little noise in every one. They
are made in pieces, so that no copy is held beside the index. Recall is the share of the k truly nearest images that is
found. "batch" is the time of a query when all are asked at once, "one" the median when they come one by one.

The second table is a calculation for galleries beyond one machine: each holds a consecutive piece in an index of its
own, is asked every query, and torchreid_xres.metrics.search.merge_shards makes one answer. A flat index takes 4 bytes a
dimension, lists 8 more for the image's number; the times are the measured ones scaled by the images a machine holds (at
the same share of lists), and the machines work at once. A query sends 4 bytes a dimension to each machine, and gets k
times 12 bytes back from each; merging takes microseconds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import faiss
import measure
import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from torchreid_xres.metrics.search import GalleryIndex

PIECE = 50_000


def pieces(args: argparse.Namespace, count: int, part: int) -> Iterator[Tensor]:
    """Yield features (up to 50,000, D) until there are ``count``; the same for the same seed and part (0: gallery)."""
    common = torch.Generator().manual_seed(args.seed)
    identities = torch.randn(max(1, args.gallery // args.images_each), args.intrinsic, generator=common)
    turn = torch.randn(args.intrinsic, args.dim, generator=common) / math.sqrt(args.intrinsic)
    own = torch.Generator().manual_seed(1_000_003 * (part + 1) + args.seed)
    for start in range(0, count, PIECE):
        size = min(PIECE, count - start)
        pids = torch.randint(len(identities), (size,), generator=own)
        latent = identities[pids] + args.noise * torch.randn(size, args.intrinsic, generator=own)
        yield (latent @ turn).add_(torch.randn(size, args.dim, generator=own), alpha=0.1)


def build(args: argparse.Namespace, lists: int) -> tuple[GalleryIndex, dict]:
    """Return an index over the gallery, and the seconds and MB it took."""
    before = measure.start_of_peak()
    seconds = {"train": 0.0, "add": 0.0}
    index = GalleryIndex(args.dim, lists=lists, seed=args.seed)
    if lists:
        sample = torch.cat(list(pieces(args, min(args.gallery, 64 * lists), 0)))
        start = measure.clock()
        index.train(sample)
        seconds["train"] = measure.clock() - start
        del sample
    for piece in pieces(args, args.gallery, 0):
        start = measure.clock()
        index.add(piece)
        seconds["add"] += measure.clock() - start
    peak = None if before is None else round(measure.peak() - before, 1)
    return index, {**{f"{name} s": value for name, value in seconds.items()}, "MB": peak}


def asked(index: GalleryIndex, queries: Tensor, args: argparse.Namespace, probes: int) -> tuple[np.ndarray, dict]:
    """Return the places found, and the milliseconds of a query."""
    index.search(queries[:20], args.k, probes)
    start = measure.clock()
    places = index.search(queries, args.k, probes)[1]
    batch = 1e3 * (measure.clock() - start) / len(queries)
    one = []
    for query in queries[: args.one_by_one].split(1):
        start = measure.clock()
        index.search(query, args.k, probes)
        one.append(1e3 * (measure.clock() - start))
    low, middle, high = statistics.quantiles(one, n=4, method="inclusive")
    return places, {"ms, batch": batch, "ms, one": middle, "lower quartile": low, "upper quartile": high}


def recall(found: np.ndarray, nearest: np.ndarray) -> float:
    """Return the share of the truly nearest (Q, k) that is among those found."""
    return float((found[:, :, None] == nearest[:, None]).any(axis=1).mean())


def shards(args: argparse.Namespace, rows: Sequence[dict]) -> list[dict]:
    """Return how many machines larger galleries take, and what a query then costs on each."""
    best = next((row for row in rows[1:] if row["recall"] >= args.wanted_recall), rows[-1])
    plan = []
    for count in args.shard:
        size = count * (4 * args.dim + 8)
        machines = math.ceil(size / (args.machine_gb * 1e9))
        share = math.ceil(count / machines) / args.gallery
        plan.append(
            {
                "gallery": count,
                "GB": size / 1e9,
                f"machines of {args.machine_gb:g} GB": machines,
                "images each": math.ceil(count / machines),
                "ms, exact": rows[0]["ms, one"] * share,
                f"ms, {best['side']}": best["ms, one"] * share,
                "KB a query": machines * (4 * args.dim + 12 * args.k) / 1e3,
            }
        )
    return plan


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--intrinsic", type=int, default=32)
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--images-each", type=int, default=20, help="images of an identity")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--one-by-one", type=int, default=20, help="queries timed alone")
    parser.add_argument("--shard", type=int, nargs="+", default=[10_000_000, 100_000_000, 1_000_000_000])
    parser.add_argument("--machine-gb", type=float, default=64.0, help="memory of a machine for its index")
    parser.add_argument("--wanted-recall", type=float, default=0.95, help="of the lists in the calculation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the result to this JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    queries = torch.cat(list(pieces(args, args.queries, 1)))

    index, made = build(args, 0)
    nearest, times = asked(index, queries, args, 1)
    rows = [{"side": "exact", "recall": 1.0, **times, **made}]
    del index
    index, made = build(args, args.lists)
    for probes in args.probes:
        found, times = asked(index, queries, args, probes)
        side = f"{probes} of {args.lists} lists"
        rows.append({"side": side, "recall": recall(found, nearest), **times, **made})
    with tempfile.TemporaryDirectory() as folder:
        start = measure.clock()
        index.save(folder)
        saved, start = measure.clock() - start, measure.clock()
        del index
        again = GalleryIndex.load(folder)
        loaded = measure.clock() - start
        same = bool((again.search(queries, args.k, args.probes[-1])[1] == found).all())
    rows = [row | {"times exact": rows[0]["ms, one"] / row["ms, one"]} for row in rows]
    plan = shards(args, rows)
    disk = {"save s": saved, "load s": loaded, "same answers": same}
    measure.finish(args, f"Search in {args.gallery:,} x {args.dim}", rows, disk=disk, shards=plan)
    print(tabulate(plan, headers="keys", tablefmt="github", floatfmt=",.4g", intfmt=","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
