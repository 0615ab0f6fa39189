"""Textures of a person's garments, face and hair; sizes in body heights, as ``figure.py`` needs them."""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw

from .cloth import RESOLUTION, Colour, cloth, draw_on, emblem, ink
from .person import Person
from .scene import clouds

_HEAD = (72, 144)
#: Where the sleeve ends and where the leg of the trousers does, as a share of the limb; others reach the whole way.
_CUFFS = {"t-shirt": 0.40, "vest": 0.0}
_HEMS = {"trousers": 1.0, "shorts": 0.52}
#: How low hair falls behind, and how low it hangs on the forehead, as shares of the shell it is painted on.
_NAPES = {"bald": 0.0, "crop": 0.42, "short": 0.60, "bun": 0.62, "ponytail": 0.62}
_BROWS = {"crop": 0.20, "curls": 0.30}


def _folded(rng: np.random.Generator, texture: np.ndarray) -> np.ndarray:
    """Shade cloth as if it lay in folds."""
    folds = 0.10 * clouds(rng, *texture.shape[:2], cells=6, octaves=2)
    return np.clip(texture * (1 + folds[..., None]), 0, 1)


def _dim(colour: Colour, factor: float) -> tuple[int, int, int]:
    return ink(tuple(factor * c for c in colour))


def torso(person: Person, rng: np.random.Generator, height: float) -> np.ndarray:
    """Return the upper garment's texture, with collar, opening, emblems and the straps of bags."""
    p = person
    around = 2 * np.pi * 0.095 * p.girth
    texture = cloth(height, around, p.upper_colour, kind=p.pattern, accent=p.accent, pitch=p.pitch)
    texture = draw_on(_folded(rng, texture), False, lambda draw, x, rows: _chest(p, draw, x, rows))
    if p.emblem:
        radius = 1.25 * p.emblem_radius * RESOLUTION

        def back(draw: ImageDraw.ImageDraw, x: float, rows: int) -> None:
            emblem(draw, p.emblem, x, 0.36 * rows, radius, p.emblem_colour, p.number)

        texture = draw_on(texture, True, back)
    return _sling(texture, p) if p.bag == "shoulder bag" else texture


def _chest(p: Person, draw: ImageDraw.ImageDraw, x: float, rows: int) -> None:
    seam = _dim(p.upper_colour, 0.6)
    if p.upper in ("jacket", "coat"):
        # Open: wide at the collar, narrow at the hem, with what is worn below in the accent's colour.
        wide, narrow = 0.034 * RESOLUTION, 0.010 * RESOLUTION
        corners = [(x - wide, 0), (x + wide, 0), (x + narrow, rows), (x - narrow, rows)]
        draw.polygon(corners, fill=ink(p.accent))
        for side in (-1, 1):
            draw.line((x + side * wide, 0, x + side * narrow, rows), fill=seam, width=3)
    elif p.upper == "shirt":
        draw.line((x, 0, x, rows), fill=seam, width=2)
        for y in np.arange(0.12, 1.0, 0.13) * rows:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(240, 240, 235))
    elif p.upper == "hoodie":
        draw.rounded_rectangle((x - 34, 0.66 * rows, x + 34, 0.88 * rows), 9, outline=seam, width=3)
    else:
        r = 0.045 * RESOLUTION
        draw.ellipse((x - r, -1.1 * r, x + r, 1.1 * r), fill=ink(p.skin))
    if p.emblem:
        # What opens or buttons in front carries it on one side.
        aside = 0.052 * RESOLUTION if p.upper in ("jacket", "coat", "shirt") else 0.0
        y, radius = rows * (1 - p.emblem_height), p.emblem_radius * RESOLUTION
        emblem(draw, p.emblem, x + aside, y, radius, p.emblem_colour, p.number)
    if p.bag == "backpack":
        for side in (-1, 1):
            draw.line((x + side * 30, 0, x + side * 36, 0.55 * rows), fill=ink(p.bag_colour), width=9)


def _sling(texture: np.ndarray, p: Person) -> np.ndarray:
    """Lay the strap of a shoulder bag around the body, from one shoulder to the other hip."""
    rows, columns = texture.shape[:2]
    around = (np.arange(columns) + 0.5) / columns * 2 * np.pi - np.pi
    middle = rows * (0.45 + 0.42 * p.bag_side * np.sin(around))
    texture[np.abs(np.arange(rows)[:, None] - middle) < 0.011 * RESOLUTION] = p.bag_colour
    return texture


