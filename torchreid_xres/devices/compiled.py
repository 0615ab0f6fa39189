"""torch.compile for networks that choose their way by the images."""

from __future__ import annotations

from torch import nn

from torchreid_xres.models import MODELS


def compile_network(model: nn.Module, name: str, **options: object) -> None:
    """Let torch.compile make the network's kernels, in place; names of parameters stay as they are.

    A network of the host is compiled as a whole. One of ours looks at the images' roles and rates to choose its
    parts, which no graph can hold, so each of its parts that is called is compiled for itself.

    Args:
        model: the network.
        name: its registered name.
        **options: of torch.compile; by default a C++ compiler is needed on a CPU.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> compile_network(model, "resnet50", backend="eager")
        >>> list(model.state_dict())
        ['0.weight', '0.bias']
    """
    for part in _called(model) if name in MODELS else [model]:
        part.compile(**options)


def _called(model: nn.Module) -> list[nn.Module]:
    """Return the children of a network; of lists and dictionaries, which are never called, their members."""
    parts = []
    for child in model.children():
        parts += _called(child) if type(child).forward is nn.Module.forward else [child]
    return parts
