"""What a program does not need of torchvision and torchreid is not loaded: seconds, and torch's compiler with it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

LATE = ("gdown", "torchvision.datasets", "torchvision.models", "torchvision.ops")


class _Module(ModuleType):
    """A module that is executed when somebody asks for what is in it.

    The standard library's lazy modules are executed by any look at them: by ``inspect``, which looks at all that there
    are, in the midst of torchvision's own import.
    """

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _Loader(importlib.abc.Loader):
    """Leaves the execution of a module to :class:`_Module`."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        module.__class__ = _Module


class _Late(importlib.abc.MetaPathFinder):
    """Finds some modules so that they are executed late."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in LATE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def load_late() -> None:
    """Let torchvision's models, operators and data sets, and torchreid's downloads, be loaded when used; here alone."""
    if not any(isinstance(finder, _Late) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Late())
