"""The host, torchreid: found in either layout, registered into, mended.

This is the only file that imports torchreid. The registry's package (0.2.5) keeps its code under
``torchreid.reid``, GitHub's tree (1.4.0) under ``torchreid``; both expose the same attributes, so
everything here goes through attributes and never through an import path.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

with warnings.catch_warnings():
    # "Cython evaluation is unavailable": the evaluator is replaced, so the advice is moot.
    warnings.filterwarnings("ignore", message="Cython evaluation")
    import torchreid

ImageDataset = torchreid.data.datasets.dataset.ImageDataset
ImageDataManager = torchreid.data.ImageDataManager
Engine = torchreid.engine.Engine
ImageSoftmaxEngine = torchreid.engine.ImageSoftmaxEngine
ImageTripletEngine = torchreid.engine.ImageTripletEngine
CrossEntropyLoss = torchreid.losses.CrossEntropyLoss
TripletLoss = torchreid.losses.TripletLoss

# Functions are looked up at each call: a mend may have put another in their place.
_FUNCTIONS = {
    "build_optimizer": torchreid.optim,
    "build_lr_scheduler": torchreid.optim,
    "build_model": torchreid.models,
    "init_image_dataset": torchreid.data.datasets,
    "load_checkpoint": torchreid.utils,
    "load_pretrained_weights": torchreid.utils,
    "re_ranking": torchreid.utils,
    "resume_from_checkpoint": torchreid.utils,
    "set_random_seed": torchreid.utils,
    "visualize_ranked_results": torchreid.utils,
}


def __getattr__(name: str) -> Callable:
    if name in _FUNCTIONS:
        return getattr(_FUNCTIONS[name], name)
    raise AttributeError(f"torchreid_xres.host has no {name!r}")


# "torchreid.reid" in the registry's package, "torchreid" in GitHub's tree.
ROOT = torchreid.models.__name__.rpartition(".")[0]


def module(path: str) -> ModuleType:
    """Return a host module by its path under the host's root, in either layout.

    Args:
        path: such as ``"engine.engine"`` or ``"metrics.rank"``.

    Raises:
        KeyError: if the host has no such module (``import torchreid`` loads them all).
    """
    return sys.modules[f"{ROOT}.{path}"]


def modules(under: str = "") -> list[ModuleType]:
    """Return all loaded modules of the host, or those at and below one module path."""
    head = f"{ROOT}.{under}".rstrip(".")
    return [held for name, held in sys.modules.items() if name == head or name.startswith(head + ".")]


def module_of(thing: Any) -> ModuleType:
    """Return the module object that defines a host function or class, in either layout."""
    return sys.modules[thing.__module__]


def model_factory() -> dict[str, Callable]:
    """Return the host's private table of model builders, name to builder."""
    # getattr with a string: the double underscore would be mangled inside a class body.
    return getattr(torchreid.models, "__model_factory")


def register_model(name: str, builder: Callable) -> None:
    """Enter ``builder(num_classes, loss, pretrained, use_gpu)`` into the host's model table.

    Entering the same name again replaces our own builder; a name of the host's zoo is refused.

    Raises:
        ValueError: if the host has a model of that name.
    """
    table = model_factory()
    held = table.get(name)
    if held is not None and not getattr(held, "_xres", False):
        raise ValueError(f"torchreid has a model {name!r} already; choose another name")
    builder._xres = True
    table[name] = builder


def image_datasets() -> dict[str, type]:
    """Return the host's private table of image data sets, name to class."""
    return getattr(module_of(torchreid.data.register_image_dataset), "__image_datasets")


def register_image_dataset(name: str, cls: type) -> None:
    """Enter a data set class into the host's table; a second call with the same class is harmless.

    Raises:
        ValueError: if the name belongs to another class.
    """
    table = image_datasets()
    held = table.get(name)
    if held is None:
        torchreid.data.register_image_dataset(name, cls)
    elif (held.__module__, held.__qualname__) == (cls.__module__, cls.__qualname__):
        table[name] = cls
    else:
        raise ValueError(f"the data set {name!r} is registered already, by {held.__module__}.{held.__qualname__}")
