"""A small z-buffered renderer for bodies made of textured capsules and lathed forms.

Lengths are in body heights, with X to the person's left, Y up and Z to the front. The view is orthographic: a yaw about
the vertical axis (0 = seen from the front, pi / 2 = the left side), and a slight tilt for a camera above eye level.
Textures are float arrays (rows, columns, 3 or 4) in [0, 1]; columns run once around the form, the middle column being
its front, and rows from top to bottom. A fourth channel below one half is a hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """Where the body is seen from and where it stands in the picture.

    Args:
        yaw: turn of the body, radians; 0 shows its front, pi / 2 its left side.
        tilt: camera pitch, radians; positive looks down.
        scale: pixels per body height.
        foot: pixel (x, y) of the point on the ground between the feet.
        light: unit vector to the light in view axes (right, up, towards the camera).
    """

    yaw: float
    tilt: float
    scale: float
    foot: tuple[float, float]
    light: Point

    def project(self, point: Point) -> tuple[float, float, float]:
        """Return pixel x, pixel y and the depth towards the camera, in pixels."""
        x, y, z = point
        right = x * np.cos(self.yaw) + z * np.sin(self.yaw)
        near = z * np.cos(self.yaw) - x * np.sin(self.yaw)
        up = y * np.cos(self.tilt) - near * np.sin(self.tilt)
        return (
            self.foot[0] + right * self.scale,
            self.foot[1] - up * self.scale,
            (near * np.cos(self.tilt) + y * np.sin(self.tilt)) * self.scale,
        )


class Canvas:
    """A picture with a depth buffer; what is nearer hides what is farther, in any drawing order.

    Args:
        background: float array (height, width, 3) in [0, 1]; it is drawn over.
        view: the camera.
    """

    AMBIENT = 0.62

    def __init__(self, background: np.ndarray, view: View) -> None:
        self.rgb = background
        self.view = view
        self._depth = np.full(background.shape[:2], -np.inf, np.float32)

    def capsule(self, start: Point, end: Point, radii: tuple[float, float], texture: np.ndarray) -> None:
        """Draw a round-ended, tapered limb from ``start`` (row 0 of the texture) to ``end``."""
        scale = self.view.scale
        (x0, y0, d0), (x1, y1, d1) = self.view.project(start), self.view.project(end)
        r0, r1 = radii[0] * scale, radii[1] * scale
        box = self._box(min(x0 - r0, x1 - r1), max(x0 + r0, x1 + r1), min(y0 - r0, y1 - r1), max(y0 + r0, y1 + r1))
        if box is None:
            return
        window, xs, ys = box
        ax, ay = x1 - x0, y1 - y0
        length2 = max(ax * ax + ay * ay, 1e-6)
        along = np.clip(((xs - x0) * ax + (ys - y0) * ay) / length2, 0.0, 1.0)
        radius = r0 + (r1 - r0) * along
        dx, dy = (xs - x0 - along * ax) / radius, (ys - y0 - along * ay) / radius
        square = dx * dx + dy * dy
        bulge = np.sqrt(np.maximum(1.0 - square, 0.0))
        # The offset across the limb, signed like image x for a limb that hangs down, tells how far around it we are.
        across = (dx * ay - dy * ax) / np.sqrt(length2)
        around = np.arcsin(np.clip(across, -1.0, 1.0)) - self.view.yaw
        depth = d0 + (d1 - d0) * along + radius * bulge
        self._paint(window, square < 1.0, depth, (dx, -dy, bulge), around, along, texture)

    def lathe(self, bottom: Point, top: Point, profile: np.ndarray, texture: np.ndarray) -> None:
        """Draw an upright form with elliptic cross-sections.

        Args:
            bottom, top: centres of the lowest and the highest cross-section.
            profile: rows (t, half width, half depth), t rising from 0 at the bottom to 1 at the top.
            texture: see the module's text; row 0 is the top.
        """
        view = self.view
        (x0, y0, d0), (x1, y1, d1) = view.project(bottom), view.project(top)
        reach = float(profile[:, 1:].max()) * view.scale
        box = self._box(min(x0, x1) - reach, max(x0, x1) + reach, y1, y0)
        if box is None:
            return
        window, xs, ys = box
        height = (y0 - ys) / (y0 - y1)
        cos, sin = np.cos(view.yaw), np.sin(view.yaw)
        a = np.interp(height, profile[:, 0], profile[:, 1]).astype(np.float32) * view.scale
        b = np.interp(height, profile[:, 0], profile[:, 2]).astype(np.float32) * view.scale
        # An ellipse (a sin, b cos) turned by the yaw is seen as a sine of width w with a phase.
        w = np.sqrt((a * cos) ** 2 + (b * sin) ** 2) + 1e-6
        offset = (xs - x0 - (x1 - x0) * height) / w
        around = np.arcsin(np.clip(offset, -1.0, 1.0)) - np.arctan2(b * sin, a * cos)
        east, north = np.sin(around), np.cos(around)
        depth = d0 + (d1 - d0) * height + b * north * cos - a * east * sin
        nx, nz = east * b, north * a
        norm = np.sqrt(nx * nx + nz * nz) + 1e-6
        normal = ((nx * cos + nz * sin) / norm, np.float32(0.15), (nz * cos - nx * sin) / norm)
        self._paint(window, np.abs(offset) < 1.0, depth, normal, around, 1.0 - height, texture)

    def _box(
        self, left: float, right: float, top: float, bottom: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
        """Clip a rectangle to the picture; return its slices and pixel-centre coordinates, or None if it is outside."""
        height, width = self._depth.shape
        rows = slice(max(int(np.floor(top)), 0), min(int(np.ceil(bottom)) + 1, height))
        columns = slice(max(int(np.floor(left)), 0), min(int(np.ceil(right)) + 1, width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        ys = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5
        xs = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5
        return (rows, columns), xs, ys

    def _paint(
        self,
        window: tuple[slice, slice],
        inside: np.ndarray,
        depth: np.ndarray,
        normal: Sequence[np.ndarray | float],
        around: np.ndarray,
        along: np.ndarray,
        texture: np.ndarray,
    ) -> None:
        """Paint the pixels of a window that are inside the form and nearer than what is there.

        Args:
            window: rows and columns.
            inside: bool, for each pixel.
            depth: towards the camera.
            normal: right, up and towards the camera; any part may be one number for all pixels.
            around, along: place on the form: radians from its front, and 0 at the texture's first row to 1.
            texture: see the module's text.
        """
        inside = inside & (along >= 0.0) & (along <= 1.0) & (depth > self._depth[window])
        if not inside.any():
            return
        rows, columns = texture.shape[:2]
        around, along = np.broadcast_to(around, inside.shape)[inside], np.broadcast_to(along, inside.shape)[inside]
        column = ((around / (2 * np.pi) + 0.5) * columns).astype(np.int32) % columns
        row = np.minimum((along * rows).astype(np.int32), rows - 1)
        colour = texture[row, column]
        if texture.shape[2] == 4:
            solid = colour[:, 3] >= 0.5
            inside[inside] = solid
            colour = colour[solid, :3]
        parts = zip(normal, self.view.light, strict=True)
        facing = sum(np.broadcast_to(part, inside.shape)[inside] * axis for part, axis in parts)
        shade = self.AMBIENT + (1.0 - self.AMBIENT) * np.maximum(facing, 0.0) * 1.25
        self._depth[window][inside] = np.broadcast_to(depth, inside.shape)[inside]
        self.rgb[window][inside] = colour * shade[:, None]
