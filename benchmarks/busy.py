"""Seconds of a training step while other work takes the cores: on all threads, on one, and on those a run chooses.

    python benchmarks/busy.py --loads 0 1 3 5 [--keep benchmarks/results/busy.json]

The step is the quick start's (OSNet x0.25, 128x64, 32 images) in the host's engine's own way. Other work is so many
processes that each take a core. A run tries its threads before an epoch and where a batch is slow; that trial's seconds
stand in a column of their own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import measure
import torch
from torch.nn import functional as F

from torchreid_xres import host
from torchreid_xres.devices.threads import VARIABLES, Threads


def spin() -> None:
    while True:
        pass


@contextmanager
def other_work(count: int) -> Iterator[None]:
    """Let so many processes take a core each for the length of a block."""
    processes = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.options(parser, repeats=3)
    parser.set_defaults(threads=torch.get_num_threads())
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 3, 5], help="processes of other work")
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args(argv)
    for name in VARIABLES:  # they would fix the number
        os.environ.pop(name, None)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    network = host.build_model("osnet_x0_25", num_classes=64, pretrained=False).train()
    img, pids = torch.randn(args.batch, 3, 128, 64), torch.randint(64, (args.batch,))

    def step() -> None:
        network.zero_grad()
        F.cross_entropy(network(img), pids).backward()

    def seconds(work=step) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def median() -> float:
        return statistics.median(seconds() for _ in range(args.repeats))

    step()
    rows = []
    for load in args.loads:
        with other_work(load):
            torch.set_num_threads(1)
            one = median()
            torch.set_num_threads(args.threads)
            every = median()
            threads = Threads()
            trial = seconds(threads.choose)
            chosen = statistics.median(seconds(lambda t=threads: t.timed(step)) for _ in range(args.repeats))
        rows.append({
            "other processes": load, "all threads": every, "one": one, "chosen": chosen, "trial": trial,
            "threads chosen": torch.get_num_threads(), "all / one": every / one, "chosen / one": chosen / one,
        })  # fmt: skip
    torch.set_num_threads(args.threads)
    measure.finish(args, "Seconds of a training step beside other work", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
