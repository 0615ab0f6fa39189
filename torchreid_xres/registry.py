"""One small registry for models, engines, data sets, front ends and whatever else has a name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """What a registry knows of one name: the builder, and facts about it kept beside it."""

    name: str
    build: Callable[..., Any]
    meta: Mapping[str, Any] = field(default_factory=dict)


class Registry:
    """Names to builders; refuses a second builder for a name and lists what exists on a miss.

    Args:
        kind: what the entries are, for messages ("front end", "model").

    Example:
        >>> fruits = Registry("fruit")
        >>> @fruits.register("apple", colour="red")
        ... def apple():
        ...     return "an apple"
        >>> fruits.build("apple"), fruits["apple"].meta["colour"]
        ('an apple', 'red')
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, **meta: Any) -> Callable[[Callable], Callable]:
        """Return a decorator that enters a builder under ``name``.

        The same builder may be entered again (a module imported twice is harmless).

        Raises:
            ValueError: if another builder holds the name.
        """

        def enter(build: Callable) -> Callable:
            held = self._entries.get(name)
            if held is not None and _identity(held.build) != _identity(build):
                raise ValueError(
                    f"the {self.kind} {name!r} is registered already, by {_identity(held.build)}"
                )
            self._entries[name] = Entry(name, build, meta)
            return build

        return enter

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise KeyError(self._miss(name)) from None

    def build(self, name: str, **kwargs: Any) -> Any:
        """Call the builder of ``name``; a ``KeyError`` names the nearest and all that exist."""
        return self[name].build(**kwargs)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def _miss(self, name: str) -> str:
        return f"no {self.kind} named {name!r}{did_you_mean(name, self)} There are: {', '.join(self) or 'none'}"


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """Return how a message about a wrong name goes on: with the closest one allowed, or a full stop if none is close.

    Example:
        >>> did_you_mean("aple", ["apple", "pear"]), did_you_mean("fig", ["apple", "pear"])
        ("; did you mean 'apple'?", '.')
    """
    near = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def refuse_unknown_options(
    entry: Entry, kind: str, options: Iterable[str], shown: tuple[str, ...] = (), hidden: Iterable[str] = ()
) -> None:
    """Refuse options that a builder has no parameter for, unless it takes any.

    Args:
        entry: what is to be built.
        kind: what it is, for the message ("front end").
        options: names of the options given.
        shown: parameters to name first in the message, though they are no options.
        hidden: parameters that are no options.

    Raises:
        TypeError: listing the options there are.
    """
    parameters = inspect.signature(entry.build).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = sorted(set(parameters) - {*shown, *hidden})
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(
            f"the {kind} {entry.name!r} takes no option {', '.join(map(repr, unknown))}; "
            f"it takes: {', '.join([*shown, *known]) or 'none'}"
        )


def _identity(build: Callable) -> str:
    return f"{build.__module__}.{getattr(build, '__qualname__', repr(build))}"
