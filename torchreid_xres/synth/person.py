"""Who the drawn people are: families that share build and main colours, members that differ in fine detail.

From a distance the four members of a family look alike; what tells them apart (the pitch of a stripe, an emblem, shoes,
a small bag) is a few pixels wide, so it is lost as the resolution falls. ``figure.py`` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cloth import GARMENT_COLOURS, PATTERNS, Colour
from .emblems import EMBLEMS
from .family import FAMILY, Turns
from .scene import generator

UPPERS = ("t-shirt", "shirt", "jacket", "hoodie", "coat", "vest")
#: Lower garments, and how often each is drawn.
LOWERS = {"trousers": 0.60, "shorts": 0.20, "skirt": 0.12, "long skirt": 0.08}
HAIR_STYLES = ("bald", "short", "crop", "bob", "long", "ponytail", "bun", "curls")
BAGS = ("none", "backpack", "shoulder bag", "handbag", "waist bag")
HATS = ("none", "cap", "beanie")

_SKINS = ((0.93, 0.76, 0.65), (0.87, 0.67, 0.53), (0.74, 0.54, 0.40), (0.56, 0.38, 0.27), (0.38, 0.26, 0.19))
_HAIRS = (
    (0.09, 0.08, 0.08), (0.22, 0.14, 0.09), (0.42, 0.27, 0.15),
    (0.72, 0.58, 0.34), (0.60, 0.59, 0.57), (0.48, 0.20, 0.10),
)  # fmt: skip
#: One repeat in body heights: about 7, 10, 14 and 19 pixels of a picture 256 high.
_PITCHES = (0.030, 0.042, 0.058, 0.080)


@dataclass(frozen=True)
class Person:
    """All that stays with a person from picture to picture; lengths in body heights, colours in [0, 1].

    Args:
        girth: factor on every width; 1 is average.
        shoulders, hips, belly: factors on those widths alone.
        legs: height of the hip joint.
        hair_style: one of ``HAIR_STYLES``.
        upper: one of ``UPPERS``.
        pattern, pitch, accent: of the upper garment, see ``cloth.cloth``.
        lower: a key of ``LOWERS``; ``lower_pattern``, ``lower_pitch`` and ``lower_accent`` are its pattern.
        emblem: one of ``emblems.EMBLEMS`` on chest and back, or None; ``emblem_height`` is its place on the torso,
            from 0 at the hem to 1 at the neck.
        side_stripe, belt: their colours, or None.
        hat: one of ``HATS``.
        bag: one of ``BAGS``; ``bag_side`` is -1 (right) or 1 (left).
    """

    girth: float
    shoulders: float
    hips: float
    belly: float
    legs: float
    skin: Colour
    hair_style: str
    hair: Colour
    beard: bool
    upper: str
    upper_colour: Colour
    pattern: str
    accent: Colour
    lower: str
    lower_colour: Colour
    lower_pattern: str
    lower_accent: Colour
    socks: Colour
    pitch: float
    lower_pitch: float
    emblem: str | None
    emblem_colour: Colour
    emblem_radius: float
    emblem_height: float
    number: int
    glasses: bool
    hat: str
    hat_colour: Colour
    side_stripe: Colour | None
    belt: Colour | None
    shoes: Colour
    soles: Colour
    bag: str
    bag_colour: Colour
    bag_side: int


def draw_person(seed: int, index: int) -> Person:
    """Return the person ``index`` of the world ``seed``; four consecutive ones make a family.

    Args:
        seed: any non-negative integer.
        index: 0, 1, 2, ... ; the others need not be drawn first.

    Example:
        >>> a, b = draw_person(0, 4), draw_person(0, 5)
        >>> a.upper_colour == b.upper_colour, a == b, a == draw_person(0, 4)
        (True, False, True)
    """
    family, member = divmod(index, FAMILY)
    rng = generator(seed, "people", family)
    # As many families in a row as there are colours differ in that of the upper garment: two families should not be
    # harder to tell apart than two members of one.
    colours = list(GARMENT_COLOURS.values())
    cycle, place = divmod(family, len(colours))
    shared = _shared(rng, colours[generator(seed, "garments", cycle).permutation(len(colours))[place]])
    return Person(**shared, **_own(Turns(rng, member), shared))


def _shared(rng: np.random.Generator, upper: Colour) -> dict[str, Any]:
    """Draw what a family has in common: build, skin and hair, garments and their main colours."""
    colours = [colour for colour in GARMENT_COLOURS.values() if colour != upper]
    accent, lower, lower_accent = (colours[k] for k in rng.permutation(len(colours))[:3])
    hair_style = str(rng.choice(HAIR_STYLES))
    return {
        "girth": rng.uniform(0.86, 1.22),
        "shoulders": rng.uniform(0.92, 1.1),
        "hips": rng.uniform(0.9, 1.15),
        "belly": rng.uniform(0.9, 1.25),
        "legs": rng.uniform(0.485, 0.525),
        "skin": _SKINS[rng.integers(len(_SKINS))],
        "hair_style": hair_style,
        "hair": _HAIRS[rng.integers(len(_HAIRS))],
        "beard": hair_style in ("bald", "short", "crop") and bool(rng.random() < 0.35),
        "upper": str(rng.choice(UPPERS)),
        "upper_colour": upper,
        "pattern": str(rng.choice(PATTERNS)),
        "accent": _contrasting(upper, accent),
        "lower": str(rng.choice(list(LOWERS), p=list(LOWERS.values()))),
        "lower_colour": lower,
        "lower_pattern": str(rng.choice(PATTERNS)) if rng.random() < 0.6 else "plain",
        "lower_accent": _contrasting(lower, lower_accent),
        "socks": GARMENT_COLOURS[str(rng.choice(["white", "grey", "black"]))],
    }


def _own(turn: Turns, shared: dict[str, Any]) -> dict[str, Any]:
    """Draw what tells the members of a family apart."""
    colours = list(GARMENT_COLOURS.values())
    shoe_colours = [GARMENT_COLOURS[n] for n in ("white", "black", "grey", "red", "blue", "brown", "yellow", "green")]
    shoes = turn(shoe_colours, 2)
    stripe = _contrasting(shared["lower_colour"], turn(colours, 3))
    # A plain garment has an emblem, so that there is always something to see on it.
    marked = bool(turn.rng.random() < 0.25) or shared["pattern"] == "plain"
    return {
        "pitch": turn(_PITCHES),
        "lower_pitch": turn(_PITCHES),
        "emblem": turn(EMBLEMS) if marked else None,
        "emblem_colour": _contrasting(shared["upper_colour"], turn(colours, 2)),
        "emblem_radius": turn((0.026, 0.034, 0.042)),
        "emblem_height": turn((0.42, 0.55, 0.68)),
        "number": turn(range(10, 100)),
        "glasses": turn((False, True)),
        "hat": turn(("none", "none", *HATS)),
        "hat_colour": turn(colours, 2),
        "side_stripe": turn((None, None, stripe)),
        "belt": turn((None, GARMENT_COLOURS["brown"], GARMENT_COLOURS["white"]), 2),
        "shoes": shoes,
        "soles": turn((GARMENT_COLOURS["white"], GARMENT_COLOURS["black"], shoes), 2),
        "bag": turn(("none", "none", *BAGS)),
        "bag_colour": turn(colours, 2),
        "bag_side": turn((-1, 1)),
    }


def _contrasting(base: Colour, other: Colour) -> Colour:
    """Replace a colour that could hardly be told from the base by white or near-black."""
    if np.abs(np.subtract(base, other)).max() >= 0.35:
        return other
    return GARMENT_COLOURS["black" if np.mean(base) > 0.5 else "white"]
