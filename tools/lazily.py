"""Parts of torchvision that a program does not need are not loaded: with them come torch's compiler and seconds."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

LATE = ("torchvision.datasets", "torchvision.models", "torchvision.ops")


class _Late(importlib.abc.MetaPathFinder):
    """Finds some modules so that they are executed when somebody asks for what is in them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in LATE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def load_late() -> None:
    """Let torchvision's models, operators and data sets be loaded when they are used; for this process."""
    if not any(isinstance(finder, _Late) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Late())
