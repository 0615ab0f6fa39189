"""What a training step on a CPU is made of: the share of each kind of operation, by torch's profiler.

    python benchmarks/training_step.py --network osnet_x1_0 --size 128 64 --batch 32

The step is the softmax loss of a network of the host, channels last, in single precision. Beside the shares stands what
the optimiser takes as it is and fused.
"""

from __future__ import annotations

import argparse
import re
import sys

import measure
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from torchreid_xres import host
from torchreid_xres.devices.memory import keep_freed_memory

# The first that matches counts; names of torch's operators.
KINDS = {
    "convolutions, backward": r"convolution_backward|ConvolutionBackward",
    "convolutions, forward": r"convolution|conv2d",
    "batch norm": r"batch_norm|BatchNorm",
    "activations": r"threshold|relu|clamp_min|sigmoid",
    "optimiser": r"Optimizer|addcdiv|addcmul|lerp|sqrt",
    "sums and products between layers": r"add|mul|sum|div|mean",
    "pooling": r"pool",
    "memory": r"empty|copy|resize|fill|zero|contiguous|as_strided|_to_copy",
    "others": "",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="osnet_x1_0")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 64), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=32)
    measure.options(parser, repeats=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    keep_freed_memory()
    model = host.build_model(args.network, num_classes=64, pretrained=False).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = host.build_optimizer(model, optim="adam")
    fused = torch.optim.Adam(model.parameters(), lr=optimizer.defaults["lr"], fused=True)
    img, pids = torch.randn(args.batch, 3, *args.size), torch.randint(64, (args.batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(img.contiguous(memory_format=torch.channels_last)), pids).backward()
        optimizer.step()

    step()
    sides = {"step": step, "optimiser": optimizer.step, "optimiser, fused": fused.step}
    measured, _ = measure.by_turns(sides, args.repeats)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    shares = dict.fromkeys(KINDS, 0.0)
    for event in profiled.key_averages():
        kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, event.key))
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    rows = [{"part": kind, "% of a step": 100 * share / total} for kind, share in shares.items()]
    of_step = {row["side"]: round(100 * row["seconds"] / measured[0]["seconds"], 1) for row in measured[1:]}
    measure.finish(args, "A training step", rows, percent_of_a_step=of_step, seconds=measured[0]["seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
