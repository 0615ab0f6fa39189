"""What a network costs: parameters and multiply-adds of each part, memory, latency.

The tables of papers (such as Table 7 of KGNet) count one image, in evaluation mode, with multiply-adds called FLOPs.
Here a multiply-add is one multiplication and one addition, so half of what ``torch.utils.flop_counter`` counts.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

OWN = "(itself)"  # row of what a module does outside its children


@dataclass(frozen=True)
class Part:
    """A row of a complexity table.

    Attributes:
        name: the module's name in the model; ``(itself)``, or ``<name>.(itself)``, for what belongs to no child.
        parameters: how many the part holds; tensors that several parts share count in the first.
        unused: those of them that the pass never reads: what only training needs (classifiers, teachers), and
            branches that such an image does not take.
        multiply_adds: of all calls of the part.
    """

    name: str
    parameters: int
    unused: int
    multiply_adds: int


@dataclass(frozen=True)
class Complexity:
    """What one pass in evaluation mode takes.

    Attributes:
        parts: rows that add up to the whole; modules without parameters and multiply-adds are left out.
        tensor_bytes: largest sum of tensors alive at once, input included, parameters and buffers not; what a kernel
            takes for itself while it works is not seen.
        products: those of the multiply-adds in which no parameter takes part (attention, resizing by a matrix).
            Counters that watch convolutions and linear layers, which many papers use, leave them out.
    """

    parts: tuple[Part, ...]
    tensor_bytes: int
    products: int

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def unused(self) -> int:
        """Parameters that the pass never reads."""
        return sum(part.unused for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """All multiply-adds."""
        return sum(part.multiply_adds for part in self.parts)

    @property
    def in_layers(self) -> int:
        """Multiply-adds of convolutions and linear layers, what most papers state."""
        return self.multiply_adds - self.products

    def as_dict(self) -> dict[str, Any]:
        """Return totals and parts as JSON can hold them."""
        totals = ("parameters", "unused", "multiply_adds", "products", "tensor_bytes")
        return {**{key: getattr(self, key) for key in totals}, "parts": [asdict(part) for part in self.parts]}


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one pass, in seconds, over a number of runs.

    Attributes:
        median, lower, upper: second, first and third quartile.
        runs: timed passes.
        warmup: passes before them.
        threads: torch's threads.
        device: ``cpu``, or the name of the GPU.
        device_bytes: what torch had allocated on the GPU at most, weights and kernels' workspace included; 0 on a CPU.
    """

    median: float
    lower: float
    upper: float
    runs: int
    warmup: int
    threads: int
    device: str
    device_bytes: int

    def __str__(self) -> str:
        text = (
            f"{1e3 * self.median:.1f} ms median, quartiles {1e3 * self.lower:.1f} to {1e3 * self.upper:.1f} ms, "
            f"{self.runs} runs after {self.warmup} to warm up, {self.threads} thread(s), {self.device}"
        )
        return f"{text}, {self.device_bytes / 2**20:.0f} MiB allocated at most" if self.device_bytes else text


