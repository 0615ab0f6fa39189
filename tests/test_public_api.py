"""What is public is typed and told: every function, class and method whose name has no underscore."""

import inspect
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

import torchreid_xres

MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(torchreid_xres.__path__, "torchreid_xres.")
    if not any(part.startswith("_") for part in name.split("."))
)


def public(module):
    """Give the name and object of what a module itself defines, methods included."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            yield name, thing
            for part, member in vars(thing).items():
                member = getattr(member, "__func__", getattr(member, "fget", member))
                # A class makes some of its methods itself (NamedTuple, dataclass); those have no source here.
                made_here = inspect.isfunction(member) and member.__module__ == module.__name__
                if made_here and member.__qualname__.startswith(f"{name}.") and (part == "__init__" or part[0] != "_"):
                    yield f"{name}.{part}", member


def untyped(thing):
    """Return the parameters without a type, and ``return``."""
    signature = inspect.signature(thing)
    free = [name for name, p in signature.parameters.items() if p.annotation is p.empty]
    names = [name for name in free if name not in ("self", "cls")]
    return names + ["return"] * (signature.return_annotation is signature.empty)


@pytest.mark.parametrize("name", MODULES)
def test_public_things_are_typed_and_told(name):
    module = import_module(name)
    assert module.__doc__, f"{name} says nothing of itself"
    for part, thing in public(module):
        if inspect.isfunction(thing):
            assert not untyped(thing), f"{name}.{part}: no type for {', '.join(untyped(thing))}"
        # A class tells of its constructor; a method that fills in another class's says nothing new.
        inherited = "." in part and _overrides(getattr(module, part.partition(".")[0]), part.partition(".")[2])
        if not part.endswith(".__init__") and not inherited:
            assert inspect.getdoc(thing), f"{name}.{part} has no docstring"
            first = inspect.getdoc(thing).partition("\n\n")[0]
            assert first.rstrip().endswith((".", ":")), f"{name}.{part}: {first!r} is no sentence"


def _overrides(cls, name):
    return any(name in vars(base) for base in cls.__mro__[1:]) or name == "forward"


@pytest.mark.parametrize("name", [name for name in MODULES if hasattr(import_module(name), "__all__")])
def test_what_a_package_offers_is_there(name):
    module = import_module(name)
    assert [entry for entry in module.__all__ if not hasattr(module, entry)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_the_types_are_announced_and_shipped(repo):
    assert (Path(torchreid_xres.__file__).parent / "py.typed").is_file()
    assert '"torchreid_xres": ["py.typed"]' in (repo / "setup.py").read_text(encoding="utf-8")


def test_what_is_missing_is_noticed():
    class Told(NamedTuple):
        """A tuple."""

        x: int

    def half(a, b: int):
        return a

    assert untyped(half) == ["a", "return"] and untyped(Told._make) == ["iterable", "return"]
