"""Textures of garments: colours, patterns and emblems, in body heights so that a pitch means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from .emblems import outlines

#: Texture pixels per body height; a person of 240 pixels is sampled about twice as finely at double drawing size.
RESOLUTION = 480

Colour = tuple[float, float, float]

GARMENT_COLOURS: dict[str, Colour] = {
    "white": (0.92, 0.92, 0.90), "grey": (0.55, 0.56, 0.58), "black": (0.13, 0.13, 0.15), "navy": (0.13, 0.17, 0.34),
    "blue": (0.20, 0.38, 0.70), "sky": (0.55, 0.72, 0.88), "denim": (0.27, 0.36, 0.50), "purple": (0.43, 0.26, 0.56),
    "red": (0.74, 0.15, 0.15), "wine": (0.42, 0.10, 0.17), "pink": (0.90, 0.58, 0.66), "orange": (0.89, 0.47, 0.15),
    "yellow": (0.90, 0.78, 0.25), "olive": (0.40, 0.42, 0.22), "green": (0.16, 0.46, 0.27), "mint": (0.60, 0.82, 0.70),
    "brown": (0.42, 0.28, 0.18), "beige": (0.80, 0.71, 0.56),
}  # fmt: skip
PATTERNS = ("plain", "hoops", "pinstripes", "checks", "dots", "diagonals")


def plain(colour: Colour) -> np.ndarray:
    """Return a one-pixel texture."""
    return np.asarray(colour, np.float32).reshape(1, 1, 3)


def cloth(
    height: float, around: float, base: Colour, kind: str = "plain", accent: Colour = (1, 1, 1), pitch: float = 0.04
) -> np.ndarray:
    """Return the texture of a piece of cloth.

    Args:
        height, around: its size in body heights.
        base, accent: the two colours, in [0, 1].
        kind: one of ``PATTERNS``.
        pitch: length of one repeat, body heights; around the body it is rounded so that the pattern closes.

    Returns:
        Float array (rows, columns, 3).

    Raises:
        ValueError: for an unknown pattern.
    """
    rows, columns = max(round(height * RESOLUTION), 2), max(round(around * RESOLUTION), 4)
    v = (np.arange(rows, dtype=np.float32)[:, None] + 0.5) / RESOLUTION / pitch
    u = (np.arange(columns, dtype=np.float32)[None, :] + 0.5) / columns * max(round(around / pitch), 2)
    if kind == "plain":
        share = np.zeros((rows, columns), np.float32)
    elif kind == "hoops":
        share = _step(np.sin(2 * np.pi * v) + 0 * u)
    elif kind == "pinstripes":
        share = _step(np.sin(2 * np.pi * u) + 0 * v)
    elif kind == "diagonals":
        share = _step(np.sin(2 * np.pi * (u + v)))
    elif kind == "checks":
        share = 0.5 * _step(np.sin(2 * np.pi * u) + 0 * v) + 0.5 * _step(np.sin(2 * np.pi * v) + 0 * u)
    elif kind == "dots":
        # Every second row is shifted by half a repeat.
        shift = 0.5 * (np.floor(v) % 2)
        share = _step(0.36 - np.hypot((u + shift) % 1 - 0.5, v % 1 - 0.5), 12.0)
    else:
        raise ValueError(f"no pattern {kind!r}; there are {', '.join(PATTERNS)}")
    base, accent = np.asarray(base, np.float32), np.asarray(accent, np.float32)
    return base + share[..., None] * (accent - base)


def _step(wave: np.ndarray, slope: float = 4.0) -> np.ndarray:
    """Turn a wave into bands with soft edges."""
    return np.clip(0.5 + slope * wave, 0.0, 1.0)


def draw_on(texture: np.ndarray, back: bool, draw: Callable[[ImageDraw.ImageDraw, float, int], None]) -> np.ndarray:
    """Return the texture after ``draw(ImageDraw, centre column, rows)`` has drawn on its front, or on its back."""
    shift = texture.shape[1] // 2 if back else 0
    image = Image.fromarray(np.round(np.roll(texture, shift, axis=1) * 255).astype(np.uint8))
    draw(ImageDraw.Draw(image), image.width / 2, image.height)
    return np.roll(np.asarray(image, np.float32) / 255, -shift, axis=1)


def ink(colour: Colour) -> tuple[int, int, int]:
    """Return a colour as PIL wants it."""
    return tuple(round(255 * c) for c in colour)


def emblem(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, colour: Colour, number: int = 0
) -> None:
    """Draw one of ``emblems.EMBLEMS`` about the pixel (x, y)."""
    for outline in outlines(shape, number):
        draw.polygon([(x + radius * px, y + radius * py) for px, py in outline], fill=ink(colour))
