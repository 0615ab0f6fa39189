"""Families: four identities that share what is seen from afar and take turns at what is fine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

FAMILY = 4

T = TypeVar("T")


class Turns:
    """Hands out values so that the members of a family get different ones.

    Every member of a family makes the same draws from the same generator and then takes its own place in them.

    Args:
        rng: a generator that all members of the family start alike.
        member: 0 to 3.

    Example:
        >>> [Turns(np.random.default_rng(1), member)("abcd") for member in range(4)]
        ['d', 'a', 'c', 'b']
    """

    def __init__(self, rng: np.random.Generator, member: int) -> None:
        self.rng = rng
        self.member = member

    def __call__(self, values: Sequence[T], among: int = FAMILY) -> T:
        """Return this member's value; the family shares ``among`` different ones, or all there are if fewer."""
        order = self.rng.permutation(len(values))[:among]
        # Without a second shuffle, two lists of the same length would always pair the same members.
        places = self.rng.permutation(FAMILY)
        return values[order[places[self.member] % len(order)]]
