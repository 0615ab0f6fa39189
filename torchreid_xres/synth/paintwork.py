"""What is painted on a vehicle's faces: glass, lamps, grille, plates, doors, bands, stickers, rims."""

from __future__ import annotations

import numpy as np

from .cloth import Colour
from .emblems import outlines
from .polyhedra import Face
from .vehicle import Model, Vehicle

GLASS = (0.17, 0.20, 0.24)
SHEEN = (0.34, 0.39, 0.44)
TYRE = (0.09, 0.09, 0.10)
DARK = (0.07, 0.07, 0.08)
CHROME = (0.80, 0.81, 0.83)


def shade(colour: Colour, factor: float) -> Colour:
    """Return a colour made darker (factor below 1) or lighter."""
    return tuple(min(factor * c, 1.0) for c in colour)


def emblem(face: Face, shape: str, u: float, v: float, radius: float, colour: Colour, number: int = 0) -> None:
    """Paint one of ``emblems.EMBLEMS`` on a quad, its middle at (u, v), its radius in metres."""
    width, height = face.size()
    for outline in outlines(shape, number):
        face.mark(np.column_stack([u + radius / width * outline[:, 0], v - radius / height * outline[:, 1]]), colour)


def plate(face: Face, vehicle: Vehicle, v: float) -> None:
    """Paint the licence plate in the middle of a quad, at height v."""
    width, height = face.size()
    du, dv = 0.26 / width, 0.065 / height
    face.box(0.5 - du, v - dv, 0.5 + du, v + dv, vehicle.plate)
    stroke = DARK if sum(vehicle.plate) > 1.4 else (0.95, 0.95, 0.95)
    # Strokes in the place of letters: the pattern is the number's own, though too small to be read from afar.
    for k in range(6):
        if (vehicle.number * 7 + 11) >> k & 1:
            u = 0.5 + du * (-0.8 + 0.29 * k)
            face.box(u, v - 0.6 * dv, u + 0.17 * du, v + 0.6 * dv, stroke)


def grille(face: Face, vehicle: Vehicle) -> None:
    """Paint the grille with its bars and the maker's badge."""
    light = vehicle.grille_colour[0] >= 0.5
    face.box(0.12, 0.10, 0.88, 0.86, shade(vehicle.grille_colour, 0.5))
    for k in range(vehicle.grille):
        v = 0.14 + 0.72 * k / vehicle.grille
        face.box(0.14, v, 0.86, v + 0.30 / vehicle.grille, DARK if light else shade(CHROME, 0.9))
    emblem(face, "disc", 0.5, 0.5, 0.09, CHROME)


def headlight(face: Face, vehicle: Vehicle) -> None:
    """Paint a headlight."""
    half = 0.45 * vehicle.lamp
    face.box(0.08, 0.5 - half, 0.92, 0.5 + half, (0.93, 0.94, 0.92))
    emblem(face, "disc", 0.5, 0.5, 0.10, (0.62, 0.66, 0.70))


def rear_lamp(face: Face, vehicle: Vehicle) -> None:
    """Paint a rear lamp with its indicator."""
    half = 0.5 * vehicle.lamp
    face.box(0.08, 0.5 - half, 0.92, 0.5 + half, (0.80, 0.07, 0.06))
    face.box(0.25, 0.5 - 0.3 * half, 0.75, 0.5 + 0.1 * half, (0.95, 0.62, 0.25))


def band(upper: Face, lower: Face, vehicle: Vehicle) -> None:
    """Paint this part of the band that runs around the body, on the upper belt and, if double, on the lower one."""
    v, colour = vehicle.band_height, vehicle.band_colour
    if vehicle.band in ("single", "double"):
        upper.box(0.0, v - 0.13, 1.0, v + 0.13, colour)
    if vehicle.band == "double":
        lower.box(0.0, 0.60, 1.0, 0.80, colour)
    if vehicle.band == "blocks":
        count = max(round(upper.size()[0] / 0.28), 1)
        for k in range(count):
            upper.box((k + 0.25) / count, v - 0.16, (k + 0.75) / count, v + 0.16, colour)


