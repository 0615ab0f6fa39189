"""Takes pictures of vehicles: a camera around them, the road under them, and where their keypoints fall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .cloth import Colour, ink
from .coachwork import Coachwork
from .polyhedra import Pinhole, Sun, clip_near, paint
from .scene import Look, clouds, generator
from .vehicle import orientation_code

SUPERSAMPLING = 2
#: Longer side of the pictures, pixels, from and below.
LONGER = (128, 193)


@dataclass(frozen=True)
class Road:
    """The place of one camera.

    Args:
        asphalt, verge, line: colours of the road, of what is beside it, and of its markings.
        lane: width of a lane, metres.
        kerb: distance from the vehicle's lane to the verge, in lanes, left and right.
        sun: the light.
        look: how the camera renders it.
    """

    asphalt: Colour
    verge: Colour
    line: Colour
    lane: float
    kerb: tuple[int, int]
    sun: Sun
    look: Look

    @classmethod
    def draw(cls, seed: int, camera: int) -> Road:
        """Draw the place of a camera, counted from 0."""
        rng = generator(seed, "road", camera)
        tone = rng.uniform(0.34, 0.50)
        verges = ((0.34, 0.46, 0.24), (0.58, 0.56, 0.52), (0.50, 0.44, 0.36), (0.40, 0.50, 0.30))
        direction = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.8, 1.5)])
        return cls(
            asphalt=(tone, tone, tone * rng.uniform(0.98, 1.06)),
            verge=verges[rng.integers(len(verges))],
            line=((0.86, 0.86, 0.84), (0.84, 0.72, 0.28))[rng.integers(2)],
            lane=rng.uniform(3.2, 3.7),
            kerb=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
            sun=Sun(tuple(direction / np.linalg.norm(direction))),
            look=Look.draw(rng),
        )


@dataclass(frozen=True)
class Photograph:
    """A picture of a vehicle and its annotation.

    Args:
        image: RGB.
        keypoints: int (20, 2), pixel x and y of each point, -1 -1 where it is hidden or outside.
        orientation: code, see ``vehicle.ORIENTATIONS``.
    """

    image: Image.Image
    keypoints: np.ndarray
    orientation: int


def passing(coachwork: Coachwork, road: Road, shot: int, shots: int, key: tuple[int | str, ...]) -> Photograph:
    """Take one of the pictures of a vehicle that passes a camera.

    Args:
        coachwork: the vehicle.
        road: the camera's place.
        shot, shots: number of the picture and of all; together they go around the vehicle.
        key: seeds the camera's place about the vehicle, the box and the noise.
    """
    rng = generator(*key, "shot", shot)
    # All pictures of one camera start at the same angle, or they would not be spread evenly.
    first = generator(*key).uniform(0, 360)
    azimuth = (first + 360 * (shot + rng.uniform(-0.2, 0.2)) / shots) % 360
    length = 2 * coachwork.corners()[:, 0].max()
    return photograph(
        coachwork,
        road,
        azimuth,
        elevation=rng.uniform(9, 21),
        distance=length * rng.uniform(1.9, 3.2),
        longer=int(rng.integers(*LONGER)),
        rng=rng,
    )


def photograph(
    coachwork: Coachwork,
    road: Road,
    azimuth: float,
    elevation: float,
    distance: float,
    longer: int,
    rng: np.random.Generator,
) -> Photograph:
    """Take a picture, cut out around the vehicle as a detector would.

    Args:
        coachwork: the vehicle.
        road: the place.
        azimuth, elevation: of the camera seen from the vehicle, degrees; azimuth 0 is in front, 90 at its left.
        distance: metres from the vehicle's middle.
        longer: longer side of the picture, pixels.
        rng: draws the margins of the box, the vehicle's place in its lane and the camera's noise.
    """
    camera, (height, width) = _aim(coachwork, azimuth, elevation, distance, longer, rng)
    image = _ground(coachwork, road, camera, (height * SUPERSAMPLING, width * SUPERSAMPLING), rng)
    draw = ImageDraw.Draw(image)
    paint(draw, coachwork.underneath, camera, road.sun)
    paint(draw, coachwork.solids, camera, road.sun)
    rgb = np.asarray(image, np.float32) / 255
    points = camera.project(np.array([landmark.point for landmark in coachwork.landmarks])) / SUPERSAMPLING
    pixels = np.floor(points).astype(int)
    seen = coachwork.visible(camera) & (pixels >= 0).all(1) & (pixels < (width, height)).all(1)
    return Photograph(
        road.look.finish(rgb, (height, width), rng),
        np.where(seen[:, None], pixels, -1),
        orientation_code(azimuth),
    )


def _aim(
    coachwork: Coachwork, azimuth: float, elevation: float, distance: float, longer: int, rng: np.random.Generator
) -> tuple[Pinhole, tuple[int, int]]:
    """Return a camera whose picture frames the vehicle, in supersampled pixels, and the picture's (height, width)."""
    a, e = np.radians(azimuth), np.radians(elevation)
    corners = coachwork.corners()
    target = np.array([0.0, 0.0, corners[:, 2].max() / 2])
    position = target + distance * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    unit = Pinhole(position, target, 1.0, (0.0, 0.0)).project(corners)
    low, high = unit.min(0), unit.max(0)
    # A detector's box: mostly a little wide, now and then a little tight.
    before, after = rng.uniform(-0.015, 0.08, (2, 2)) * (high - low)
    low, high = low - before, high + after
    focal = longer / float((high - low).max())
    width, height = (max(int(side), 1) for side in np.round((high - low) * focal))
    focal *= SUPERSAMPLING
    return Pinhole(position, target, focal, (-low[0] * focal, -low[1] * focal)), (height, width)


