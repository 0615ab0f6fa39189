"""Models by name: ours with all their options, the host's as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from torchreid_xres import host
from torchreid_xres.registry import Registry, refuse_unknown_options

MODELS = Registry("model")

COMMON = ("num_classes", "loss", "pretrained", "use_gpu")  # the host's keywords, which every model takes


def build_model(
    name: str,
    num_classes: int = 0,
    loss: str = "softmax",
    pretrained: bool = True,
    use_gpu: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a model of ours with its options, or one of the host's.

    Args:
        name: a name of :data:`MODELS` or of the host's zoo.
        num_classes: training identities; 0 builds one of ours without a classifier.
        loss: ``softmax`` or ``triplet``, as in the host.
        pretrained: start from published weights where the model offers them.
        use_gpu: as in the host.
        **options: sizes and parts of a model of ours.

    Raises:
        KeyError: if neither side has the model.
        TypeError: if options are given to a model of the host, or one of ours does not know them.
    """
    require_options(name, options)
    if name in MODELS:
        return MODELS.build(
            name, num_classes=num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu, **options
        )
    return host.build_model(name, num_classes=num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu)


def require_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that a model does not take.

    Raises:
        TypeError: listing those there are; a model of the host has none.
    """
    if name in MODELS:
        refuse_unknown_options(MODELS[name], MODELS.kind, options, hidden=COMMON)
    elif given := list(options):
        raise TypeError(f"{name!r} is a model of torchreid and takes no options, not {', '.join(given)}")


def host_builder(name: str) -> Callable[..., nn.Module]:
    """Return the builder to enter into the host's table for one of ours: the host's four keywords, our defaults."""

    def build(num_classes: int = 0, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True) -> nn.Module:
        return MODELS.build(name, num_classes=num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu)

    return build
