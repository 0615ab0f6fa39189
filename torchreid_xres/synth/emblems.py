"""Small marks: logos on garments, stickers on vehicles; each a list of polygons in a square of side two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EMBLEMS = ("disc", "ring", "square", "frame", "triangle", "cross", "bars", "diamond", "star", "chevron", "number")


def _regular(corners: int, radius: float = 1.0, inner: float | None = None) -> np.ndarray:
    """Return a regular polygon, first corner on top; with ``inner`` every second corner lies at that radius."""
    angle = np.arange(corners) * 2 * np.pi / corners
    r = np.where(np.arange(corners) % 2 == 0, radius, radius if inner is None else inner)
    return np.stack([r * np.sin(angle), -r * np.cos(angle)], 1)


def _hollow(outline: np.ndarray, hole: float) -> np.ndarray:
    """Cut a scaled copy out of an outline, by one path that goes round both (fills use the even-odd rule)."""
    closed = np.concatenate([outline, outline[:1]])
    return np.concatenate([closed, hole * closed[::-1]])


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


# Seven-segment digits: no font file is needed, so pictures do not depend on which one is installed.
_SEGMENTS = {
    "a": _box(0, 0, 1, 0.35), "b": _box(0.65, 0, 1, 1), "c": _box(0.65, 1, 1, 2), "d": _box(0, 1.65, 1, 2),
    "e": _box(0, 1, 0.35, 2), "f": _box(0, 0, 0.35, 1), "g": _box(0, 0.83, 1, 1.17),
}  # fmt: skip
_DIGITS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcfgd")


def _digits(text: str) -> list[np.ndarray]:
    left = -(1.25 * len(text) - 0.25) / 2
    return [
        _SEGMENTS[segment] + (left + 1.25 * place, -1.0)
        for place, digit in enumerate(text)
        for segment in _DIGITS[int(digit)]
    ]


_SHAPES: dict[str, Callable[[int], list[np.ndarray]]] = {
    "disc": lambda _: [_regular(20)],
    "ring": lambda _: [_hollow(_regular(20), 0.55)],
    "square": lambda _: [_box(-0.9, -0.9, 0.9, 0.9)],
    "frame": lambda _: [_hollow(_box(-1, -1, 1, 1), 0.55)],
    "triangle": lambda _: [np.array([(0, -1), (1, 0.85), (-1, 0.85)])],
    "cross": lambda _: [_box(-0.3, -1, 0.3, 1), _box(-1, -0.3, 1, 0.3)],
    "bars": lambda _: [_box(-1, y - 0.2, 1, y + 0.2) for y in (-0.75, 0.0, 0.75)],
    "diamond": lambda _: [_regular(4, 1.1)],
    "star": lambda _: [_regular(10, 1.1, 0.45)],
    "chevron": lambda _: [np.array([(-1, -0.7), (0, 0.2), (1, -0.7), (1, 0.05), (0, 0.95), (-1, 0.05)])],
    "number": lambda number: _digits(f"{number:02d}"),
}


def outlines(shape: str, number: int = 0) -> list[np.ndarray]:
    """Return the polygons of an emblem.

    Args:
        shape: one of ``EMBLEMS``.
        number: what the emblem "number" shows, 0 to 99.

    Returns:
        Arrays (corners, 2): x to the right, y down, within about one unit of the middle.

    Raises:
        ValueError: for an unknown shape.

    Example:
        >>> [polygon.shape for polygon in outlines("cross")]
        [(4, 2), (4, 2)]
    """
    if shape not in _SHAPES:
        raise ValueError(f"no emblem {shape!r}; there are {', '.join(EMBLEMS)}")
    return _SHAPES[shape](number)
