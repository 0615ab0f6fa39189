"""Images a second of training and of extraction: the host's own loop, and ours with one option after the other.

    python benchmarks/throughput.py --model resnet50 osnet_x1_0 --root DATA
    python benchmarks/throughput.py --config-file configs/msifla_quickstart.yaml

Files are decoded in the loop, by one process. A network of the host is trained by its softmax engine at the input size
of ``data.height`` and ``data.width``; a method by the configuration's last stage that trains, the stages before it
with random weights. Each side has its own process, which trains first and then extracts; they take turns. "Memory
kept": what a batch frees serves the next one (:mod:`torchreid_xres.devices.memory`); "pictures kept": the training set
stays in memory after its first epoch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor

from torchreid_xres import checkpoint, host
from torchreid_xres.config import as_dict, load_config
from torchreid_xres.data import dataset_options
from torchreid_xres.devices.memory import keep_freed_memory
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.jobs.job import compared_runs, own_runs
from torchreid_xres.jobs.optimizers import optimizer_options
from torchreid_xres.jobs.run import Run

HOST, BF16, COMPILED = "host", "+ bf16", "+ compile"

# One after the other: each side keeps the options of those before it.
OPTIONS = {
    "ours": ["train.channels_last", False, "train.precision", "fp32", "train.compile", False, "data.cache_mb", 0],
    "+ channels last": ["train.channels_last", True],
    BF16: ["train.precision", "bf16_unchecked"],
    "+ memory kept": [],
    "+ pictures kept": ["data.cache_mb", 2048],
    COMPILED: ["train.compile", True],
}


def last_run(cfg: Any, name: str, folder: Path) -> Run:
    """Return the run that is measured, and make what it needs of the stages before it."""
    if name:
        return compared_runs(cfg, 0, folder)[0]
    *before, run = [run for run in own_runs(cfg, 0, folder) if run.cfg.task != "fuse"]
    for earlier in before:
        if earlier.cfg.task == "train":
            engine = earlier.engine()
            earlier.save()
            checkpoint.save_atomic({"models": {"model": unwrap(engine.model).state_dict()}}, earlier.folder / LAST)
        else:
            earlier.work()
    return run


def endless(loader: Iterable) -> Iterator[dict]:
    """Give whole batches for ever; what is left at an epoch's end would be another size."""
    size = loader.batch_size
    return (batch for epoch in cycle([loader]) for batch in epoch if len(batch["pid"]) == size)


def calls_of(engine: Any, target: str, batches: int, extract: Callable[[dict], Tensor]) -> dict[str, Callable[[], Any]]:
    """Return a function that trains on some batches, and one that extracts the features of as many."""
    train, test = endless(engine.train_loader), endless(engine.test_loader[target]["gallery"])

    def training() -> None:
        engine.set_model_mode("train")
        for _ in range(batches):
            engine.forward_backward(next(train))

    @torch.no_grad()
    def extraction() -> None:
        engine.set_model_mode("eval")
        for _ in range(batches):
            extract(next(test)).float().cpu()

    return {"training": training, "extraction": extraction}


def our_engine(run: Run) -> XresMixin:
    """Return a run's engine, ready for a step."""
    engine: XresMixin = run.engine()
    engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, run.folder
    return engine


def our_calls(run: Run, batches: int) -> dict[str, Callable[[], Any]]:
    """Return what a run does (see :func:`calls_of`)."""
    engine = our_engine(run)

    def extract(batch: dict) -> Tensor:
        with engine.proof.autocast():
            return engine.extract(batch)

    return calls_of(engine, run.cfg.data.targets[0], batches, extract)


def host_engine(cfg: Any, name: str) -> Any:
    """Return the host's engine for one of its networks, with its data manager, in single precision."""
    with dataset_options(as_dict(cfg.data.options)):
        manager = host.ImageDataManager(
            root=cfg.data.root, sources=list(cfg.data.sources), targets=list(cfg.data.targets), height=cfg.data.height,
            width=cfg.data.width, transforms=list(cfg.data.transforms), use_gpu=cfg.use_gpu, workers=0,
            batch_size_train=cfg.train.batch_size, batch_size_test=cfg.test.batch_size,
        )  # fmt: skip
    model = host.build_model(name, manager.num_train_pids, loss=cfg.loss.name, pretrained=False, use_gpu=cfg.use_gpu)
    model = model.cuda() if cfg.use_gpu else model
    optimizer = host.build_optimizer(model, **optimizer_options(cfg))
    return host.ImageSoftmaxEngine(manager, model, optimizer, use_gpu=cfg.use_gpu)