def complexity(model: nn.Module, inputs: Tensor | tuple | Mapping[str, Any], depth: int = 1) -> Complexity:
    """Count parameters and multiply-adds of a model's parts in one pass, evaluation mode, no gradients.

    Counted are convolutions (transposed, grouped and depth-wise too), linear layers, every kind of matrix and vector
    product, and attention, fused or not. Not counted are biases, activations, normalisation, pooling, resizing,
    softmax, element-wise arithmetic, recurrent layers and custom kernels (deformable convolution). Zeros that a
    convolution reads beyond the border count like pixels.

    Args:
        model: left as it was, its modes included.
        inputs: what the pass is given, on the model's device: a tensor for ``model(img)``, a tuple for
            ``model(*inputs)``, or a loader's batch for ``model.extract(batch)``, which may depend on role and rate.
            All figures are for the whole batch.
        depth: how many levels of children the parts go down; 0 for the model as one part.

    Returns:
        The parts, in the order of the model.

    Raises:
        ValueError: if the depth is negative.
        TypeError: if a batch is given to a model without ``extract``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
        >>> found = complexity(model, torch.zeros(1, 3, 4, 4))
        >>> [(part.name, part.parameters, part.multiply_adds) for part in found.parts]
        [('0', 216, 3456), ('2', 645, 640)]
        >>> found.parameters, found.multiply_adds
        (861, 4096)
    """
    if depth < 0:
        raise ValueError(f"depth is a number of levels from 0, not {depth!r}")
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    watch = _Watch(model, inputs, counter.flop_registry)
    with _evaluating(model), _plain_attention(), watch, counter, _parts_tracked(model, depth, counter) as flops:
        output = _call(model, inputs)
    del output  # until here: it is alive in the count of memory

    parameters: Counter[str] = Counter()
    idle: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = _part_of(name.rpartition(".")[0], depth)
        parameters[part] += parameter.numel()
        idle[part] += 0 if id(parameter) in watch.used else parameter.numel()
    parents = {name.rpartition(".")[0] for name, _ in model.named_modules() if name and name.count(".") < depth}
    parts = tuple(
        Part(
            f"{name}.{OWN}".lstrip(".") if name in parents or not name else name,
            parameters[name],
            idle[name],
            flops[name] // 2,
        )
        for name in dict.fromkeys(_part_of(name, depth) for name, _ in model.named_modules())
        if parameters[name] or flops[name]
    )
    return Complexity(parts, watch.peak, watch.products // 2)


def latency(
    model: nn.Module, inputs: Tensor | tuple | Mapping[str, Any], runs: int = 20, warmup: int = 5
) -> Latency:
    """Time passes in evaluation mode, without gradients.

    Args:
        model: left as it was, its modes included.
        inputs: as for :func:`complexity`.
        runs: timed passes, at least 2.
        warmup: passes before them, in which kernels are chosen and caches filled.

    Returns:
        Median and quartiles. On a GPU every pass is waited for.

    Raises:
        ValueError: if there are too few runs for quartiles.
    """
    if runs < 2:
        raise ValueError(f"quartiles need at least 2 runs, not {runs!r}")
    device = next((leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), torch.device("cpu"))
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    with _evaluating(model):
        for _ in range(warmup + runs):
            start = time.perf_counter()
            _call(model, inputs)
            if on_gpu:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    lower, median, upper = statistics.quantiles(seconds[warmup:], n=4, method="inclusive")
    name = torch.cuda.get_device_name(device) if on_gpu else str(device)
    held = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    return Latency(median, lower, upper, runs, warmup, torch.get_num_threads(), name, held)


def complexity_table(found: Complexity, style: str = "github") -> str:
    """Return a row for each part, and one for the whole.

    Args:
        found: what :func:`complexity` counted.
        style: a table format of ``tabulate``.

    Returns:
        The table: parameters in millions, multiply-adds in thousand millions, and each part's share of them in
        per cent.
    """
    whole = Part("total", found.parameters, found.unused, found.multiply_adds)
    rows = [
        {
            "part": part.name,
            **_figures(part),
            "share (%)": f"{100 * part.multiply_adds / max(1, found.multiply_adds):.1f}",
        }
        for part in (*found.parts, whole)
    ]
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)


def comparison_table(
    found: Mapping[str, Complexity], times: Mapping[str, Latency] | None = None, style: str = "github"
) -> str:
    """Return a row for each model, like the complexity table of a paper.

    Args:
        found: counts by the models' names.
        times: latencies by the same names, where they were measured.
        style: a table format of ``tabulate``.
    """
    rows = []
    for name, counted in found.items():
        row = {"model": name, **_figures(counted), "of which in layers (G)": _rounded(counted.in_layers / 1e9)}
        row["tensors (MiB)"] = f"{counted.tensor_bytes / 2**20:.1f}"
        if times:
            row["latency (ms)"] = f"{1e3 * times[name].median:.1f}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)


def _figures(counted: Part | Complexity) -> dict[str, str]:
    return {
        "parameters (M)": _rounded(counted.parameters / 1e6),
        "of which unused (M)": _rounded(counted.unused / 1e6),
        "multiply-adds (G)": _rounded(counted.multiply_adds / 1e9),
    }


