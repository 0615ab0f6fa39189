"""Builds a ``Vehicle`` from convex solids and places its 20 keypoints on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import paintwork
from .polyhedra import Face, Pinhole, Solid, block, loft
from .vehicle import KEYPOINTS, MODELS, Vehicle

#: Faces of each belt of the body: its plan is a rectangle with cut corners, and the cuts carry the lamps.
LEFT, LEFT_REAR, REAR, RIGHT_REAR, RIGHT, RIGHT_FRONT, FRONT, LEFT_FRONT = range(8)
#: The cuts' length along the vehicle, metres, and across it, as a share of half the width: they face well forward, so
#: that a lamp is still seen from the far front corner, as in the real annotations.
_CUT_ALONG, _CUT_ACROSS = 0.16, 0.42
#: How far a wheel's hub lies inside the body's side, metres, and how much wider than the wheel its arch is.
_RECESS, _ARCH = 0.07, 1.18
#: Points lie this far off their face, metres, so that their own face does not hide them by rounding.
_LIFT = 0.02


@dataclass(frozen=True)
class Landmark:
    """A keypoint: where it is, the solid it belongs to (which cannot hide it), for a hub the arch it is seen through.

    Args:
        point: (3,), metres.
        owner: a solid, or None.
        arch: middle (3,) in the body's side and radius, or None.
    """

    point: np.ndarray
    owner: Solid | None = None
    arch: tuple[np.ndarray, float] | None = None


class Coachwork:
    """The solids of a vehicle and its keypoints.

    Attributes:
        underneath: tyres and underbody, painted first.
        solids: the rest, in no order.
        landmarks: 20, in the order of ``vehicle.KEYPOINTS``.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        self.vehicle, self.model = vehicle, MODELS[vehicle.kind].scaled(*vehicle.scale)
        self._half, self._side = self.model.length / 2, self.model.width / 2
        self.underneath: list[Solid] = []
        self.solids: list[Solid] = []
        self._marks: dict[str, Landmark] = {}
        self._body = self._build_body()
        self._dress_body()
        cabin = self._build_cabin()
        self._build_mirrors()
        self._build_wheels()
        self._load_roof(cabin.faces[8])
        if self.model.cargo == "bed":
            self._build_bed()
        elif self.model.cargo == "box":
            self._build_box()
        self.landmarks = [self._marks[name] for name in KEYPOINTS]

    def corners(self) -> np.ndarray:
        """Return the corners (N, 3) of all solids."""
        return np.concatenate([solid.corners() for solid in (*self.underneath, *self.solids)])

    def visible(self, camera: Pinhole) -> np.ndarray:
        """Tell for each of the 20 landmarks whether no part of the vehicle hides it from the camera."""
        return np.array([self._sees(camera.position, landmark) for landmark in self.landmarks])

    def _sees(self, eye: np.ndarray, landmark: Landmark) -> bool:
        point = landmark.point
        if landmark.arch is not None:
            middle, radius = landmark.arch
            outward = np.array([0.0, np.sign(middle[1]), 0.0])
            if (eye - middle) @ outward <= 0:
                return False
            # The line of sight must leave the body's side through the arch.
            share = (middle[1] - point[1]) / (eye[1] - point[1])
            if np.linalg.norm(point + share * (eye - point) - middle) > radius:
                return False
            point = middle + _LIFT * outward
        return not any(solid.blocks(point, eye) for solid in self.solids if solid is not landmark.owner)

    def _place(self, name: str, face: Face, u: float, v: float) -> None:
        self._marks[name] = Landmark(face.at(u, v) + _LIFT * face.normal)

    def _place_roof_corner(self, name: str, corner: np.ndarray) -> None:
        self._marks[f"{name} roof corner"] = Landmark(corner + np.array([0.0, 0.0, _LIFT]))

    # ---- body -----------------------------------------------------------------------------------------------------

    def _upper_edge(self, x: float | np.ndarray) -> np.ndarray:
        """Return the height of the body's upper edge, which runs straight from the nose to the tail."""
        return np.interp(x, (-self._half, self._half), (self.model.tail, self.model.nose))

    def _plan(self, inset: float, height: float | None) -> np.ndarray:
        """Return a ring of the body, level or (None) along the upper edge, its sides in the order LEFT, ..."""
        x, y = self._half - inset, self._side - inset
        dx, dy = _CUT_ALONG, _CUT_ACROSS * self._side
        ring = np.array(
            [(x - dx, y), (dx - x, y), (-x, y - dy), (-x, dy - y), (dx - x, -y), (x - dx, -y), (x, dy - y), (x, y - dy)]
        )
        return np.column_stack([ring, self._upper_edge(ring[:, 0]) if height is None else np.full(8, height)])

    def _build_body(self) -> Solid:
        shoulder = self._plan(0.02, None) - (0.0, 0.0, 0.07)
        sides = [self._plan(0.05, self.model.clearance), self._plan(0.0, self.model.bumper), shoulder]
        body = loft(np.stack([*sides, self._plan(0.12, None)]), (self.vehicle.paint,) * 4)
        self.solids.append(body)
        return body

    def _dress_body(self) -> None:
        vehicle, faces = self.vehicle, self._body.faces
        lower, upper = faces[:8], faces[8:16]
        for k in (LEFT_REAR, REAR, RIGHT_REAR, RIGHT_FRONT, FRONT, LEFT_FRONT):
            lower[k].colour = vehicle.bumper
        for k in (LEFT, LEFT_REAR, REAR, RIGHT_REAR, RIGHT):
            paintwork.band(upper[k], lower[k], vehicle)
        self._stripe(faces[24])

        paintwork.grille(upper[FRONT], vehicle)
        self._place("front logo", upper[FRONT], 0.5, 0.5)
        paintwork.plate(lower[FRONT], vehicle, 0.55)
        self._place("front plate", lower[FRONT], 0.5, 0.55)
        paintwork.emblem(upper[REAR], "disc", 0.5, 0.72, 0.07, paintwork.CHROME)
        self._place("rear logo", upper[REAR], 0.5, 0.72)
        # Under a load bed or a box the plate hangs on the bumper.
        rear = (upper if self.model.cargo == "none" else lower)[REAR]
        paintwork.plate(rear, vehicle, 0.28)
        self._place("rear plate", rear, 0.5, 0.28)

        for side, front, back in (("left", LEFT_FRONT, LEFT_REAR), ("right", RIGHT_FRONT, RIGHT_REAR)):
            paintwork.headlight(upper[front], vehicle)
            self._place(f"{side} headlight", upper[front], 0.5, 0.5)
            paintwork.emblem(lower[front], "disc", 0.5, 0.42, 0.075, (0.90, 0.89, 0.80))
            self._place(f"{side} fog lamp", lower[front], 0.5, 0.42)
            paintwork.rear_lamp(upper[back], vehicle)
            self._place(f"{side} rear lamp", upper[back], 0.5, 0.5)

        first, last = self.model.base[0] - 0.15, self.model.base[1] + 0.25
        straight = self._half - _CUT_ALONG
        seams = [(straight - x) / (2 * straight) for x in np.linspace(first, last, min(self.model.panes, 3) + 1)]
        for k in (LEFT, RIGHT):
            paintwork.doors(upper[k], lower[k], vehicle, seams, left=k == LEFT)

    def _stripe(self, top: Face) -> None:
        """Paint stripes on the bonnet and the boot lid; the cabin hides what is between."""
        x, count = self._half - 0.12, self.vehicle.stripes
        for k in range(count):
            y = 0.20 * (k - (count - 1) / 2)
            ends = np.array([(x, y - 0.06), (x, y + 0.06), (-x, y + 0.06), (-x, y - 0.06)])
            top.marks.append((np.column_stack([ends, self._upper_edge(ends[:, 0])]), self.vehicle.band_colour))

    # ---- cabin ----------------------------------------------------------------------------------------------------

    def _build_cabin(self) -> Solid:
        vehicle, model = self.vehicle, self.model
        w, r = self._side * model.base_width, self._side * model.roof_width
        corners = np.array([(0, 1), (1, 1), (1, -1), (0, -1)])
        low, high = (
            np.column_stack([np.take(ends, corners[:, 0]), half * corners[:, 1]])
            for ends, half in ((model.base, w), (model.roof, r))
        )
        # The roof's edge is rounded: a last belt, a little smaller and 6 cm higher.
        edge = (high - high.mean(0)) * (0.94, 0.93) + high.mean(0)
        rings = np.stack([
            np.column_stack([low, self._upper_edge(low[:, 0]) - 0.01]),
            np.column_stack([high, np.full(4, model.height - 0.06)]),
            np.column_stack([edge, np.full(4, model.height)]),
        ])  # fmt: skip
        cabin = loft(rings, (vehicle.paint, vehicle.top, vehicle.top))
        left, rear, right, front = cabin.faces[:4]
        paintwork.windscreen(front, vehicle)
        paintwork.rear_window(rear, vehicle)
        for face in (left, right):
            paintwork.side_windows(face, vehicle, model)
        for name, corner in zip(("left front", "left back", "right back", "right front"), rings[2], strict=True):
            self._place_roof_corner(name, corner)
        self.solids.append(cabin)
        return cabin

    def _build_mirrors(self) -> None:
        x, y = self.model.base[0], self._side * self.model.base_width
        z = float(self._upper_edge(x))
        tall = self.model.height > 2.5
        x, z, height = (x - 0.05, z + 1.0, 0.40) if tall else (x - 0.42, z + 0.04, 0.17)
        for name, sign in (("left", 1), ("right", -1)):
            inner, outer = sorted((sign * (y + 0.01), sign * (y + 0.24)))
            mirror = block((x, inner, z), (x + 0.12, outer, z + height), self.vehicle.bumper)
            mirror.faces[1].box(0.12, 0.15, 0.88, 0.85, paintwork.SHEEN)
            self.solids.append(mirror)
            middle = np.array([x + 0.06, (inner + outer) / 2, z + height / 2])
            self._marks[f"{name} mirror"] = Landmark(middle, owner=mirror)

    def _load_roof(self, roof: Face) -> None:
        vehicle, top = self.vehicle, self.model.height
        (x1, y1), (x0, y0) = roof.corners[0, :2], roof.corners[2, :2]
        middle, length = (x0 + x1) / 2, min(x1 - x0, 3.0)
        if vehicle.roof == "rack":
            for y in (0.8 * y0, 0.8 * y1):
                low, high = (
                    (middle - 0.42 * length, y - 0.03, top + 0.01),
                    (middle + 0.42 * length, y + 0.03, top + 0.10),
                )
                self.solids.append(block(low, high, (0.70, 0.71, 0.73)))
        elif vehicle.roof == "sunroof":
            ring = np.array([(0.32, y1), (-0.08, y1), (-0.08, y0), (0.32, y0)]) * (length, 0.6) + (middle, 0.0)
            roof.marks.append((np.column_stack([ring, np.full(4, top)]), paintwork.GLASS))
        elif vehicle.roof == "box":
            low, high = (middle - 0.36 * length, -0.38, top + 0.01), (middle + 0.30 * length, 0.38, top + 0.26)
            self.solids.append(block(low, high, vehicle.roof_colour))
        elif vehicle.roof == "sign":
            sign = block((middle + 0.04, -0.30, top + 0.01), (middle + 0.22, 0.30, top + 0.20), vehicle.roof_colour)
            for face in (sign.faces[1], sign.faces[3]):
                face.box(0.2, 0.25, 0.8, 0.75, paintwork.DARK)
            self.solids.append(sign)

    # ---- wheels and cargo -----------------------------------------------------------------------------------------

    def _build_wheels(self) -> None:
        model, (x, y) = self.model, (self._half - 0.3, self._side - 0.15)
        self.underneath.append(block((-x, -y, 0.14), (x, y, model.clearance + 0.1), paintwork.DARK))
        for side, sign in (("left", 1), ("right", -1)):
            for name, x in zip(("front", "back"), model.axles, strict=True):
                self._build_wheel(f"{side} {name} wheel", np.array([x, sign * self._side, model.wheel]), sign)

    def _build_wheel(self, name: str, hub: np.ndarray, sign: int) -> None:
        """Hang a tyre below the body, and fix arch and wheel to its side."""
        radius, out = self.model.wheel, np.array([0.0, float(sign), 0.0])
        angle = np.arange(24) * 2 * np.pi / 24
        # Counter-clockwise from outside: seen from its left, the vehicle's front is at the left.
        circle = radius * np.stack([-sign * np.cos(angle), 0 * angle, np.sin(angle)], 1)
        tyre = loft(np.stack([hub + circle - 0.26 * out, hub + circle - 0.02 * out]), (paintwork.TYRE,) * 2)
        self.underneath.append(tyre)
        arch = circle * _ARCH
        # The arch is open below: it ends at the body's lower edge.
        arch[:, 2] = np.maximum(arch[:, 2], self.model.clearance - radius)
        wheel = Face(hub + circle + 0.01 * out, paintwork.TYRE)
        paintwork.rim(wheel, self.vehicle, hub + 0.01 * out, circle[0], circle[6])
        self._body.plates += [Face(hub + arch + 0.005 * out, paintwork.DARK), wheel]
        self._marks[name] = Landmark(hub - _RECESS * out, arch=(hub, radius * _ARCH))

    def _build_bed(self) -> None:
        """Build the side walls and the tail gate of a load bed."""
        x1, x0, y = self.model.base[1] - 0.08, 0.16 - self._half, self._side - 0.13
        low = float(self._upper_edge(x0))
        high, paint = low + 0.30, self.vehicle.paint
        self.solids += [
            block((x0 + 0.1, y - 0.08, low), (x1, y, high), paint),
            block((x0 + 0.1, -y, low), (x1, 0.08 - y, high), paint),
            block((x0, -y, low), (x0 + 0.08, y, high), paint),
        ]
        floor = np.array([(x1, y), (x0, y), (x0, -y), (x1, -y)])
        floor = np.column_stack([floor, self._upper_edge(floor[:, 0])])
        self._body.faces[24].marks.append((floor, (0.20, 0.20, 0.21)))

    def _build_box(self) -> None:
        """Build a truck's box; its rear corners are the roof's rear corners."""
        x1, x0, y = self.model.base[1] - 0.15, 0.02 - self._half, self._side - 0.01
        high = self.model.height + 0.45
        box = block((x0, -y, float(self._upper_edge(x0)) + 0.06), (x1, y, high), (0.84, 0.84, 0.82))
        for face in box.faces[:4]:
            paintwork.box_side(face, self.vehicle)
        for u in (0.03, 0.5, 0.97):
            box.faces[1].box(u - 0.012, 0.0, u + 0.012, 1.0, (0.45, 0.45, 0.46))
        self.solids.append(box)
        for name, sign in (("left back", 1), ("right back", -1)):
            self._place_roof_corner(name, np.array([x0, sign * y, high]))
