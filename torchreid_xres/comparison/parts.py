"""A network's parts while it runs: whatever is counted goes to the innermost part at work, so the parts add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OWN = "(itself)"  # row of what a module does outside its children

# What a pass is given: a tensor for model(img), a tuple for model(*inputs), a batch for model.extract(batch).
Inputs = Tensor | tuple | Mapping[str, Any]


def part_of(module: str, depth: int) -> str:
    """Return the part that a module belongs to: the first ``depth`` levels of its name."""
    return ".".join(module.split(".")[:depth])


def part_names(model: nn.Module, depth: int) -> dict[str, str]:
    """Return the parts of a model, in its order, with the names that tables show.

    Args:
        model: the network.
        depth: how many levels of children the parts go down; 0 for the model as one part.

    Raises:
        ValueError: if the depth is negative.

    Example:
        >>> part_names(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU())), 2)
        {'': '(itself)', '0': '0', '1': '1.(itself)', '1.0': '1.0'}
    """
    if depth < 0:
        raise ValueError(f"depth is a number of levels from 0, not {depth!r}")
    names = [name for name, _ in model.named_modules()]
    parents = {name.rpartition(".")[0] for name in names if name and name.count(".") < depth}
    return {
        part: f"{part}.{OWN}".lstrip(".") if part in parents or not part else part
        for part in dict.fromkeys(part_of(name, depth) for name in names)
    }


@contextmanager
def parts_followed(model: nn.Module, depth: int, settle: Callable[[str], None]) -> Iterator[None]:
    """Call ``settle`` with the part that was at work, each time another one begins, and at the end.

    Modules whose methods other than ``forward`` are called do not count as running; their children do.

    Args:
        model: hooks are put on its modules, and taken off at the end.
        depth: see :func:`part_names`.
        settle: books what has happened since it was called last.
    """
    running = [""]

    def entered(part: str) -> Callable:
        def hook(*_: Any) -> None:
            if part != running[-1]:
                settle(running[-1])
            running.append(part)

        return hook

    def left(*_: Any) -> None:
        part = running.pop()
        if part != running[-1]:
            settle(part)

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(entered(part_of(name, depth)), prepend=True))
        handles.append(module.register_forward_hook(left))
    try:
        yield
        settle("")
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation without gradients, and every module back to its own mode at the end."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Pass inputs through a model.

    Raises:
        TypeError: if a batch is given to a model without ``extract``.
    """
    if isinstance(inputs, Mapping):
        if not hasattr(model, "extract"):
            raise TypeError(f"{type(model).__name__} has no extract(batch); give it the images as a tensor")
        return model.extract(inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
