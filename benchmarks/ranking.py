"""Ranking beside the host's evaluators, and distances with ranking beside the bare matrix product.

    python benchmarks/ranking.py                        # Market-1501's size; the host's Python takes a minute
    python benchmarks/ranking.py --cython rank_cy.pyx   # from torchreid's repository: metrics/rank_cylib
    python benchmarks/ranking.py --queries 11659 --gallery 82161 --identities 3060 --cameras 15 --no-matrix  # MSMT17's

Features are clustered: a centre for each identity, and noise around it (--noise: of its length, centres having 1). The
registry's torchreid has no Cython evaluator; given the source, it is built in a temporary folder. "MB" is the peak of
memory beyond what was held before: the features, and the given matrix.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import measure
import numpy as np
import torch
from torch import Tensor

from torchreid_xres import host
from torchreid_xres.host_mends import bare_host
from torchreid_xres.metrics import Roc, distance_matrix, distance_tiles, rank_distances, rank_features


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the sizes of the set that :func:`make` draws."""
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--identities", type=int, default=751)
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--noise", type=float, default=2.0)


def make(args: argparse.Namespace) -> tuple[Tensor, Tensor, list[np.ndarray]]:
    """Return query and gallery features and the four labels that the ranking wants."""
    generator = torch.Generator().manual_seed(args.seed)
    centres = torch.randn(args.identities, args.dim, generator=generator)
    pids, features = [], []
    for count in (args.queries, args.gallery):
        pids.append(torch.randint(args.identities, (count,), generator=generator))
        features.append(torch.randn(count, args.dim, generator=generator).mul_(args.noise).add_(centres[pids[-1]]))
    cameras = [torch.randint(args.cameras, (count,), generator=generator) for count in (args.queries, args.gallery)]
    return *features, [label.numpy() for label in (*pids, *cameras)]


def built(source: Path) -> ModuleType:
    """Return the host's Cython evaluator, compiled in a folder that is gone afterwards.

    Raises:
        RuntimeError: if there is no compiler, or no Cython.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(source, Path(folder) / "rank_cy.pyx"))
        command = [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", "--quiet", copy.name]
        env = {**os.environ, "CFLAGS": f"-O2 -I{np.get_include()}"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        found = [*Path(folder).glob("rank_cy*.so"), *Path(folder).glob("rank_cy*.pyd")]
        if done.returncode or not found:
            raise RuntimeError(f"{source} could not be built:\n{done.stderr[-2000:]}")
        spec = importlib.util.spec_from_file_location("rank_cy", found[0])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def from_matrix(args: argparse.Namespace, qf: Tensor, gf: Tensor, labels: list[np.ndarray]) -> tuple[list[dict], dict]:
    """Time the ranking of a given matrix, and compare the figures."""
    distmat = distance_matrix(qf, gf).numpy()

    def ours() -> tuple[np.ndarray, float]:
        result = rank_distances(distmat, *labels)
        return result.cmc(50), result.mAP()

    def with_roc() -> tuple[np.ndarray, float]:
        roc = Roc(*labels)
        result = rank_distances(distmat, *labels, roc=roc)
        roc.tpr()
        return result.cmc(50), result.mAP()

    sides: dict[str, Callable] = {"ours": ours, "ours, with ROC": with_roc}
    if args.cython:
        evaluate = built(args.cython).evaluate_cy
        sides["host, Cython"] = lambda: evaluate(distmat, *labels, 50)
    if args.host:
        with bare_host():
            python = host.module("metrics.rank").evaluate_rank
        sides["host, Python"] = lambda: python(distmat, *labels, max_rank=50, use_cython=False)
    rows, results = measure.by_turns(sides, args.repeats, once=("host, Python",))
    cmc, mAP = results["ours"]
    compared = []
    for row in measure.compared(rows, "a given matrix, 1 = ours"):
        other_cmc, other_mAP = results[row["side"]]
        off = {"CMC off by": float(abs(cmc - other_cmc).max()), "mAP off by": float(abs(mAP - other_mAP))}
        compared.append(row | off)
    return compared, {"mAP": mAP, "rank1": float(cmc[0])}


def from_features(args: argparse.Namespace, qf: Tensor, gf: Tensor, labels: list[np.ndarray]) -> list[dict]:
    """Time distances and ranking together, in bands, beside the product that no way of doing it can spare."""

    def product() -> None:
        rows = max(1, len(qf) if args.matrix else (256 << 20) // (4 * len(gf)))
        for band in qf.split(rows):
            torch.mm(band, gf.t())

    def distances() -> None:
        for _ in distance_tiles(qf, gf):
            pass

    def with_roc() -> None:
        roc = Roc(*labels, groups=labels[2])
        rank_features(qf, gf, *labels, roc=roc)
        roc.tpr(), roc.by()

    sides = {
        "matrix product": product,
        "our distances": distances,
        "our distances and ranking": lambda: rank_features(qf, gf, *labels),
        "with ROC, by camera": with_roc,
    }
    rows, _ = measure.by_turns(sides, args.repeats)
    return measure.compared(rows, "features, 1 = product")


def roofline(rows: list[dict], count: int, columns: int, dim: int) -> dict:
    """Return the speeds of product and memory, and what the time beyond the product would be enough for.

    Args:
        rows: of sides that make all distances, the first of the bare product.
        count: rows of the distances.
        columns: of them.
        dim: of the features.

    Returns:
        The two speeds, and for each other side the passes over all distances, reading or writing, that a copy's speed
        would allow in its time beyond the product. No way of making distances and ranking them has less than four:
        norms are written, the product reads and writes what it adds to them (one more than the bare one), numbers that
        are none are looked for, and what is near is. Re-ranking has eight.
    """
    held = torch.empty(1 << 25)
    other = torch.empty_like(held)
    seconds = min(measure.timed(lambda: other.copy_(held), False)[0] for _ in range(4))
    moved = 2 * held.nbytes / seconds
    product = rows[0]["seconds"]
    passes = {row["side"]: round((row["seconds"] - product) * moved / (4 * count * columns), 1) for row in rows[1:]}
    flops = 2 * count * columns * dim / product
    return {"copy GB/s": round(moved / 1e9, 2), "product GFLOP/s": round(flops / 1e9, 1), "passes": passes}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser)
    parser.add_argument("--no-matrix", dest="matrix", action="store_false", help="never hold all distances")
    parser.add_argument("--no-host", dest="host", action="store_false", help="leave out the host's Python evaluator")
    parser.add_argument("--cython", type=Path, help="the host's rank_cy.pyx")
    measure.options(parser, repeats=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    qf, gf, labels = make(args)
    rows, more = from_matrix(args, qf, gf, labels) if args.matrix else ([], {})
    found = from_features(args, qf, gf, labels)
    more["roofline"] = roofline(found, args.queries, args.gallery, args.dim)
    measure.finish(args, "Ranking", rows + found, **more)
    return 0


if __name__ == "__main__":
    sys.exit(main())
