"""How long a network takes, whole and by its parts, and what it holds on a GPU meanwhile."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchreid_xres.comparison.parts import Inputs, evaluating, part_names, parts_followed, run


@dataclass(frozen=True)
class Latency:
    """Time of one pass, or of one part in it, in seconds, over a number of runs.

    Attributes:
        median, lower, upper: second, first and third quartile.
        runs: timed passes.
        warmup: passes before them.
        threads: torch's threads.
        device: ``cpu``, or the name of the GPU.
        clock: ``processor``, for one thread on a CPU (what the machine does beside does not count), or ``wall``.
        device_bytes: what torch had allocated on the GPU at most, weights and kernels' workspace included; 0 on a CPU.
    """

    median: float
    lower: float
    upper: float
    runs: int
    warmup: int
    threads: int
    device: str
    clock: str
    device_bytes: int

    def __str__(self) -> str:
        text = (
            f"{1e3 * self.median:.1f} ms median, quartiles {1e3 * self.lower:.1f} to {1e3 * self.upper:.1f} ms, "
            f"{self.runs} runs after {self.warmup} to warm up, {self.threads} thread(s), {self.device}, "
            f"{self.clock} clock"
        )
        return f"{text}, {self.device_bytes / 2**20:.0f} MiB allocated at most" if self.device_bytes else text


def latency(model: nn.Module, inputs: Inputs, runs: int = 20, warmup: int = 5) -> Latency:
    """Time passes in evaluation mode, without gradients.

    Args:
        model: left as it was, its modes included.
        inputs: what the pass is given, on the model's device; see
            :func:`~torchreid_xres.comparison.complexity.complexity`.
        runs: timed passes, at least 2.
        warmup: passes before them, in which kernels are chosen and caches filled.

    Returns:
        Median and quartiles. On a GPU every pass is waited for.

    Raises:
        ValueError: if there are too few runs for quartiles.

    Example:
        >>> took = latency(nn.Linear(4, 4), torch.zeros(2, 4), runs=3)
        >>> 0 < took.lower <= took.median <= took.upper
        True
    """
    return latency_by_part(model, inputs, 0, runs, warmup)[""]


def latency_by_part(
    model: nn.Module, inputs: Inputs, depth: int = 1, runs: int = 20, warmup: int = 5
) -> dict[str, Latency]:
    """Time the parts of passes; each moment belongs to the innermost part at work, so a pass's parts add up to it.

    On a GPU every change of part is waited for, which takes from it what it would do at once: the sum is then larger
    than the time of an undivided pass.

    Args:
        model: left as it was.
        inputs: see :func:`latency`.
        depth: how many levels of children the parts go down.
        runs: timed passes, at least 2.
        warmup: passes before them.

    Returns:
        Name of each part that ran, as in :func:`~torchreid_xres.comparison.parts.part_names` -> its time; at depth 0
        the whole under the empty name.

    Raises:
        ValueError: if there are too few runs for quartiles, or the depth is negative.
    """
    if runs < 2:
        raise ValueError(f"quartiles need at least 2 runs, not {runs!r}")
    names = part_names(model, depth)
    device = next((leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), torch.device("cpu"))
    on_gpu = device.type == "cuda"
    alone = not on_gpu and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    spent: Counter[str] = Counter()
    held: Counter[str] = Counter()
    last = 0.0

    def settle(part: str) -> None:
        nonlocal last
        if on_gpu:
            torch.cuda.synchronize(device)
            held[part] = max(held[part], torch.cuda.max_memory_allocated(device))
            torch.cuda.reset_peak_memory_stats(device)
        now = clock()
        spent[part] += now - last
        last = now

    seconds: dict[str, list[float]] = defaultdict(list)
    with evaluating(model):
        for turn in range(warmup + runs):
            spent.clear()
            if on_gpu:
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
            last = clock()
            if depth:
                with parts_followed(model, depth, settle):
                    last = clock()  # hooks are on
                    run(model, inputs)
            else:
                run(model, inputs)
                settle("")
            if turn >= warmup:
                for part, value in spent.items():
                    seconds[part].append(value)

    name = torch.cuda.get_device_name(device) if on_gpu else str(device)
    about = (runs, warmup, torch.get_num_threads(), name, "processor" if alone else "wall")
    found = {}
    for part, shown in names.items():
        if len(seconds[part]) == runs:  # a part that runs does so in each pass: the inputs are the same
            lower, median, upper = statistics.quantiles(seconds[part], n=4, method="inclusive")
            found[shown if depth else ""] = Latency(median, lower, upper, *about, held[part])
    return found