def _ground(
    coachwork: Coachwork, road: Road, camera: Pinhole, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """Draw road, markings, verge and the vehicle's shadow."""
    height, width = size
    image = Image.new("RGB", (width, height), ink(road.verge))
    draw = ImageDraw.Draw(image)
    shift = rng.uniform(-0.5, 0.5)
    left, right = (side * road.lane for side in (road.kerb[0] - 0.5, 0.5 - road.kerb[1]))

    def strip(x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        area = np.array([(x0, y0 + shift, 0.0), (x1, y0 + shift, 0.0), (x1, y1 + shift, 0.0), (x0, y1 + shift, 0.0)])
        area = clip_near(area, camera)
        if len(area) > 2:
            draw.polygon(list(map(tuple, camera.project(area))), fill=ink(colour))

    strip(-60, 60, right, left, road.asphalt)
    for y in (left, right):
        strip(-60, 60, y - 0.12, y + 0.12, (0.70, 0.70, 0.68))
    phase = rng.uniform(0, 6)
    for lane in range(-road.kerb[1] + 1, road.kerb[0]):
        y = (lane - 0.5) * road.lane if lane > 0 else (lane + 0.5) * road.lane
        if not right < y < left:
            continue
        for x in np.arange(-30 + phase, 30, 6.0):
            strip(x, x + 3.0, y - 0.07, y + 0.07, road.line)
    grain = clouds(rng, height, width, cells=60, octaves=3) * 0.09 + clouds(rng, height, width, cells=4) * 0.09
    rgb = np.asarray(image, np.float32) * (1 + grain[..., None])
    rgb *= 1 - 0.62 * _shadow(coachwork, road.sun, camera, size)[..., None]
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def _shadow(coachwork: Coachwork, sun: Sun, camera: Pinhole, size: tuple[int, int]) -> np.ndarray:
    """Return how much of the ground at each pixel is in the vehicle's shadow, 0 to 1."""
    mask = Image.new("L", size[::-1], 0)
    draw = ImageDraw.Draw(mask)
    sx, sy, sz = sun.direction
    for solid in (*coachwork.underneath, *coachwork.solids):
        for face in solid.faces:
            fallen = face.corners - face.corners[:, 2:] * np.array([sx / sz, sy / sz, 1.0])
            draw.polygon(list(map(tuple, camera.project(fallen))), fill=255)
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(size[0] / 90)), np.float32) / 255
