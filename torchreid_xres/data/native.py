"""Which pictures are low resolution by their own size: one rule for data sets and for pictures from anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchvision.transforms import Resize

# Nearer, by ratio, to half of the full side than to the whole of it.
LOW_FROM = math.sqrt(2)


def native_rate(size: Sequence[int], full_size: Sequence[int]) -> float:
    """Return how many times smaller a picture's side is than that of one of full resolution, by their areas.

    Args:
        size: height and width of the picture.
        full_size: height and width at full resolution.

    Example:
        >>> native_rate((64, 32), (256, 128)), native_rate((512, 256), (256, 128))
        (4.0, 0.5)
    """
    return math.sqrt(full_size[0] * full_size[1] / (size[0] * size[1]))


def low_by_size(size: Sequence[int], full_size: Sequence[int]) -> bool:
    """Return whether a picture is low resolution: its side, by its area, at least 1.41 times smaller than the full one.

    Args:
        size: height and width of the picture.
        full_size: height and width at full resolution.

    Example:
        >>> low_by_size((256, 64), (256, 128)), low_by_size((256, 65), (256, 128))
        (True, False)
    """
    return native_rate(size, full_size) >= LOW_FROM


def check_full_size(full_size: Any, whose: str = "") -> tuple[int, int]:
    """Return a height and a width in pixels as a tuple.

    Args:
        full_size: two whole numbers of at least 1.
        whose: begins the error's message.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> check_full_size([256, 128])
        (256, 128)
    """
    sides = tuple(full_size) if isinstance(full_size, Iterable) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"{whose}full_size is a height and a width in pixels, not {full_size!r}")
    return int(sides[0]), int(sides[1])


def input_resize(transform: Any) -> Resize | None:
    """Return the step that brings images to the network's height and width; None if the first one does not.

    Args:
        transform: of a data set, as the host's data manager builds it.
    """
    from torchvision.transforms import Resize  # with torch, which whoever asks for sizes alone does without

    first = next(iter(getattr(transform, "transforms", [])), None)
    return first if isinstance(first, Resize) and isinstance(first.size, (tuple, list)) else None
