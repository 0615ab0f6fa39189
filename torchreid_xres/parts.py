"""The parts of a network that a method stands for, by the names that its page has for them, and how each is put out.

A model has them in its method ``named_parts``. By them is told what learns (``engine/liveness.py``), and what a trained
network is without one of them (``benchmarks/surgery.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchreid_xres.image import resize

# Of a module, what it was called with (arguments, keywords) and what it said: what it says when it is put out.
Off = Callable[[nn.Module, tuple, Mapping[str, Any], Any], Any]


class Part(NamedTuple):
    """Modules of a network that do one thing.

    Attributes:
        modules: with all that is below them.
        off: what is in their place when they are put out; None: without them there is no network.
    """

    modules: tuple[nn.Module, ...]
    off: Off | None = None

    def parameters(self) -> dict[nn.Parameter, None]:
        """Return the parameters, each once, in their order."""
        return dict.fromkeys(p for module in self.modules for p in module.parameters())


def parts_of(model: nn.Module) -> dict[str, Part]:
    """Return the named parts of a network that have parameters; one of the host's is a single part.

    Example:
        >>> list(parts_of(nn.Linear(2, 2)))
        ['network']
    """
    parts = model.named_parts() if hasattr(model, "named_parts") else {"network": Part((model,))}
    return {name: part for name, part in parts.items() if part.parameters()}


@contextmanager
def put_out(part: Part) -> Iterator[list[nn.Module]]:
    """Put what ``off`` says in the place of a part's modules until the end of the block; yields those that are called.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with put_out(Part((layer,), nothing)):
        ...     layer(torch.ones(1, 2)).tolist()
        [[0.0, 0.0]]
    """
    called: list[nn.Module] = []

    def instead(module: nn.Module, *said: Any) -> Any:
        called.append(module)
        found = part.off(module, *said)
        if torch.is_grad_enabled() and isinstance(found, Tensor) and not found.requires_grad:
            return found.detach().requires_grad_()  # a loss of this part alone still has a backward pass
        return found

    handles = [module.register_forward_hook(instead, with_kwargs=True) for module in part.modules]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


# -- what may stand for a part -------------------------------------------------------------------------------------


def its_input(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    """Hand the first argument through."""
    return args[0]


def nothing(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    """Say zero; of logits behind which there is a softmax that is one weight for all."""
    return torch.zeros_like(output)


def batch_mean(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    """Say the same of every image: the mean of the batch."""
    return output.mean(0, keepdim=True).expand_as(output)


def enlarged(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any) -> Any:
    """Enlarge the image bicubically; where there are several results, to the size of each."""
    if isinstance(output, tuple):
        return type(output)(*(enlarged(module, args, kwargs, one) for one in output))
    image = resize(args[0], tuple(output.shape[-2:])).to(output.dtype)
    return image if module.training else image.clamp(0, 1)
