"""What a network costs: parameters, multiply-adds and memory of each part.

The tables of papers (such as Table 7 of KGNet) count one image, in evaluation mode, with multiply-adds called FLOPs.
Here a multiply-add is one multiplication and one addition, so half of what ``torch.utils.flop_counter`` counts.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from torchreid_xres.comparison.latency import Latency
from torchreid_xres.comparison.parts import Inputs, evaluating, part_names, part_of, parts_followed, run
from torchreid_xres.text import text_table


@dataclass(frozen=True)
class Part:
    """A row of a complexity table.

    Attributes:
        name: the module's name in the model; ``(itself)``, or ``<name>.(itself)``, for what belongs to no child.
        parameters: how many the part holds; tensors that several parts share count in the first.
        unused: those of them that the pass never reads: what only training needs (classifiers, teachers), and
            branches that such an image does not take.
        multiply_adds: of all calls of the part.
        tensor_bytes: largest sum of tensors alive at once while the part was at work, whoever made them.
    """

    name: str
    parameters: int
    unused: int
    multiply_adds: int
    tensor_bytes: int


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


def complexity(model: nn.Module, inputs: Inputs, depth: int = 1) -> Complexity:
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
    names = part_names(model, depth)
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    watch = _Watch(model, inputs, counter.flop_registry)
    flops: Counter[str] = Counter()
    held: Counter[str] = Counter()
    seen = 0

    def settle(part: str) -> None:
        # The counter's own attribution goes by class names where a method other than ``forward`` is called, and counts
        # each operation in all modules around it.
        nonlocal seen
        total = counter.get_total_flops()
        flops[part] += total - seen
        seen = total
        held[part] = max(held[part], watch.highest())

    with evaluating(model), _plain_attention(), watch, counter, parts_followed(model, depth, settle):
        output = run(model, inputs)
    del output  # until here: it is alive in the count of memory

    parameters: Counter[str] = Counter()
    idle: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = part_of(name.rpartition(".")[0], depth)
        parameters[part] += parameter.numel()
        idle[part] += 0 if id(parameter) in watch.used else parameter.numel()
    parts = tuple(
        Part(shown, parameters[part], idle[part], flops[part] // 2, held[part])
        for part, shown in names.items()
        if parameters[part] or flops[part]
    )
    return Complexity(parts, max(held.values()), watch.products // 2)


def complexity_table(found: Complexity, times: Mapping[str, Latency] | None = None, style: str = "github") -> str:
    """Return a row for each part, and one for the whole.

    Args:
        found: what :func:`complexity` counted.
        times: of :func:`~torchreid_xres.comparison.latency.latency_by_part` at the same depth, with that of the whole
            under the empty name.
        style: a table format of ``tabulate``.

    Returns:
        The table: parameters in millions, multiply-adds in thousand millions, and each part's share of them in
        per cent; the memory of tensors while the part runs; time as median and quartiles.
    """
    whole = Part("total", found.parameters, found.unused, found.multiply_adds, found.tensor_bytes)
    rows = []
    for part in (*found.parts, whole):
        row = {"part": part.name, **_figures(part)}
        row["share (%)"] = f"{100 * part.multiply_adds / max(1, found.multiply_adds):.1f}"
        row["tensors (MiB)"] = _mebibytes(part.tensor_bytes)
        rows.append(row | _times(times, "" if part is whole else part.name))
    return text_table(rows, style)


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
        row["tensors (MiB)"] = _mebibytes(counted.tensor_bytes)
        rows.append(row | _times(times, name))
    return text_table(rows, style)


def _times(times: Mapping[str, Latency] | None, name: str) -> dict[str, str]:
    if not times:
        return {}
    took = times.get(name)
    row = {
        "latency (ms)": f"{1e3 * took.median:.2f}" if took else "-",
        "quartiles (ms)": f"{1e3 * took.lower:.2f} to {1e3 * took.upper:.2f}" if took else "-",
    }
    if any(other.device_bytes for other in times.values()):
        row["GPU memory (MiB)"] = _mebibytes(took.device_bytes) if took else "-"
    return row


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f}" if size else "-"


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


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention and nn.TransformerEncoder from running as one kernel that has no formula."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


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
        self._bytes = self._peak = 0
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
        self._peak = max(self._peak, self._bytes)

    def highest(self) -> int:
        """Return the most bytes alive at once since this was asked last."""
        found, self._peak = self._peak, self._bytes
        return found

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
