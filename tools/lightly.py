"""Work that needs no torch: modules of the package are loaded one by one, without what its packages load as a whole."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

PACKAGE = "torchreid_xres"


class _Bare(importlib.abc.Loader):
    """Leaves a package as it is: a place where modules lie."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Packages(importlib.abc.MetaPathFinder):
    """Finds our package, and those in it, bare."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.submodule_search_locations is not None:
            spec.loader = _Bare()
        return spec


@contextmanager
def bare_packages() -> Iterator[None]:
    """Let our modules be loaded alone in a block, and be gone after it; nothing, where the package is loaded already.

    Importing the whole package registers it with torchreid, and so loads torch: seconds that a single query does not
    need. Whoever imports it after the block has all of it.
    """
    if PACKAGE in sys.modules:
        yield
        return
    packages = _Packages()
    sys.meta_path.insert(0, packages)
    try:
        yield
    finally:
        sys.meta_path.remove(packages)
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
