"""A training step of MSIFLA, images a second: as it is, and with its parts run in other ways, by turns in one process.

    python benchmarks/msifla_step.py                                       # the paper's size
    python benchmarks/msifla_step.py --config-file configs/msifla_mlr_cuhk03_mini.yaml model.reid_weights ""

Variants: the versions of an image through the cascade one by one ("plain"), as one batch ("engine", what is used); the
three re-ID networks as one call, by torch.func.vmap over stacked weights (grouped convolutions: "one call"); and the
couplings "joint" and "detached". A batch is the paper's, 5 identities x (2 HR + 2 LR), of random pixels.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.config import load_config
from torchreid_xres.engine.msifla import MSIFLAEngine
from torchreid_xres.features.record import versions
from torchreid_xres.files import write_json
from torchreid_xres.jobs.optimizers import optimizer_options
from torchreid_xres.jobs.run import model_options
from torchreid_xres.models.msifla import MSIFLA, MSIFLAOutput


class PlainEngine(MSIFLAEngine):
    """Each version of the images goes through the cascade alone."""

    def reconstruction_losses(self, data: dict) -> dict[str, Tensor]:
        versions = self._versions(data)
        singles = [self._net.cascade(versions[rate]) for rate in (*self.rates, 1)]
        return self._reconstruction([torch.cat(images) for images in zip(*singles, strict=True)], versions)


class OneCallMSIFLA(MSIFLA):
    """The re-ID networks' weights are stacked, and one vmapped call runs them all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parameters, buffers = stack_module_state(list(self.reid))
        self.skeleton = [copy.deepcopy(self.reid[0]).to("meta")]  # in a list: no part of this model
        del self.reid
        self.reid = nn.ParameterDict({name.replace(".", "/"): value for name, value in parameters.items()})
        for name, value in buffers.items():
            self.register_buffer(name.replace(".", "/"), value)
        self.stacked_buffers = list(buffers)

    def identify(self, images: Sequence[Tensor]) -> MSIFLAOutput:
        parameters = {name.replace("/", "."): value for name, value in self.reid.items()}
        buffers = {name: self.get_buffer(name.replace(".", "/")) for name in self.stacked_buffers}

        def one(parameters: dict, buffers: dict, image: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.skeleton[0], (parameters, buffers), (image,))

        parts, logits = vmap(one)(parameters, buffers, torch.stack(list(images)))
        return MSIFLAOutput(parts.transpose(0, 1), logits.transpose(0, 1))


VARIANTS = {
    "plain": (PlainEngine, MSIFLA, "alternate"),
    "engine": (MSIFLAEngine, MSIFLA, "alternate"),
    "one call": (MSIFLAEngine, OneCallMSIFLA, "alternate"),
    "joint": (MSIFLAEngine, MSIFLA, "joint"),
    "detached": (MSIFLAEngine, MSIFLA, "detached"),
}


def make_batch(cfg: CfgNode) -> dict:
    """Return a batch of random pixels in which each identity has as many low images as the sampler would give it."""
    count, group = cfg.train.batch_size, cfg.sampler.num_instances
    place = torch.arange(count) % group
    return {
        "img": torch.randn(count, 3, cfg.data.height, cfg.data.width),
        "pid": torch.arange(count) // group,
        "low": place >= group - cfg.sampler.num_low,
        "size": torch.tensor([[cfg.data.height, cfg.data.width]]).expand(count, 2),
        "impath": ["random"] * count,
    }


def make_engine(cfg: CfgNode, variant: str, classes: int) -> MSIFLAEngine:
    """Return an engine on random weights, the same for all variants."""
    engine, model, coupling = VARIANTS[variant]
    torch.manual_seed(0)
    net = model(num_classes=classes, pretrained=False, **model_options(cfg, "msifla"))
    if cfg.train.channels_last:
        net.cascade.to(memory_format=torch.channels_last)
        if model is MSIFLA:  # stacked weights have five dimensions
            net.reid.to(memory_format=torch.channels_last)
    if cfg.use_gpu:
        net = net.cuda()
    loader = SimpleNamespace(dataset=[make_batch(cfg)])
    manager = SimpleNamespace(train_loader=loader, test_loader=None)
    optimizer = host.build_optimizer(net, **optimizer_options(cfg))
    made = engine(
        manager, net, optimizer, use_gpu=cfg.use_gpu, precision=cfg.train.precision,
        **{**MSIFLAEngine.engine_options(cfg), "coupling": coupling},
    )  # fmt: skip
    made.set_model_mode("train")
    return made


def measure(cfg: CfgNode, variants: Sequence[str], classes: int, repeats: int) -> list[dict]:
    """Return a row for each variant: median and quartiles of its images a second.

    Args:
        cfg: a configuration of ``msifla``.
        variants: names of :data:`VARIANTS`; they take turns, so that a busy machine slows all alike.
        classes: training identities.
        repeats: timed steps of each, after one that is not.
    """
    engines = {name: make_engine(cfg, name, classes) for name in variants}
    batch, seconds = make_batch(cfg), {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.forward_backward(batch)
            if cfg.use_gpu:
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        rates = [cfg.train.batch_size / t for t in times]
        low, middle, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else rates * 3
        rows.append({"variant": name, "img/s": middle, "lower quartile": low, "upper quartile": high})
    return [row | {"times plain": row["img/s"] / rows[0]["img/s"]} for row in rows]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, default="msifla_mlr_market")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--classes", type=int, default=751)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write the result to this JSON file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config_file, args.opts)
    rows = measure(cfg, args.variants, args.classes, args.repeats)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))
    if args.keep:
        machine = {"processor": platform.machine(), "threads": args.threads, "load": os.getloadavg()[0]}
        machine["gpu"] = torch.cuda.get_device_name() if cfg.use_gpu else None
        facts = {"input": [cfg.data.height, cfg.data.width], "batch": cfg.train.batch_size, "repeats": args.repeats}
        write_json(
            {"rows": rows, **facts, "precision": cfg.train.precision, "config": args.config_file.name,
             "changes": args.opts, "machine": machine, "versions": versions()},
            args.keep,
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
