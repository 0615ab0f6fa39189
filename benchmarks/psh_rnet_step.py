"""Images per second of PS-HRNet's two phases, the second beside a plain reading of the algorithm.

    python benchmarks/psh_rnet_step.py [--threads 1] [--keep benchmarks/results/psh_rnet_step.json]

The plain reading takes two loaders that decode and augment for themselves, and runs both branches with a graph; it
minimises the same loss. Both go through the same batches of drawn people, in turn, in one process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from torch.nn import functional as F

from torchreid_xres import checkpoint
from torchreid_xres.config import load_config
from torchreid_xres.devices.parallel import to_device
from torchreid_xres.engine.base import LAST, XresEngine
from torchreid_xres.features.record import machine, versions
from torchreid_xres.files import write_json
from torchreid_xres.jobs.job import own_runs

OURS, PLAIN = "phase 2", "phase 2, plain reading"


def engines_of(config: Path, overrides: list[str], folder: Path) -> list[XresEngine]:
    """Return the engines of both phases, the second beside a teacher with random weights."""
    first, second = own_runs(load_config(config, overrides), 0, folder)
    engines = [first.engine()]
    checkpoint.save_atomic({"models": {"model": engines[0].model.state_dict()}}, first.folder / LAST)
    engines.append(second.engine())
    for engine in engines:
        engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, folder
        engine.set_model_mode("train")
    return engines


def plain_step(engine: XresEngine, data: dict, other: dict) -> None:
    """Take the same step with the teacher in the graph, its images from a loader of their own."""
    data = to_device({**data, "img_hr": other["img_hr"]}, "cuda" if engine.use_gpu else "cpu")
    with engine.proof.autocast():
        output = engine.model(data["img_lr"], full=True)
        losses = engine.identity_losses(output.reid, data["pid"])
        target = engine.teacher(data["img_hr"], full=True).named()
        sr = F.l1_loss(output.restored.float(), data["img_hr"])
        student = output.reid.named()
        ps = sum(F.l1_loss(student[term].float(), target[term].float()) for term in engine.terms)
        loss = losses["loss"] + engine.weight_sr * sr + engine.weight_ps * ps
    for optimizer in engine._optims.values():
        optimizer.zero_grad()
    loss.backward()
    for optimizer in engine._optims.values():
        optimizer.step()


def seconds(work: Callable[[], None], use_gpu: bool) -> float:
    start = time.perf_counter()
    work()
    if use_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, default="psh_rnet_quickstart")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="write the result to this JSON file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        overrides = ["data.root", scratch, "data.save_dir", scratch, *args.opts]
        first, ours = engines_of(args.config_file, overrides, Path(scratch) / "ours")
        plain = engines_of(args.config_file, overrides, Path(scratch) / "plain")[1]
        # What the plain reading keeps for backward although nothing learns from it.
        plain.teacher.requires_grad_(True)
        alone, batches = iter(first.train_loader), iter(ours.train_loader)
        mine, theirs = iter(plain.train_loader), iter(plain.train_loader)
        steps: dict[str, Callable[[], object]] = {
            "phase 1": lambda: first.forward_backward(next(alone)),
            OURS: lambda: ours.forward_backward(next(batches)),
            PLAIN: lambda: plain_step(plain, next(mine), next(theirs)),
        }
        rows: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.repeats + 1):
            for name, step in steps.items():
                rows[name].append(seconds(step, ours.use_gpu))
    size = ours.train_loader.batch_size
    speeds = {name: [size / s for s in times[1:]] for name, times in rows.items()}  # the first warms up
    ratio = statistics.median(speeds[OURS]) / statistics.median(speeds[PLAIN])
    table = [
        {
            "step": name,
            "img/s": statistics.median(v),
            "least": min(v),
            "most": max(v),
            "s per 1000 images": 1000 / statistics.median(v),
        }
        for name, v in speeds.items()
    ]
    print(tabulate(table, headers="keys", tablefmt="github", floatfmt=".1f"))
    print(f"phase 2, ours / plain: {ratio:.2f}, {args.repeats} steps of {size} images each, {args.threads} thread(s)")
    if args.keep:
        facts = {"batch": size, "config": args.config_file.name, "changes": args.opts, "repeats": args.repeats}
        facts |= {"machine": machine() | {"load": os.getloadavg()[0]}, "versions": versions()}
        write_json({"rows": table, "ratio": ratio, **facts}, args.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
