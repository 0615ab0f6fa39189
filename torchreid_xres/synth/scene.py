"""What surrounds a subject: backgrounds with texture, and how a camera renders colours, light, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SCENES = ("street", "brick wall", "park", "hall")


def generator(*key: int | str) -> np.random.Generator:
    """Return a random generator that depends on the key alone, never on what was drawn before.

    Args:
        *key: non-negative integers and non-empty words, e.g. ``generator(seed, "camera", 2)``.
    """
    return np.random.default_rng(
        [int.from_bytes(part.encode(), "big") if isinstance(part, str) else part for part in key]
    )


def clouds(rng: np.random.Generator, height: int, width: int, cells: int, octaves: int = 3) -> np.ndarray:
    """Return smooth noise, float32 (height, width), mean about 0 and within [-1, 1].

    Args:
        cells: bumps across the longer side in the first octave; each further octave doubles them at half the strength.
    """
    total, weight = np.zeros((height, width), np.float32), 0.0
    for octave in range(octaves):
        count = cells * 2**octave
        shape = (max(count * height // max(height, width), 2), max(count * width // max(height, width), 2))
        grid = Image.fromarray(rng.uniform(-1, 1, shape).astype(np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) * 0.5**octave
        weight += 0.5**octave
    return np.clip(total / weight, -1.0, 1.0)


@dataclass(frozen=True)
class Look:
    """How one camera renders what it sees.

    Args:
        cast: gain of red, green and blue.
        gain: brightness of the whole picture.
        contrast: 1 keeps it; below 1 pulls towards grey.
        blur: Gaussian radius, pixels of the finished picture.
        noise: standard deviation of the sensor's noise, in [0, 1] units.
        light: unit vector to the light (right, up, towards the camera).
    """

    cast: tuple[float, float, float]
    gain: float
    contrast: float
    blur: float
    noise: float
    light: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        """Draw a camera: moderate differences, since identity must stay the larger one."""
        light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.9)])
        return cls(
            cast=tuple(rng.uniform(0.93, 1.07, 3)),
            gain=rng.uniform(0.85, 1.12),
            contrast=rng.uniform(0.85, 1.05),
            blur=rng.uniform(0.15, 0.45),
            noise=rng.uniform(0.006, 0.016),
            light=tuple(light / np.linalg.norm(light)),
        )

    def finish(self, rgb: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
        """Turn a supersampled drawing into the camera's picture.

        Args:
            rgb: float (height, width, 3), nominally in [0, 1]; each side a multiple of the wanted one.
            size: (height, width) of the picture.
            rng: draws this exposure's brightness and noise.
        """
        factor = rgb.shape[0] // size[0]
        # Much faster than a mean over the reshaped array's axes.
        rgb = sum(rgb[i::factor, j::factor] for i in range(factor) for j in range(factor)) / factor**2
        rgb = (rgb - 0.45) * self.contrast + 0.45
        rgb = rgb * np.asarray(self.cast, np.float32) * (self.gain * rng.uniform(0.93, 1.07))
        image = Image.fromarray(_bytes(rgb)).filter(ImageFilter.GaussianBlur(self.blur * rng.uniform(0.7, 1.4)))
        grain = rng.normal(0.0, self.noise, rgb.shape)
        return Image.fromarray(_bytes(np.asarray(image, np.float32) / 255 + grain))


def _bytes(rgb: np.ndarray) -> np.ndarray:
    return np.round(np.clip(rgb, 0.0, 1.0) * 255).astype(np.uint8)


class Backdrop:
    """A place one camera looks at: drawn once, wide, then cropped at a different spot for each picture.

    Args:
        rng: draws the place.
        kind: one of ``SCENES``.
        size: (height, width) of the crops, pixels.
    """

    def __init__(self, rng: np.random.Generator, kind: str, size: tuple[int, int]) -> None:
        if kind not in _PAINTERS:
            raise ValueError(f"no scene {kind!r}; there are {', '.join(SCENES)}")
        height, width = size
        self._size = size
        self._margin = height // 8
        image = Image.new("RGB", (4 * width, height + self._margin))
        _PAINTERS[kind](ImageDraw.Draw(image), rng, *image.size)
        rgb = np.asarray(image.filter(ImageFilter.GaussianBlur(height / 250)), np.float32) / 255
        grain = clouds(rng, *rgb.shape[:2], cells=60, octaves=4) * 0.10 + clouds(rng, *rgb.shape[:2], cells=5) * 0.10
        self._rgb = np.clip(rgb * (1 + grain[..., None]), 0, 1).astype(np.float32)

    def crop(self, rng: np.random.Generator) -> np.ndarray:
        """Return a crop as a new float array (height, width, 3)."""
        height, width = self._size
        top = rng.integers(self._margin + 1)
        left = rng.integers(self._rgb.shape[1] - width + 1)
        view = self._rgb[top : top + height, left : left + width]
        return (view[:, ::-1] if rng.random() < 0.5 else view).copy()


def _tone(rng: np.random.Generator, colour: tuple[int, int, int], spread: int = 12) -> tuple[int, int, int]:
    return tuple(int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in colour)


def _street(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """House fronts with windows and shops, a pavement with slabs, a kerb and a road."""
    ground, kerb = int(0.70 * height), int(0.93 * height)
    x = 0
    while x < width:
        front = int(rng.uniform(0.35, 0.7) * height)
        wall = _tone(rng, [(168, 152, 132), (150, 150, 152), (186, 176, 160), (140, 118, 104)][rng.integers(4)])
        draw.rectangle((x, 0, x + front, ground), fill=wall)
        for row in range(3):
            for column in range(3):
                left, top = x + (0.1 + 0.31 * column) * front, (0.03 + 0.22 * row) * height
                glass = _tone(rng, (92, 100, 110), 12)
                draw.rectangle(
                    (left, top, left + 0.2 * front, top + 0.15 * height),
                    fill=glass,
                    outline=_tone(rng, (214, 210, 204)),
                    width=3,
                )
        x += front
    draw.rectangle((0, ground, width, kerb), fill=_tone(rng, (150, 148, 144)))
    for x in range(0, width, height // 6):
        draw.line((x, ground, x - height // 9, kerb), fill=(124, 122, 120), width=2)
    draw.line((0, (ground + kerb) // 2, width, (ground + kerb) // 2), fill=(124, 122, 120), width=2)
    draw.rectangle((0, kerb, width, height), fill=_tone(rng, (92, 92, 96)))


def _brick_wall(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """Bricks with joints above a paved ground."""
    ground, brick = int(0.76 * height), height // 34
    body = [(150, 92, 74), (172, 138, 108), (128, 116, 110)][rng.integers(3)]
    draw.rectangle((0, 0, width, ground), fill=_tone(rng, (176, 168, 158)))
    for row, y in enumerate(range(0, ground, brick)):
        for x in range(-brick * (row % 2) * 3 // 2, width, 3 * brick):
            draw.rectangle((x + 1, y + 1, x + 3 * brick - 2, min(y + brick - 2, ground)), fill=_tone(rng, body, 10))
    draw.rectangle((0, ground, width, height), fill=_tone(rng, (134, 132, 128)))


def _park(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """Trees against the sky, a lawn and a path."""
    horizon, path = int(0.52 * height), int(0.80 * height)
    draw.rectangle((0, 0, width, horizon), fill=_tone(rng, (176, 196, 214)))
    for _ in range(26):
        x, size = rng.uniform(0, width), rng.uniform(0.12, 0.26) * height
        y = horizon - rng.uniform(0.5, 1.7) * size
        draw.rectangle((x - size / 12, y, x + size / 12, horizon + 4), fill=_tone(rng, (82, 66, 52)))
        for _ in range(5):
            dx, dy, r = rng.uniform(-0.5, 0.5) * size, rng.uniform(-0.5, 0.5) * size, rng.uniform(0.35, 0.6) * size
            draw.ellipse((x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=_tone(rng, (66, 98, 58), 18))
    draw.rectangle((0, horizon, width, path), fill=_tone(rng, (104, 138, 74)))
    for _ in range(900):
        x, y = rng.uniform(0, width), rng.uniform(horizon, path)
        draw.line((x, y, x + rng.uniform(-4, 4), y - rng.uniform(3, 9)), fill=_tone(rng, (92, 128, 66), 22), width=1)
    draw.rectangle((0, path, width, height), fill=_tone(rng, (178, 164, 138)))


def _hall(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """An indoor hall: wall panels, posters, a skirting board and a tiled floor."""
    ground = int(0.74 * height)
    draw.rectangle((0, 0, width, ground), fill=_tone(rng, (204, 200, 190)))
    panel = int(0.32 * height)
    for x in range(0, width, panel):
        draw.line((x, 0, x, ground), fill=(176, 172, 164), width=4)
        if rng.random() < 0.5:
            left, top = x + 0.2 * panel, rng.uniform(0.1, 0.3) * height
            draw.rectangle((left, top, left + 0.5 * panel, top + 0.25 * height), fill=_tone(rng, (130, 140, 150), 60))
    draw.rectangle((0, ground - height // 40, width, ground), fill=(110, 98, 88))
    draw.rectangle((0, ground, width, height), fill=_tone(rng, (164, 158, 150)))
    for x in range(-width, 2 * width, height // 7):
        draw.line((x, height, x + (width / 2 - x) * 0.25, ground), fill=(142, 136, 130), width=2)
    for k in (0.2, 0.55):
        y = ground + k * (height - ground)
        draw.line((0, y, width, y), fill=(142, 136, 130), width=2)


_PAINTERS = dict(zip(SCENES, (_street, _brick_wall, _park, _hall), strict=True))
