"""One small registry for models, engines, data sets, front ends and whatever else has a name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
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
        near = difflib.get_close_matches(str(name), self._entries, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"no {self.kind} named {name!r}{hint} There are: {', '.join(self) or 'none'}"


def _identity(build: Callable) -> str:
    return f"{build.__module__}.{getattr(build, '__qualname__', repr(build))}"
