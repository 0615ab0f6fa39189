"""k-reciprocal re-ranking beside the host's, and beside the matrix product that finding all neighbours needs.

    python benchmarks/reranking.py                                   # Market-1501's size; the host takes 8 GB
    python benchmarks/reranking.py --queries 11659 --gallery 82161 --identities 3060 --cameras 15 --no-given  # MSMT17's

From given distances all three matrices are held by the caller; from features only the result is. "MB" is the peak of
memory beyond what was held before, the result of queries x gallery x 4 bytes included. The table's last columns compare
each result with ours from given distances: mAP, and the entries that differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import measure
import numpy as np
import torch
from ranking import add_sizes, make, roofline
from torch import Tensor

from torchreid_xres import host
from torchreid_xres.host_mends import bare_host
from torchreid_xres.metrics import distance_matrix, rank_distances, rank_features
from torchreid_xres.metrics.rerank import re_ranking, reranked_distances


def product(qf: Tensor, gf: Tensor) -> None:
    """Multiply all features with all, in bands."""
    features = torch.cat([qf, gf])
    for band in features.split(max(32, (64 << 20) // (4 * len(features)))):
        torch.mm(band, features.t())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser)
    parser.set_defaults(noise=3.0)  # at ranking's, re-ranking leaves no mistakes to compare
    parser.add_argument("--no-given", dest="given", action="store_false", help="never hold the distance matrices")
    parser.add_argument("--no-host", dest="host", action="store_false", help="leave out the host's")
    measure.options(parser, repeats=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    qf, gf, labels = make(args)

    def matrices() -> list[np.ndarray]:
        return [distance_matrix(a, b).numpy() for a, b in ((qf, gf), (qf, qf), (gf, gf))]

    sides: dict[str, Callable] = {
        "matrix product": lambda: product(qf, gf),
        "ours, from features": lambda: reranked_distances(qf, gf),
    }
    if args.given:
        sides["ours, distances and all"] = lambda: re_ranking(*matrices())
    if args.given and args.host:
        with bare_host():
            theirs = host.re_ranking
        sides["host, distances and all"] = lambda: theirs(*matrices())
    rows, results = measure.by_turns(sides, args.repeats, once=("host, distances and all",))
    rows = measure.compared(rows, "re-ranking, 1 = product")
    exact = results.get("ours, distances and all")
    exact_mAP = None if exact is None else rank_distances(exact, *labels).mAP()
    for row in rows[1:]:
        found = results[row["side"]]
        row["mAP"] = rank_distances(found, *labels).mAP()
        if exact is not None:
            row |= {"mAP off by": abs(row["mAP"] - exact_mAP), "moved": int((abs(found - exact) > 1e-5).sum())}
    before = rank_features(qf, gf, *labels).mAP()
    bound = roofline(rows, len(qf) + len(gf), len(qf) + len(gf), args.dim)
    size = 4e-6 * args.queries * args.gallery
    measure.finish(args, "Re-ranking", rows, mAP_without=before, result_MB=size, roofline=bound)
    return 0


if __name__ == "__main__":
    sys.exit(main())
