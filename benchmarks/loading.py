"""Images a second of loading: pairs in one decode beside twice the host's loader, JPEG and PNG, and from memory.

    python benchmarks/loading.py
    python benchmarks/loading.py --height 384 --width 128 --native 384 128

Drawn people of ``--native`` size are written to a temporary folder as JPEG and as PNG. Every side loads all of them, in
batches of 32 to normalised tensors with a random flip, in one process. "Twice the host's": its loader goes over the set
for the high-resolution views and again for the low ones, as papers' code does, without even making these low.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import measure
import torch
from torch.utils.data import DataLoader

from torchreid_xres import host
from torchreid_xres.data.io import read_image
from torchreid_xres.data.manager import XresDataManager

BATCH = 32
OURS = {
    "ours, single": {},
    "ours, pairs": {"pairs": True},
    "ours, single, in memory": {"cache_mb": 4096},
    "ours, pairs, in memory": {"pairs": True, "cache_mb": 4096},
}


def write_set(root: Path, kind: str, count: int, native: tuple[int, int]) -> list[Path]:
    """Write drawn people as a set of folders in one format and return the training files."""
    few = {"train_identities": math.ceil(count / 12), "test_identities": 1}  # 12 pictures of each
    drawn = host.init_image_dataset("synth_person", root=str(root / "drawn"), verbose=False, **few)
    written = []
    for i in range(count):
        img = read_image(drawn.train[i % len(drawn.train)][0]).resize(native[::-1])
        for role in ("train", "query", "gallery") if i < 4 else ("train",):
            # Two identities to test, in two cameras, and the rest to train.
            pid = f"{i % 2}" if role != "train" else f"{100 + i % (count // 4)}"
            camera = int(role == "query")
            path = root / kind / role / pid / f"{pid}_c{camera}_{i}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            img.save(path, quality=95)
            if role == "train":
                written.append(path)
    return written


def host_loader(files: list[Path], size: tuple[int, int]) -> DataLoader:
    """Return the host's own training loader of these files."""
    items = [(str(path), i, 0, 0) for i, path in enumerate(files)]
    transform, _ = host.module("data.transforms").build_transforms(*size, transforms=["random_flip"])
    dataset = host.ImageDataset(items, items, items, transform=transform, mode="train", verbose=False)
    return DataLoader(dataset, batch_size=BATCH)


def our_loader(root: Path, kind: str, size: tuple[int, int], options: dict) -> DataLoader:
    """Return our training loader of the same files."""
    manager = XresDataManager(
        root=str(root), sources="folder", height=size[0], width=size[1], transforms="random_flip", use_gpu=False,
        workers=0, batch_size_train=BATCH, options={"folder": {"folder": kind, "synthetic": True, **options}},
    )  # fmt: skip
    return DataLoader(manager.train_loader.dataset, batch_size=BATCH)


def through(*loaders: Iterable) -> Callable[[], None]:
    """Return a function that loads everything."""

    def work() -> None:
        for loader in loaders:
            for _ in loader:
                pass

    return work


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=512, help="training images")
    parser.add_argument("--native", type=int, nargs=2, default=(128, 64), metavar=("H", "W"), help="of the files")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    measure.options(parser, repeats=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rows, size = [], (args.height, args.width)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind in ("jpg", "png"):
            files = write_set(root, kind, args.count, tuple(args.native))
            sides = {"host, single": through(host_loader(files, size))}
            sides["host, twice"] = through(*(host_loader(files, size) for _ in range(2)))
            sides |= {name: through(our_loader(root, kind, size, options)) for name, options in OURS.items()}
            measured, _ = measure.by_turns(sides, args.repeats)
            single, twice = (row["seconds"] for row in measured[:2])
            for row in measured:
                beside = twice if "pairs" in row["side"] or "twice" in row["side"] else single
                rows.append({
                    "files": kind, "side": row["side"], "img/s": len(files) / row["seconds"],
                    "lower quartile": len(files) / row["upper quartile"],
                    "upper quartile": len(files) / row["lower quartile"], "times the host": beside / row["seconds"],
                    "MB": row["MB"],
                })  # fmt: skip
    measure.finish(args, f"{args.native[0]}x{args.native[1]} files to {args.height}x{args.width}", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
