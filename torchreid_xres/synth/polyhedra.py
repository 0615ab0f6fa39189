"""Convex solids seen in perspective: painting from back to front, and which points they hide.

Lengths are in metres, X to the front of the vehicle, Y to its left, Z up, the ground at Z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import ImageDraw

from .cloth import Colour, ink


@dataclass(frozen=True)
class Pinhole:
    """A pinhole camera that looks at a point.

    Args:
        position, target: points (3,), metres.
        focal: pixels.
        centre: pixel (x, y) where the target appears.

    Example:
        >>> ahead = Pinhole(np.array([10.0, 0, 1]), np.array([0.0, 0, 1]), 100.0, (64.0, 64.0))
        >>> ahead.project(np.array([[0.0, 0, 1], [0.0, 1, 1]])).round(1).tolist()   # the vehicle's left is at the right
        [[64.0, 64.0], [74.0, 64.0]]
    """

    position: np.ndarray
    target: np.ndarray
    focal: float
    centre: tuple[float, float]

    @cached_property
    def axes(self) -> np.ndarray:
        """Unit vectors to the right, down and forward, as the columns of a (3, 3) array."""
        forward = self.target - self.position
        right = np.cross(forward, (0.0, 0.0, 1.0))
        axes = np.stack([right, np.cross(forward, right), forward], 1)
        return axes / np.linalg.norm(axes, axis=0)

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """Return (N, 3) camera coordinates: right, down, forward."""
        return (np.asarray(points) - self.position) @ self.axes

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels (N, 2) of points (N, 3); all must lie in front of the camera."""
        seen = self.coordinates(points)
        return seen[:, :2] / seen[:, 2:] * self.focal + np.asarray(self.centre)


@dataclass
class Face:
    """A flat polygon with marks painted on it.

    Args:
        corners: (N, 3), counter-clockwise from outside; of a quad the first is lower left and the second lower right
            as seen from outside.
        colour: in [0, 1].
        marks: polygons in the face, each with its colour, later ones on top.
    """

    corners: np.ndarray
    colour: Colour
    marks: list[tuple[np.ndarray, Colour]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Newell's sum is exact for flat polygons and an average for the slightly bent quads of a loft.
        normal = np.cross(self.corners, np.roll(self.corners, -1, axis=0)).sum(0)
        self.normal = normal / np.linalg.norm(normal)
        self.offset = float(self.normal @ self.corners.mean(0))

    def height(self, points: np.ndarray) -> np.ndarray:
        """Return signed distances of points (..., 3) from the plane, positive outside, metres."""
        return np.asarray(points) @ self.normal - self.offset

    def at(self, u: float | np.ndarray, v: float | np.ndarray) -> np.ndarray:
        """Return the point(s) of a quad at u (0 left, 1 right) and v (0 bottom, 1 top), seen from outside."""
        u, v = np.asarray(u, float)[..., None], np.asarray(v, float)[..., None]
        a, b, c, d = self.corners
        return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)

    def size(self) -> tuple[float, float]:
        """Return width and height of a quad between the middles of its sides, metres."""
        return (
            float(np.linalg.norm(self.at(1.0, 0.5) - self.at(0.0, 0.5))),
            float(np.linalg.norm(self.at(0.5, 1.0) - self.at(0.5, 0.0))),
        )

    def mark(self, outline: Sequence[tuple[float, float]] | np.ndarray, colour: Colour) -> None:
        """Paint a polygon given in (u, v) on a quad."""
        outline = np.asarray(outline, float)
        self.marks.append((self.at(outline[:, 0], outline[:, 1]), colour))

    def box(self, u0: float, v0: float, u1: float, v1: float, colour: Colour) -> None:
        """Paint a rectangle given in (u, v) on a quad."""
        self.mark([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], colour)


@dataclass
class Solid:
    """A convex body; ``plates`` are flat pieces fixed to its outside, painted after it."""

    faces: list[Face]
    plates: list[Face] = field(default_factory=list)

    def corners(self) -> np.ndarray:
        """Return all corners (N, 3), those of the plates too."""
        return np.concatenate([face.corners for face in (*self.faces, *self.plates)])

    def blocks(self, start: np.ndarray, end: np.ndarray) -> bool:
        """Tell whether the segment passes through the inside of the body (not its plates)."""
        enter, leave = 0.0, 1.0
        for face in self.faces:
            a, b = face.height(start), face.height(end)
            if a >= 0 and b >= 0:
                return False
            if a > 0:
                enter = max(enter, a / (a - b))
            elif b > 0:
                leave = min(leave, a / (a - b))
        return leave - enter > 1e-9


