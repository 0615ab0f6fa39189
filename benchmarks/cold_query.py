"""A single query from the command line, from the start of its process to the end: without torch, and with it.

    python benchmarks/cold_query.py --threads 2              # 10,000 images x 512, OSNet x0.25 at 256x128: some minutes

Both sides are the same command, ``xres search query picture.jpg --gallery g --precision fp32``, on the same gallery;
beside one lies what a build keeps for queries without torch, beside the other it does not. They take turns, each run a
process of its own, after one of each that is not timed, so the files are in the system's memory. "wall s" is until the
process has ended, "processor s" what it took of all cores: where a machine does other work compare these. Features are
drawn as benchmarks/search.py draws them, the network's weights, too: neither changes the work. "same hits" is whether
both name the same images in the same order.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import galleries
import measure
import numpy as np
import PIL.Image
import torch

from torchreid_xres import checkpoint, host
from torchreid_xres.inference import Extractor
from torchreid_xres.inference.light import LIGHT
from torchreid_xres.inference.light_files import write_light
from torchreid_xres.search import Gallery
from torchreid_xres.search.strangers import PROBES, Strangers, _level

PROGRAM = Path(__file__).resolve().parents[1] / "tools" / "search.py"


def build(args: argparse.Namespace, folder: Path) -> tuple[Path, float | None]:
    """Make a gallery of drawn features; return it, and the seconds that keeping its network took."""
    torch.manual_seed(args.seed)
    network = host.build_model(args.network, num_classes=5, pretrained=False)
    checkpoint.save_atomic({"state_dict": network.state_dict()}, folder / "network.pth.tar")
    extractor = Extractor.of_host(args.network, folder / "network.pth.tar", device="cpu")
    gallery = Gallery(folder / "gallery", extractor)
    gallery._begin(folder / "images")
    with gallery._storage.changing() as changes:
        for batch in galleries.rows(args, args.gallery):
            changes.make(batch)
    gallery = Gallery(folder / "gallery", extractor)
    probes = np.arange(min(PROBES, args.gallery))
    levels = [_level(gallery, m, probes, gallery.matrix[probes]) for m in (1.0, 2.0, 4.0, 8.0)]
    known = {"weights_sha256": gallery.about["weights_sha256"], "images": len(gallery)}
    Strangers(levels, known).write(gallery, extractor)
    return gallery.folder, write_light(extractor, gallery.folder)


def asked(args: argparse.Namespace, gallery: Path, picture: Path) -> tuple[float, float, list[str]]:
    """Ask in a process; return wall and processor seconds, and the names that were found."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, str(PROGRAM), "query", str(picture), "--gallery", str(gallery), "--precision", "fp32"]
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "OPENBLAS_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    return wall, taken, [cells[3].strip() for cells in lines[2:]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=10_000, help="images")
    parser.add_argument("--network", default="osnet_x0_25", help="of torchreid's zoo, with 512 dimensions")
    measure.options(parser, repeats=10)
    args = parser.parse_args(argv)
    args.dim, args.intrinsic, args.noise, args.images_each = 512, 32, 0.5, 20
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        picture = folder / "picture.jpg"
        pixels = np.random.default_rng(args.seed).integers(0, 256, (16, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).resize((64, 128)).save(picture)
        light, seconds = build(args, folder)
        whole = shutil.copytree(light, folder / "whole", ignore=shutil.ignore_patterns(LIGHT))
        sides = {"with torch": whole, "without torch": light}
        found: dict[str, list[tuple[float, float, list[str]]]] = {side: [] for side in sides}
        for _ in range(args.repeats + 1):
            for side, place in sides.items():
                found[side].append(asked(args, place, picture))
        size = sum(path.stat().st_size for path in (light / LIGHT).rglob("*"))
    names = {tuple(one[2]) for runs in found.values() for one in runs}
    kept = {"kept in s": None if seconds is None else round(seconds, 1), "kept MB": round(size / 1e6, 1)}
    rows = [row(side, runs[1:], args) for side, runs in found.items()]
    measure.finish(args, f"One query to {args.gallery:,} images", rows, **kept, **{"same hits": len(names) == 1})
    return 0


def row(side: str, runs: list[tuple[float, float, list[str]]], args: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of a side's runs, and the quartiles of the processor's seconds."""
    walls, taken = ([one[place] for one in runs] for place in (0, 1))
    low, middle, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else taken * 3
    told = {"side": side, "images": args.gallery, "wall s": statistics.median(walls), "fastest wall s": min(walls)}
    return told | {"processor s": middle, "lower quartile": low, "upper quartile": high, "runs": len(runs)}


if __name__ == "__main__":
    sys.exit(main())