def sleeve(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Return one texture for the whole arm: cloth down to the cuff, then skin."""
    p = person
    pattern = {"kind": p.pattern, "accent": p.accent, "pitch": p.pitch}
    texture = _folded(rng, cloth(0.32, 2 * np.pi * 0.032, p.upper_colour, **pattern))
    texture[int(_CUFFS.get(p.upper, 0.97) * len(texture)) :] = p.skin
    return texture


def leg(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Return one texture for the whole leg: cloth with its side stripe, skin, sock."""
    p = person
    texture = _folded(rng, _lower_cloth(p, 0.46, 2 * np.pi * 0.05))
    rows, columns = texture.shape[:2]
    if p.side_stripe is not None:
        half = round(0.009 * RESOLUTION)
        for middle in (columns // 4, 3 * columns // 4):
            texture[:, middle - half : middle + half] = p.side_stripe
    texture[int(_HEMS.get(p.lower, 0.0) * rows) :] = p.skin
    if p.lower != "trousers":
        texture[int(0.90 * rows) :] = p.socks
    return texture


def _lower_cloth(p: Person, height: float, around: float) -> np.ndarray:
    return cloth(height, around, p.lower_colour, kind=p.lower_pattern, accent=p.lower_accent, pitch=p.lower_pitch)


def skirt(person: Person, height: float) -> np.ndarray:
    """Return the texture of a pleated skirt, with a stripe above the hem where trousers would have one at the side."""
    texture = _lower_cloth(person, height, 0.6)
    around = np.arange(texture.shape[1]) * 2 * np.pi / texture.shape[1]
    texture = np.clip(texture * (1 + 0.10 * np.sin(14 * around))[:, None], 0, 1).astype(np.float32)
    if person.side_stripe is not None:
        texture[-round(0.05 * RESOLUTION) : -round(0.025 * RESOLUTION)] = person.side_stripe
    return texture


def face(person: Person) -> np.ndarray:
    """Return the texture of the head without its hair."""
    p = person

    def front(draw: ImageDraw.ImageDraw, x: float, rows: int) -> None:
        for eye in (x - 11, x + 11):
            draw.ellipse((eye - 4, 31, eye + 4, 37), fill=(245, 245, 245))
            draw.ellipse((eye - 2, 31, eye + 2, 37), fill=(40, 30, 28))
            draw.line((eye - 5, 27, eye + 5, 27), fill=_dim(p.hair, 0.35), width=2)
            if p.glasses:
                draw.ellipse((eye - 9, 26, eye + 9, 42), fill=(46, 50, 58), outline=(20, 20, 22), width=3)
        draw.polygon([(x, 36), (x - 4, 47), (x + 4, 47)], fill=_dim(p.skin, 0.78))
        if p.beard:
            draw.chord((x - 30, 30, x + 30, 76), 10, 170, fill=ink(p.hair))
        draw.line((x - 6, 54, x + 6, 54), fill=(150, 70, 66), width=3)
        if p.glasses:
            draw.line((x - 40, 32, x + 40, 32), fill=(20, 20, 22), width=3)

    return draw_on(np.broadcast_to(np.asarray(p.skin, np.float32), (*_HEAD, 3)), False, front)


def hair(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Return hair as a shell around the head, with four channels: a hole shows the face."""
    rows, columns = _HEAD
    v = (np.arange(rows)[:, None] + 0.5) / rows
    around = np.abs((np.arange(columns) + 0.5) / columns * 2 * np.pi - np.pi)
    nape, brow = _NAPES.get(person.hair_style, 1.0), _BROWS.get(person.hair_style, 0.26)
    # From the brow in front the hair line drops to the nape at the ears.
    edge = brow + (nape - brow) * np.clip((around - 0.75) / 0.5, 0, 1)
    shine = 1 + 0.25 * clouds(rng, rows, columns, cells=18)
    texture = np.ones((rows, columns, 4), np.float32)
    texture[..., :3] = np.clip(np.asarray(person.hair) * shine[..., None], 0, 1)
    texture[..., 3] = v < edge
    return texture
