"""One GPU in at most eight minutes: training and extraction beside the host's, and ranking on the device.

    python benchmarks/gpu.py --keep benchmarks/results/gpu.json

Networks of the host train in its own softmax engine and in ours, with one option after the other; so do methods, in
ours. Then each method extracts at its paper's size, and features are ranked and re-ranked on the device beside the
bare matrix product. Every step gets the same batch, copied from the CPU each time: what a disk and a decoder add is for
``loading.py``. "host" is as torch is set, with convolutions in TF32; "ours" is in plain fp32. "MB" is the GPU's memory
beyond what was held before. Once the time is up, the parts that are left are named and not begun; so is one that fails.
Without a GPU all runs on the CPU, which says nothing of one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import measure
import ranking
import reranking
import torch
from throughput import HOST, host_engine, last_run, our_engine, speeds

from torchreid_xres.config import load_config, stage_configs
from torchreid_xres.devices.compiled import compile_network
from torchreid_xres.devices.parallel import to_device
from torchreid_xres.devices.precision import autocast
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.run import model_options
from torchreid_xres.metrics.rerank import reranked_distances
from torchreid_xres.models import build_model
from torchreid_xres.models.weights import without_starts

FUSED, GRAPHS, TF32, BF16, LAST = "+ fused optimiser", "+ CUDA graphs", "+ TF32", "+ bf16", "+ channels last"
# One after the other: each side keeps the options of those before it.
TRAINING = {
    "ours": ["train.channels_last", False, "train.precision", "fp32", "train.compile", False],
    TF32: [],
    BF16: ["train.precision", "bf16_unchecked"],
    LAST: ["train.channels_last", True],
    FUSED: [],
    "+ compile": ["train.compile", True],
    GRAPHS: ["train.compile", False],  # compiled in another mode
}
EXTRACTION = ("fp32", TF32, BF16, LAST)
# Methods, and configurations with the sizes of their papers.
METHODS = {
    "sr_reid": "sr_reid_mlr_market", "psh_rnet": "psh_rnet_mlr_market", "msifla": "msifla_mlr_market",
    "dgrl": "dgrl_mlr_market", "prpr": "prpr_mlr_market", "kgnet": "kgnet_veri776_x8",
    "asymmetric": "asymmetric_mlr_cuhk03_mini",
}  # fmt: skip


def set_tf32(on: bool) -> None:
    """Let products and convolutions on a GPU round what goes in to 10 bits, or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def with_fused(engine: Any) -> None:
    """Let an engine's optimisers take a step in one kernel.

    Raises:
        ValueError: for an optimiser that has none.
    """
    for optimizer in filter(None, engine._optims.values()):
        for group in optimizer.param_groups:
            if "fused" not in group:
                raise ValueError(f"{type(optimizer).__name__} has no fused step")
            group.update(fused=True, foreach=False)


def steps(engine: Any, batch: dict, count: int, tf32: bool) -> Callable[[], None]:
    """Return a function that trains on one batch several times."""

    def call() -> None:
        set_tf32(tf32)
        engine.set_model_mode("train")
        for _ in range(count):
            engine.forward_backward(batch)

    return call


def training(config: str, name: str, args: argparse.Namespace, folder: Path) -> list[dict]:
    """Return the rows of a network of the host, or with no name of the method of a configuration."""
    changes = [*args.common, "train.batch_size", args.batch, "compare.models", [name] if name else []]
    sides, batch = {}, None
    if name and HOST in args.sides:
        engine = host_engine(load_config(config, changes), name)
        batch = next(iter(engine.train_loader))
        torch.backends.cudnn.allow_tf32 = True
        sides[HOST] = host_steps(engine, batch, args.steps)
    for side, more in TRAINING.items():
        changes = changes + more
        if side not in args.sides:
            continue
        place = folder / side.replace(" ", "_")
        run = last_run(load_config(config, [*changes, "data.save_dir", str(place)]), name, place)
        engine = our_engine(run)
        if list(TRAINING).index(side) >= list(TRAINING).index(FUSED):
            with_fused(engine)
        if side == GRAPHS:
            compile_network(unwrap(engine.model), run.model_name, mode="reduce-overhead")
        batch = batch if name and batch is not None else next(iter(engine.train_loader))
        sides[side] = steps(engine, batch, args.steps, tf32=side != "ours")
    measured, _ = measure.by_turns(sides, args.repeats)
    return speeds(measured, name or Path(config).stem, "training", args.steps * len(batch["img"]), args.steps)


