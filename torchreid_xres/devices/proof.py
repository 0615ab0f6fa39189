"""Half precision on a processor: proved on the first batch, product by product, before it is believed.

oneDNN's kernels for AMX have read memory that nobody wrote (bf16 convolutions of stride 2 whose output is one pixel
wide), with results from slightly off to 1e38, other ones in each run. So the first batch of a network runs with every
matrix product and convolution, forward and backward, computed a second time in single precision from the same numbers,
while the C library fills the memory it hands out with a pattern. What was found is kept for the network's shape.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.module_tracker import ModuleTracker

from torchreid_xres.devices import distributed
from torchreid_xres.devices.memory import perturbed_memory
from torchreid_xres.devices.precision import UNCHECKED, autocast, precision_on
from torchreid_xres.files import cache_folder, write_text

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What oneDNN computes for a network; names without the namespace, of the schema.
PRODUCTS = frozenset({
    "convolution", "convolution_backward", "conv1d", "conv2d", "conv_transpose2d",
    "mm", "addmm", "bmm", "baddbmm", "matmul", "linear",
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
})  # fmt: skip
# Largest error of a number, as a share of its own size and the mean size of the result. Rounding is below 0.004;
# torch's own kernels, where oneDNN has none, add up the images of a gradient in bf16 and reach 0.06. A wrong kernel
# leaves what was in memory, which the pattern makes 1e38.
BOUND = 0.25


class WrongKernelError(ArithmeticError):
    """Half precision gives wrong results on this processor, and was asked for by name."""


class Proof:
    """What a network computes in on a device, proved where that can be wrong.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        wanted: ``auto``, ``fp32``, ``bf16``, ``bf16_unchecked`` or ``fp16``.

    Attributes:
        precision: ``fp32``, ``bf16`` or ``fp16``; a proof that fails makes ``fp32`` of ``auto``.

    Raises:
        ValueError: for another precision.

    Example:
        >>> proof, net, img = Proof("cpu", "bf16"), nn.Conv2d(3, 8, 3), torch.rand(2, 3, 16, 8)
        >>> def work():
        ...     with proof.autocast():
        ...         return net(img)
        >>> proof.run(work, net, img.shape, "eval").dtype, proof.precision
        (torch.bfloat16, 'bf16')
    """

    def __init__(self, device: torch.device | str, wanted: str = "auto") -> None:
        self.precision = precision_on(device, wanted)
        self._device, self._wanted = torch.device(device), wanted
        doubtful = self._device.type == "cpu" and self.precision == "bf16" and wanted != UNCHECKED
        self._due = {"train", "eval"} if doubtful else set()

    def autocast(self) -> torch.autocast:
        """Return the context in which the network runs."""
        return autocast(self._device, self.precision)

    def run(
        self,
        work: Callable[[], T],
        network: nn.Module,
        shape: Sequence[int],
        part: str,
        undoing: Callable[[], Callable[[], None]] = lambda: lambda: None,
    ) -> T:
        """Do the work of a batch; that of the first batch in half precision is proved, and done again if it is wrong.

        Args:
            work: from a batch to its result, the network under :meth:`autocast`; in training a whole step.
            network: what works.
            shape: of the network's input.
            part: ``train`` or ``eval``; each is proved for itself.
            undoing: called before the first batch, returns what undoes the work.

        Raises:
            WrongKernelError: if half precision is wrong and ``wanted`` is ``bf16``.
        """
        if part not in self._due or self.precision != "bf16":
            return work()
        self._due.discard(part)
        undo = undoing()
        result, fault = first_fault(network, work, shape, part)
        if part == "train":
            fault = next(filter(None, distributed.told_by_all(fault)), "")
        if not fault:
            return result
        if self._wanted == "bf16":
            raise WrongKernelError(
                f"{fault}. The results of bf16 cannot be trusted on this processor: use the precision auto or fp32, or "
                f"{UNCHECKED} to insist"
            )
        logger.warning("%s: this processor computes it in fp32 instead", fault)
        self.precision = "fp32"
        undo()
        return work()


def proved_precision(network: nn.Module, shape: Sequence[int], wanted: str = "auto") -> str:
    """Return the precision that is meant by ``wanted`` for a network of images in [0, 1], proved on a drawn batch.

    Args:
        network: in evaluation mode, on its device.
        shape: of the batch, (N, 3, h, w).
        wanted: see :class:`Proof`.

    Raises:
        WrongKernelError: if half precision is wrong and ``wanted`` is ``bf16``.
    """
    device = next(network.parameters()).device
    proof, img = Proof(device, wanted), torch.linspace(0, 1, math.prod(shape), device=device).view(*shape)

    @torch.no_grad()
    def work() -> None:
        with proof.autocast():
            network(img)

    proof.run(work, network, shape, "eval")
    return proof.precision


def first_fault(network: nn.Module, work: Callable[[], T], shape: Sequence[int], part: str) -> tuple[T | None, str]:
    """Do the work, once in half precision as it is, and look whether its products are right.

    Args:
        network: the network that works.
        work: from its batch to its result, in half precision; in training with the backward pass.
        shape: of the network's input.
        part: what of the network's work this is, ``train`` or ``eval``.

    Returns:
        The work's result, None where a wrong product ended it, and what is wrong with it, in words; empty: nothing.

    Example:
        >>> net, img = nn.Conv2d(3, 8, 3), torch.rand(2, 3, 16, 8)
        >>> def work():
        ...     with torch.autocast("cpu", torch.bfloat16):
        ...         return net(img)
        >>> found, fault = first_fault(net, work, img.shape, "eval")
        >>> tuple(found.shape), fault
        ((2, 8, 14, 6), '')
    """
    kept = _Kept(network, shape, part)
    fault = kept.read()
    if fault is not None:
        return (None if fault else work()), fault
    result = None
    with perturbed_memory(), eager(), ModuleTracker() as tracker, _Beside(tracker) as beside:
        try:
            result = work()
        except ArithmeticError:  # a loss that is not finite
            if not beside.fault:
                raise
    kept.write(beside.fault)
    return result, beside.fault


class _Beside(TorchDispatchMode):
    """Computes every product in half precision a second time in single precision, and keeps the first wrong one."""

    def __init__(self, tracker: ModuleTracker) -> None:
        super().__init__()
        self.fault = ""
        self._tracker = tracker

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        halves = [a for a in tree_leaves(args) if isinstance(a, Tensor) and a.dtype == torch.bfloat16]
        if halves and not self.fault and func._schema.name.removeprefix("aten::") in PRODUCTS:
            with torch.autocast("cpu", enabled=False):
                truth = func(*tree_map(_single, args), **tree_map(_single, kwargs))
            for half, single in zip(tree_leaves(found), tree_leaves(truth), strict=True):
                error = _error(half, single) if isinstance(half, Tensor) and half.is_floating_point() else 0.0
                if not error <= BOUND:
                    self.fault = self._told(func, halves, error)
                    break
        return found

    def _told(self, func: Any, halves: Sequence[Tensor], error: float) -> str:
        layer = max(self._tracker.parents, key=lambda name: name.count("."))
        sizes = ", ".join("x".join(map(str, half.shape)) for half in halves)
        return f"{layer}: {func._schema.name} of {sizes} in bf16 is wrong (error {error:.2g} of the values' size)"


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def _error(found: Tensor, truth: Tensor) -> float:
    """Return the largest error as a share of a value and the mean size of all; not a number where one is not."""
    if not truth.numel():
        return 0.0
    scale = truth.abs() + truth.square().mean().sqrt()
    return ((found.float() - truth).abs() / scale.clamp_min(torch.finfo(torch.float32).tiny)).max().item()


def eager() -> Any:
    """Return a context in which compiled networks run as they are written; their products are the same kernels."""
    stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    return stance("force_eager") if stance else nullcontext()


class _Kept:
    """What was found for a network's shape on this processor with this torch, in the user's cache folder."""

    def __init__(self, network: nn.Module, shape: Sequence[int], part: str) -> None:
        facts = {
            "torch": torch.__version__,
            "processor": processor(),
            "layers": str(network),
            "parameters": [[name, list(p.shape), str(p.dtype), p.stride()] for name, p in network.named_parameters()],
            "input": list(shape),
            "part": part,
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.path = cache_folder() / "half_precision" / f"{key}.json"

    def read(self) -> str | None:
        try:
            fault = json.loads(self.path.read_text(encoding="utf-8"))["fault"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return fault if isinstance(fault, str) else None

    def write(self, fault: str) -> None:
        with suppress(OSError):  # where nothing can be kept, the next run proves it again
            write_text(json.dumps({"fault": fault}), self.path)


def processor() -> list[str]:
    """Return the kind of processor, its instructions as far as the system tells, and which of them oneDNN may use."""
    told = platform.processor()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                told = line
                break
    return [platform.machine(), told, os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