def loft(rings: np.ndarray, colours: Sequence[Colour]) -> Solid:
    """Return the body through a stack of rings.

    Args:
        rings: (levels, n, 3), from the lowest up, each counter-clockwise seen from above.
        colours: of the levels - 1 belts and the top.

    Returns:
        A solid whose faces are the belts' quads from the lowest up, n each, then the top, then the bottom.
    """
    levels, count = rings.shape[:2]
    faces = [
        Face(
            np.stack([rings[k, i], rings[k, (i + 1) % count], rings[k + 1, (i + 1) % count], rings[k + 1, i]]),
            colours[k],
        )
        for k in range(levels - 1)
        for i in range(count)
    ]
    faces.append(Face(rings[-1], colours[-1]))
    faces.append(Face(rings[0, ::-1], colours[0]))
    return Solid(faces)


def block(low: Sequence[float], high: Sequence[float], colour: Colour) -> Solid:
    """Return an upright box; its faces are left (+Y), rear, right, front, top, bottom."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    ring = np.array([(x1, y1), (x0, y1), (x0, y0), (x1, y0)])
    rings = np.stack([np.column_stack([ring, np.full(4, z)]) for z in (z0, z1)])
    return loft(rings, (colour, colour))


def back_to_front(solids: Sequence[Solid], eye: np.ndarray) -> list[Solid]:
    """Order solids for painting: whatever may hide another comes after it.

    Two convex bodies that a face of one separates cannot hide each other except one way, told by the side of that plane
    on which the eye is. Pairs without such a face (they overlap, or only an edge separates them) follow distance.
    """
    behind = [
        {j for j, b in enumerate(solids) if i != j and _must_precede(b, a, eye)} for i, a in enumerate(solids)
    ]  # behind[i]: what must be painted before i
    distance = [float(np.linalg.norm(s.corners().mean(0) - eye)) for s in solids]
    left, ordered = set(range(len(solids))), []
    while left:
        free = [i for i in left if not behind[i] & left] or list(left)
        farthest = max(free, key=lambda i: distance[i])
        ordered.append(solids[farthest])
        left.remove(farthest)
    return ordered


def _must_precede(b: Solid, a: Solid, eye: np.ndarray) -> bool:
    """Tell whether ``a`` may hide ``b`` and not the other way round."""
    return _cannot_hide(b, a, eye) and not _cannot_hide(a, b, eye)


def _cannot_hide(a: Solid, b: Solid, eye: np.ndarray, slack: float = 0.02) -> bool:
    """Tell whether a plane between two solids, a face of one of them, has ``b`` and the eye on one side."""
    of_a, of_b = (np.concatenate([face.corners for face in solid.faces]) for solid in (a, b))
    return any(face.height(eye) > 0 and face.height(of_b).min() >= -slack for face in a.faces) or any(
        face.height(eye) <= 0 and face.height(of_a).min() >= -slack for face in b.faces
    )


@dataclass(frozen=True)
class Sun:
    """Light on painted faces: ``direction`` is a unit vector to the sun, the sky adds to what faces up."""

    direction: tuple[float, float, float]
    ambient: float = 0.60
    direct: float = 0.42
    sky: float = 0.14

    def shade(self, normal: np.ndarray) -> float:
        """Return the brightness factor of a face."""
        return (
            self.ambient
            + self.direct * max(float(normal @ np.asarray(self.direction)), 0.0)
            + self.sky * max(float(normal[2]), 0.0)
        )


def paint(draw: ImageDraw.ImageDraw, solids: Sequence[Solid], camera: Pinhole, sun: Sun) -> None:
    """Paint solids with their marks and plates, the farthest first; what faces away is left out."""
    for solid in back_to_front(solids, camera.position):
        for face in (*solid.faces, *solid.plates):
            if face.height(camera.position) <= 0:
                continue
            shade = sun.shade(face.normal)
            for polygon, colour in ((face.corners, face.colour), *face.marks):
                draw.polygon(
                    list(map(tuple, camera.project(polygon))), fill=ink(tuple(min(shade * c, 1.0) for c in colour))
                )


def clip_near(polygon: np.ndarray, camera: Pinhole, near: float = 0.5) -> np.ndarray:
    """Cut off what lies nearer than ``near`` metres to the image plane; may return an empty array."""
    ahead = camera.coordinates(polygon)[:, 2] - near
    kept = []
    for k in range(len(polygon)):
        a, b, da, db = polygon[k - 1], polygon[k], ahead[k - 1], ahead[k]
        if (da > 0) != (db > 0):
            kept.append(a + (b - a) * da / (da - db))
        if db > 0:
            kept.append(b)
    return np.array(kept).reshape(-1, 3)