def host_steps(engine: Any, batch: dict, count: int) -> Callable[[], None]:
    """Return the same of the host's engine, with torch's own settings."""

    def call() -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
        engine.set_model_mode("train")
        for _ in range(count):
            engine.forward_backward(batch)

    return call


def extraction(method: str, config: str, args: argparse.Namespace) -> list[dict]:
    """Return the rows of a method: features of a batch of which every other image is low."""
    cfg = load_config(config)
    cfg = ([one for one in stage_configs(cfg).values() if one.model.name == method] or [cfg])[-1]
    options = without_starts(model_options(cfg, method))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(method, num_classes=751, pretrained=False, **options).to(device).eval()
    height, width = args.own_size or (cfg.data.height, cfg.data.width)
    low = torch.arange(args.batch) % 2 == 0
    small, whole = torch.tensor([[height // 2, width // 2]]), torch.tensor([[height, width]])
    batch = {
        "img": torch.randn(args.batch, 3, height, width),
        "low": low,
        "rate": torch.where(low, 2.0, 1.0).double(),
        "size": torch.where(low[:, None], small, whole),
        "role": ["query" if one else "gallery" for one in low.tolist()],
    }

    @torch.no_grad()
    def described(side: str) -> None:
        set_tf32(side != "fp32")
        # Each turn anew: a network has one layout.
        model.to(memory_format=torch.channels_last if side == LAST else torch.contiguous_format)
        with autocast(device, "bf16" if side in (BF16, LAST) else "fp32"):
            for _ in range(args.steps):
                seen = to_device(batch, device)
                (model.extract(seen) if hasattr(model, "extract") else model(seen["img"])).float().cpu()

    measured, _ = measure.by_turns({side: partial(described, side) for side in EXTRACTION}, args.repeats)
    return speeds(measured, method, "extraction", args.steps * args.batch, args.steps)


def ranked(args: argparse.Namespace) -> list[dict]:
    """Return the rows of ranking and re-ranking on the device."""
    set_tf32(False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    qf, gf, labels = ranking.make(args)
    qf, gf = qf.to(device), gf.to(device)
    rows = ranking.from_features(args, qf, gf, labels)
    sides = {
        "matrix product": lambda: reranking.product(qf, gf),
        "ours, from features": lambda: reranked_distances(qf, gf),
    }
    return rows + measure.compared(measure.by_turns(sides, args.repeats)[0], "re-ranking, 1 = product")


def parts(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], list[dict]]]]:
    """Yield each part's name and what measures it."""
    yield "ranking", lambda: ranked(args)
    for name in args.model:
        yield f"training {name}", partial(training, "quickstart", name, args, folder / name)
    for method in args.method:
        yield f"extraction {method}", partial(extraction, method, METHODS[method], args)
    for config in args.config_file:
        yield f"training {config}", partial(training, config, "", args, folder / Path(config).stem)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ranking.add_sizes(parser)
    parser.add_argument("--model", nargs="*", default=["resnet50", "osnet_x1_0"], help="networks of the host to train")
    parser.add_argument("--config-file", nargs="*", default=["psh_rnet_quickstart"], help="methods to train")
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS, help="methods that extract")
    sides = [HOST, *TRAINING]
    parser.add_argument("--sides", nargs="+", default=sides, choices=sides, help="of training, the first is 1")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--steps", type=int, default=10, help="of each timed run")
    parser.add_argument("--size", nargs=2, type=int, default=[256, 128], help="height and width in training")
    parser.add_argument("--own-size", nargs=2, type=int, help="in extraction; that of the configuration if left out")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which no part is begun")
    measure.options(parser, repeats=3)
    parser.set_defaults(matrix=False)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows, left_out, start = [], {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        args.common = ["train.seed", args.seed, "data.workers", 0, "data.root", scratch]
        args.common += ["use_gpu", torch.cuda.is_available(), "data.height", args.size[0], "data.width", args.size[1]]
        for name, work in parts(args, Path(scratch)):
            if time.perf_counter() - start > args.budget:
                left_out[name] = "the time was up"
                continue
            try:
                rows += work()
            except Exception as error:  # of one part, and the others are still worth their minutes
                left_out[name] = f"{type(error).__name__}: {error}"
    del args.common
    seconds = round(time.perf_counter() - start, 1)
    measure.finish(args, "One device", rows, left_out=left_out, seconds=seconds)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