def host_calls(cfg: Any, name: str, batches: int) -> dict[str, Callable[[], Any]]:
    """Return the same of the host."""
    engine = host_engine(cfg, name)

    def extract(batch: dict) -> Tensor:
        images, _, _ = engine.parse_data_for_eval(batch)
        return engine.extract_features(images.cuda() if cfg.use_gpu else images)

    return calls_of(engine, cfg.data.targets[0], batches, extract)


def calls_of_side(side: str, config: str, overrides: list[Any], name: str, folder: Path, batches: int) -> dict:
    """Return the calls of one side, in the process that is its own."""
    cfg = load_config(config, overrides)
    if side == HOST:
        return host_calls(cfg, name, batches)
    if list(OPTIONS).index(side) >= list(OPTIONS).index("+ memory kept"):
        keep_freed_memory()
    return our_calls(last_run(cfg, name, folder), batches)


def speeds(measured: list[dict], network: str, work: str, images: int, batches: int) -> list[dict]:
    """Return a row for each side: images a second, and how many times the first side's."""
    first = measured[0]["seconds"]
    return [
        {
            "network": network, "work": work, "batch": images // batches, "side": row["side"],
            "img/s": images / row["seconds"], "lower quartile": images / row["upper quartile"],
            "upper quartile": images / row["lower quartile"], "times the first": first / row["seconds"],
            "MB": row["MB"],
        }
        for row in measured
    ]  # fmt: skip


def rows_of(config: str, overrides: list[Any], name: str, args: argparse.Namespace, folder: Path) -> list[dict]:
    """Return the rows of one network: work, side, images a second, and how many times the first side's."""
    changes = [*overrides, "compare.models", [name] if name else []]
    cfg = load_config(config, changes)
    label = name or [run for run in own_runs(cfg, 0, folder) if run.cfg.task != "fuse"][-1].label
    sides = {HOST: changes} if name else {}
    for side, more in OPTIONS.items():
        changes = changes + more
        sides[side] = changes
    asked = [*args.sides, COMPILED] if args.compile else args.sides
    sides = {side: given for side, given in sides.items() if side in asked}
    if not sides:
        raise ValueError(f"{label} has none of --sides {' '.join(asked)}; a method has {', '.join(OPTIONS)}")
    remotes = {
        side: measure.Remote(calls_of_side, side, config, given, name, folder / side, args.batches)
        for side, given in sides.items()
    }
    rows = []
    for work in ("training", "extraction"):
        images = args.batches * (cfg.train.batch_size if work == "training" else cfg.test.batch_size)
        measured, _ = measure.by_turns({side: remote.call(work) for side, remote in remotes.items()}, args.repeats)
        rows += speeds(measured, label, work, images, args.batches)
    for remote in remotes.values():
        remote.close()
    return rows


def peak_rates(bf16: bool) -> dict[str, float]:
    """Return what a large matrix product reaches here in each precision, in GFLOP/s: no network can do more."""
    a = torch.randn(2048, 2048, device="cuda" if torch.cuda.is_available() else "cpu")
    sides = {"fp32": a, "bf16": a.bfloat16()} if bf16 else {"fp32": a}
    measured, _ = measure.by_turns({side: lambda b=b: b @ b for side, b in sides.items()}, 3)
    return {row["side"]: round(2 * 2048**3 / row["seconds"] / 1e9, 1) for row in measured}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[], help="networks of the host")
    parser.add_argument("--config-file", nargs="+", default=[], help="methods, by their configurations")
    parser.add_argument("--root", help="folder that holds the data sets; a temporary one if left out")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", help="keys changed in every run")
    parser.add_argument("--batches", type=int, default=2, help="of each timed run")
    sides = [HOST, *(side for side in OPTIONS if side != COMPILED)]
    parser.add_argument("--sides", nargs="+", default=sides, choices=sides, help="what is measured, the first is 1")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    measure.options(parser, repeats=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            common = ["train.seed", args.seed, "data.workers", 0, "data.root", args.root or scratch, *args.set]
            wanted = [("quickstart", name) for name in args.model]
            for config, name in wanted + [(config, "") for config in args.config_file]:
                folder = Path(scratch) / f"{len(rows)}"
                rows += rows_of(config, [*common, "data.save_dir", str(folder)], name, args, folder)
    except USER_ERRORS as error:
        return tell(error)
    measure.finish(args, "Images a second", rows, matrix_product_GFLOPS=peak_rates(BF16 in args.sides))
    return 0


if __name__ == "__main__":
    sys.exit(main())