def doors(upper: Face, lower: Face, vehicle: Vehicle, seams: list[float], left: bool) -> None:
    """Paint sill, seams, handles and emblem on one side.

    Args:
        upper, lower: the side's two belts.
        seams: places of the seams as shares of the side's length, from the front.
        left: which side; it decides where the front is.
    """

    def along(face: Face, u0: float, v0: float, u1: float, v1: float, colour: Colour) -> None:
        face.box(*((u0, v0, u1, v1) if left else (1 - u1, v0, 1 - u0, v1)), colour)

    along(lower, 0.0, 0.0, 1.0, 0.16, shade(vehicle.bumper, 0.8))
    for u in seams:
        along(upper, u - 0.003, 0.0, u + 0.003, 1.0, shade(vehicle.paint, 0.55))
        along(lower, u - 0.003, 0.2, u + 0.003, 1.0, shade(vehicle.paint, 0.55))
    for u in seams[:-1]:
        along(upper, u + 0.10, 0.66, u + 0.14, 0.80, CHROME)
    if vehicle.side_mark:
        u = vehicle.side_place if left else 1 - vehicle.side_place
        emblem(upper, vehicle.side_mark, u, 0.30, 0.19, vehicle.mark_colour, vehicle.number)


def windscreen(face: Face, vehicle: Vehicle) -> None:
    """Paint the windscreen and its sticker."""
    face.box(0.05, 0.06, 0.95, 0.93, shade(GLASS, vehicle.tint))
    face.mark([(0.12, 0.10), (0.30, 0.10), (0.55, 0.90), (0.37, 0.90)], shade(SHEEN, vehicle.tint))
    if vehicle.screen_sticker is not None:
        u = 0.5 + 0.38 * vehicle.screen_sticker
        face.box(u - 0.07, 0.70, u + 0.07, 0.90, vehicle.mark_colour)


def rear_window(face: Face, vehicle: Vehicle) -> None:
    """Paint the rear window and its emblem."""
    face.box(0.05, 0.22, 0.95, 0.93, shade(GLASS, vehicle.tint))
    face.mark([(0.55, 0.26), (0.68, 0.26), (0.85, 0.88), (0.72, 0.88)], shade(SHEEN, vehicle.tint))
    if vehicle.rear_mark:
        emblem(face, vehicle.rear_mark, 0.3, 0.55, 0.14, vehicle.mark_colour, vehicle.number)


def side_windows(face: Face, vehicle: Vehicle, model: Model) -> None:
    """Paint the windows of one side, which are the same from the front and from the rear."""
    edges, low = np.linspace(0.05, 0.95, model.panes + 1), model.sill
    for u0, u1 in zip(edges[:-1] + 0.018, edges[1:] - 0.018, strict=True):
        face.box(u0, low, u1, 0.94, shade(GLASS, vehicle.tint))
        u = u0 + (u1 - u0) * np.array([0.2, 0.4, 0.7, 0.5])
        v = (low + 0.04, low + 0.04, 0.90, 0.90)
        face.mark(np.column_stack([u, v]), shade(SHEEN, vehicle.tint))


def box_side(face: Face, vehicle: Vehicle) -> None:
    """Paint band and emblem on a side of a truck's box."""
    v, colour = vehicle.band_height, vehicle.band_colour
    if vehicle.band != "none":
        face.box(0.0, v - 0.05, 1.0, v + 0.05, colour)
    if vehicle.band == "double":
        face.box(0.0, v - 0.17, 1.0, v - 0.11, colour)
    if vehicle.side_mark:
        emblem(face, vehicle.side_mark, 0.5, 0.55, 0.42, vehicle.mark_colour, vehicle.number)


def rim(wheel: Face, vehicle: Vehicle, hub: np.ndarray, across: np.ndarray, up: np.ndarray) -> None:
    """Paint rim and spokes on a wheel.

    Args:
        wheel: the face.
        vehicle: whose.
        hub: its middle (3,).
        across, up: the wheel's radius as vectors (3,) in its plane.
    """

    def ring(angles: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
        return hub + (radius * np.sin(angles))[:, None] * across + (radius * np.cos(angles))[:, None] * up

    turn = np.arange(24) * 2 * np.pi / 24
    wheel.marks.append((ring(turn, 0.66), vehicle.rim))
    for k in range(vehicle.spokes):
        angles = 2 * np.pi * (k + np.array([0.5, 0.22, 0.5, 0.78])) / vehicle.spokes
        wheel.marks.append((ring(angles, np.array([0.16, 0.50, 0.58, 0.50])), DARK))
    wheel.marks.append((ring(turn, 0.12), shade(vehicle.rim, 0.8)))
