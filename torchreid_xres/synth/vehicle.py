"""Which vehicles are drawn, and the 20 VeRi-776 keypoints and 8 orientation codes they are annotated with.

As with people, four consecutive vehicles make a family of one model and colour; rims, stripes, stickers, lamps and what
is on the roof tell them apart. ``coachwork.py`` builds their bodies, ``roadside.py`` takes the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .cloth import Colour
from .emblems import EMBLEMS
from .family import FAMILY, Turns
from .scene import generator

#: The points of Wang et al., "Orientation Invariant Feature Embedding and Spatial Temporal Regularization for Vehicle
#: Re-identification", ICCV 2017, in the order of its annotation files; left and right are the vehicle's own.
KEYPOINTS = (
    "left front wheel", "left back wheel", "right front wheel", "right back wheel", "right fog lamp", "left fog lamp",
    "right headlight", "left headlight", "front logo", "front plate", "left mirror", "right mirror",
    "right front roof corner", "left front roof corner", "left back roof corner", "right back roof corner",
    "left rear lamp", "right rear lamp", "rear logo", "rear plate",
)  # fmt: skip
#: The orientation codes 0 to 7 of the same files: the side of the vehicle that is seen.
ORIENTATIONS = ("front", "back", "left", "left front", "left back", "right", "right front", "right back")
#: Code of each eighth of a turn, from the front over the vehicle's left.
_EIGHTHS = (0, 3, 2, 4, 1, 7, 5, 6)
#: Half width of the sectors "front", "back", "left" and "right", degrees; the four between them are wider.
_PURE = 14.0


def orientation_code(azimuth: float) -> int:
    """Return the orientation code for a camera's place around the vehicle.

    Args:
        azimuth: degrees; 0 in front of the vehicle, 90 at its left.

    Example:
        >>> [ORIENTATIONS[orientation_code(a)] for a in (0, 40, 90, 180, 300, -10)]
        ['front', 'left front', 'left', 'back', 'right front', 'front']
    """
    azimuth %= 360.0
    quarter = round(azimuth / 90.0)
    if abs(azimuth - 90.0 * quarter) <= _PURE:
        return _EIGHTHS[2 * quarter % 8]
    return _EIGHTHS[2 * int(azimuth // 90.0) + 1]


@dataclass(frozen=True)
class Model:
    """Measures of one kind of vehicle, metres; x from the middle to the front, z from the ground.

    Args:
        length, width, height: over all, without mirrors.
        clearance: height of the body's underside.
        bumper, nose, tail: heights of the bumper's top and of the upper edge at the front and at the rear.
        base: x of the windscreen's foot and of the rear window's foot.
        roof: x of the roof's front and rear edge.
        base_width, roof_width: of the cabin, as shares of the width.
        wheel: radius of the wheels.
        axles: x of the front and the rear wheels.
        panes: side windows on each side.
        sill: height of their lower edge, as a share of the cabin's side.
        cargo: none, an open bed or a box.
    """

    length: float
    width: float
    height: float
    clearance: float
    bumper: float
    nose: float
    tail: float
    base: tuple[float, float]
    roof: tuple[float, float]
    base_width: float
    roof_width: float
    wheel: float
    axles: tuple[float, float]
    panes: int = 2
    sill: float = 0.08
    cargo: str = "none"

    def scaled(self, length: float, width: float, height: float) -> Model:
        """Return the model with its measures multiplied; the wheels stay round and as high above the ground."""
        return replace(
            self,
            length=self.length * length,
            width=self.width * width,
            height=self.height * height,
            bumper=self.bumper * height,
            nose=self.nose * height,
            tail=self.tail * height,
            base=tuple(x * length for x in self.base),
            roof=tuple(x * length for x in self.roof),
            axles=tuple(x * length for x in self.axles),
        )


MODELS = {
    "sedan": Model(
        4.6, 1.80, 1.45, 0.22, 0.55, 0.78, 0.98, base=(1.00, -1.75), roof=(0.25, -1.05),
        base_width=0.90, roof_width=0.70, wheel=0.32, axles=(1.42, -1.35),
    ),
    "hatchback": Model(
        4.0, 1.72, 1.50, 0.22, 0.55, 0.82, 0.98, base=(0.95, -1.92), roof=(0.20, -1.50),
        base_width=0.91, roof_width=0.72, wheel=0.31, axles=(1.25, -1.25),
    ),
    "suv": Model(
        4.6, 1.90, 1.75, 0.30, 0.68, 0.98, 1.10, base=(1.00, -2.20), roof=(0.35, -1.85),
        base_width=0.92, roof_width=0.74, wheel=0.37, axles=(1.42, -1.35), panes=3,
    ),
    "van": Model(
        4.8, 1.85, 1.98, 0.26, 0.62, 0.95, 1.08, base=(1.85, -2.32), roof=(1.05, -2.18),
        base_width=0.94, roof_width=0.80, wheel=0.33, axles=(1.60, -1.45), panes=3,
    ),
    "bus": Model(
        9.2, 2.50, 3.05, 0.34, 0.85, 1.15, 1.15, base=(4.50, -4.50), roof=(4.32, -4.42),
        base_width=0.97, roof_width=0.90, wheel=0.48, axles=(2.75, -2.50), panes=7, sill=0.35,
    ),
    "pickup": Model(
        5.2, 1.88, 1.76, 0.34, 0.70, 0.98, 1.00, base=(0.98, -0.85), roof=(0.40, -0.68),
        base_width=0.92, roof_width=0.74, wheel=0.38, axles=(1.62, -1.55), cargo="bed",
    ),
    "truck": Model(
        6.2, 2.10, 2.20, 0.42, 0.80, 1.00, 1.00, base=(2.95, 1.30), roof=(2.55, 1.38),
        base_width=0.95, roof_width=0.84, wheel=0.42, axles=(2.15, -1.80), panes=1, cargo="box",
    ),
}  # fmt: skip
#: How often each kind is drawn.
_SHARES = {"sedan": 0.28, "hatchback": 0.18, "suv": 0.18, "van": 0.12, "bus": 0.08, "pickup": 0.08, "truck": 0.08}

PAINTS: dict[str, Colour] = {
    "white": (0.88, 0.88, 0.87), "silver": (0.66, 0.68, 0.70), "grey": (0.40, 0.41, 0.43), "black": (0.12, 0.12, 0.13),
    "red": (0.68, 0.11, 0.10), "wine": (0.38, 0.09, 0.12), "blue": (0.14, 0.29, 0.62), "navy": (0.11, 0.15, 0.30),
    "green": (0.12, 0.40, 0.24), "yellow": (0.88, 0.72, 0.14), "orange": (0.86, 0.42, 0.10),
    "beige": (0.74, 0.67, 0.54),
}  # fmt: skip
ROOFS = ("bare", "rack", "sunroof", "box", "sign")
BANDS = ("none", "single", "double", "blocks")
_PLATES = ((0.92, 0.92, 0.92), (0.93, 0.78, 0.20), (0.16, 0.30, 0.66))


@dataclass(frozen=True)
class Vehicle:
    """All that stays with a vehicle from picture to picture; colours in [0, 1].

    Args:
        kind: a key of ``MODELS``.
        scale: factors on length, width and height.
        band: stripe around the body, one of ``BANDS``.
        side_mark, rear_mark: emblem on the doors (or the box), and on the rear window, or None.
        screen_sticker: place along the upper edge of the windscreen, -1 (right) to 1 (left), or None.
        grille: number of bars.
        lamp: share of its face that a lamp fills.
        stripes: number of stripes along the bonnet, in the band's colour.
        top: paint of the roof.
        roof: what is on it, one of ``ROOFS``.
    """

    kind: str
    paint: Colour
    scale: tuple[float, float, float]
    tint: float
    bumper: Colour
    rim: Colour
    spokes: int
    band: str
    band_colour: Colour
    band_height: float
    side_mark: str | None
    side_place: float
    rear_mark: str | None
    mark_colour: Colour
    screen_sticker: float | None
    grille: int
    grille_colour: Colour
    lamp: float
    stripes: int
    top: Colour
    roof: str
    roof_colour: Colour
    plate: Colour
    number: int


def draw_vehicle(seed: int, index: int) -> Vehicle:
    """Return the vehicle ``index`` of the world ``seed``; four consecutive ones make a family.

    Example:
        >>> a, b = draw_vehicle(0, 8), draw_vehicle(0, 9)
        >>> (a.kind, a.paint) == (b.kind, b.paint), a == b, a == draw_vehicle(0, 8)
        (True, False, True)
    """
    family, member = divmod(index, FAMILY)
    rng = generator(seed, "vehicles", family)
    # Twelve families in a row have twelve paints: two families should not be harder to tell apart than two members.
    dozen, place = divmod(family, len(PAINTS))
    paint = list(PAINTS.values())[generator(seed, "paints", dozen).permutation(len(PAINTS))[place]]
    colours = [colour for colour in PAINTS.values() if np.abs(np.subtract(colour, paint)).max() > 0.3]
    turn = Turns(rng, member)
    return Vehicle(
        kind=str(rng.choice(list(_SHARES), p=list(_SHARES.values()))),
        paint=paint,
        scale=tuple(rng.uniform(0.95, 1.05, 3)),
        tint=rng.uniform(0.6, 1.3),
        plate=_PLATES[rng.integers(len(_PLATES))],
        bumper=turn((paint, (0.16, 0.16, 0.17)), 2),
        rim=turn(((0.75, 0.76, 0.78), (0.22, 0.22, 0.24), (0.52, 0.53, 0.55)), 3),
        spokes=turn((0, 3, 4, 5, 6)),
        band=turn(BANDS),
        band_colour=turn(colours, 2),
        band_height=turn((0.25, 0.5, 0.72), 3),
        side_mark=turn((None, *EMBLEMS)),
        side_place=turn((0.30, 0.45, 0.62), 3),
        rear_mark=turn((None, *EMBLEMS)),
        mark_colour=turn(colours, 3),
        screen_sticker=turn((None, -0.75, 0.0, 0.75)),
        grille=turn((2, 3, 4, 6)),
        grille_colour=turn(((0.10, 0.10, 0.11), (0.70, 0.71, 0.73)), 2),
        lamp=turn((0.45, 0.65, 0.9), 3),
        stripes=turn((0, 0, 1, 2, 3)),
        # Most have nothing on the roof and no other paint there, since both are seen from afar.
        top=turn((*[paint] * 5, (0.13, 0.13, 0.14), (0.90, 0.90, 0.89))),
        roof=turn(("bare", "bare", "bare", *ROOFS[1:])),
        roof_colour=turn(colours, 2),
        number=turn(range(10, 100)),
    )