def _rounded(figure: float) -> str:
    if not figure:
        return "-"
    return f"{figure:.3f}" if figure >= 0.0005 else "<0.001"


def _call(model: nn.Module, inputs: Tensor | tuple | Mapping[str, Any]) -> Any:
    if isinstance(inputs, Mapping):
        if not hasattr(model, "extract"):
            raise TypeError(f"{type(model).__name__} has no extract(batch); give it the images as a tensor")
        return model.extract(inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _part_of(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation without gradients, and every module back to its own mode at the end."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention and nn.TransformerEncoder from running as one kernel that has no formula."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _parts_tracked(model: nn.Module, depth: int, counter: FlopCounterMode) -> Iterator[Counter[str]]:
    """Give the floating-point operations by part, filled at the end: each goes to the innermost module that runs.

    The counter's own attribution goes by class names where a method other than ``forward`` is called, and counts each
    operation in all modules around it; here every operation belongs to one part, so the parts add up.
    """
    flops: Counter[str] = Counter()
    running = [""]
    seen = 0

    def settle() -> None:
        nonlocal seen
        total = counter.get_total_flops()
        flops[running[-1]] += total - seen
        seen = total

    def entered(part: str) -> Any:
        def hook(*_: Any) -> None:
            settle()
            running.append(part)

        return hook

    def left(*_: Any) -> None:
        settle()
        running.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(entered(_part_of(name, depth)), prepend=True))
        handles.append(module.register_forward_hook(left))
    try:
        yield flops
        settle()
    finally:
        for handle in handles:
            handle.remove()


class _Watch(TorchDispatchMode):
    """Sees every operation: which parameters it reads, how much its results hold, what it costs without a parameter."""

    def __init__(self, model: nn.Module, inputs: Any, formulas: Mapping[Any, Callable[..., int]]) -> None:
        super().__init__()
        self.products = 0
        self._formulas = formulas
        # By storage: a linear layer multiplies by a view of its weight. The references keep the addresses from reuse.
        self._weights = {id(storage): storage for storage in _storages(model.parameters())}
        self.used: set[int] = set()
        self._parameters = {id(parameter) for parameter in model.parameters()}
        # Storages that are not the pass's own; the references keep their addresses from being given to others.
        self._fixed = {id(s): s for s in _storages([*model.parameters(), *model.buffers()])}
        self._alive: dict[int, weakref.ref] = {}
        self._bytes = self.peak = 0
        self._add(tree_leaves(inputs))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.used |= self._parameters & {id(leaf) for leaf in tree_leaves((args, kwargs))}
        result = func(*args, **kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula and not self._weights.keys() & {id(s) for s in _storages(tree_leaves((args, kwargs)))}:
            self.products += formula(*args, **kwargs, out_val=result)
        self._add(tree_leaves(result))
        return result

    def _add(self, values: Iterable[Any]) -> None:
        for storage in _storages(values):
            key = id(storage)
            if key not in self._fixed and key not in self._alive:
                size = storage.nbytes()
                self._alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self._drop(key, size))
                self._bytes += size
        self.peak = max(self.peak, self._bytes)

    def _drop(self, key: int, size: int) -> None:
        del self._alive[key]
        self._bytes -= size


def _storages(values: Iterable[Any]) -> list[torch.UntypedStorage]:
    return [
        value.untyped_storage() for value in values if isinstance(value, Tensor) and value.layout == torch.strided
    ]


def _vector_product(left: torch.Size, right: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * prod(left)  # (m, k) x (k) or (k) x (k): a multiply-add for each number on the left


def _added_vector_product(_added: torch.Size, left: torch.Size, right: torch.Size, **__: Any) -> int:
    return 2 * prod(left)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    # query (N, heads, L, E), key (N, heads, S, E), value (N, heads, S, V): scores, then the sum of the values
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# What torch's counter has no formula for: products with a vector, and before torch 2.5 these kernels of attention.
_FORMULAS = {
    torch.ops.aten.mv: _vector_product,
    torch.ops.aten.dot: _vector_product,
    torch.ops.aten.addmv: _added_vector_product,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_cudnn_attention: _attention,
}
