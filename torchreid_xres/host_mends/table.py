"""The table of mends: what each replaces in the host, and how all are put in and taken out again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torchreid_xres import host

_MISSING = object()
# What is replaced at present: (owner, attribute, what stood there before), in the order of replacing.
_replaced: list[tuple[Any, str, Any]] = []


@dataclass(frozen=True)
class Mend:
    """One mend of the host.

    Args:
        name: short name, unique in the table.
        fault: one line that names the fault and where it sits in the host.
        targets: what is replaced, as ``"module.path:name"`` or ``"module.path:Class.name"``, the module
            path counted from the host's root.
        make: given what stands there, returns what shall stand there.
        within: a module path; a function is then replaced only in the modules below it.
    """

    name: str
    fault: str
    targets: tuple[str, ...]
    make: Callable[[Any], Any]
    within: str = ""

    def put_in(self) -> None:
        """Replace every target.

        Raises:
            RuntimeError: if the host lacks a target.
        """
        for target in self.targets:
            try:
                original, places = _find(target, self.within)
            except (KeyError, AttributeError) as error:
                raise RuntimeError(
                    f"this torchreid has no {target}, which the mend {self.name!r} replaces; "
                    "torchreid 0.2.5 (registry) and 1.4.0 (GitHub) are supported"
                ) from error
            new = self.make(original)
            if isinstance(original, FunctionType):
                # The host's module and name stay on it: it pickles and is found as the original was.
                functools.update_wrapper(new, original)
            for owner, attribute in places:
                _replaced.append((owner, attribute, vars(owner).get(attribute, _MISSING)))
                setattr(owner, attribute, new)


MENDS: dict[str, Mend] = {}


def mend(name: str, fault: str, *targets: str, within: str = "") -> Callable[[Callable], Callable]:
    """Return a decorator that enters ``make(original) -> replacement`` into :data:`MENDS`."""

    def enter(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        assert name not in MENDS, name
        MENDS[name] = Mend(name, fault, targets, make, within)
        return make

    return enter


def apply() -> None:
    """Put all mends into the host; harmless when they are in already.

    Raises:
        RuntimeError: if the host lacks what a mend replaces; none is in place then.
    """
    if _replaced:
        return
    try:
        for entry in MENDS.values():
            entry.put_in()
    except BaseException:
        _take_out()
        raise


@contextmanager
def bare_host() -> Iterator[None]:
    """Take all mends out for a block: the host is as it was installed, then mended again.

    Names registered into the host (models, data sets) stay. Not for use beside running threads.

    Example:
        >>> with bare_host():
        ...     bare = host.torchreid.utils.read_image
        >>> apply()
        >>> host.torchreid.utils.read_image is bare
        False
    """
    applied = bool(_replaced)
    _take_out()
    try:
        yield
    finally:
        if applied:
            apply()


def _take_out() -> None:
    while _replaced:
        owner, attribute, before = _replaced.pop()
        if before is _MISSING:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, before)


def _find(target: str, within: str) -> tuple[Any, list[tuple[Any, str]]]:
    """Return what a target names and all (owner, attribute) that must be set to replace it."""
    path, _, dotted = target.partition(":")
    *outer, attribute = dotted.split(".")
    owner: Any = host.module(path)
    for name in outer:
        owner = getattr(owner, name)
    original = inspect.getattr_static(owner, attribute)
    if outer or not isinstance(original, FunctionType):
        return original, [(owner, attribute)]
    # ``from x import f`` left the function bound in other modules too, under whatever name.
    return original, [
        (module, name)
        for module in host.modules(within)
        for name, held in list(vars(module).items())
        if held is original
    ]
