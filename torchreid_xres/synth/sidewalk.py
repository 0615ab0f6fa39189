"""Takes pictures of people: several cameras, each with its place, its light and the side it mostly sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .canvas import View
from .figure import Figure, Pose
from .scene import SCENES, Backdrop, Look, generator

#: Heights of the pictures of the first, second and third camera, and so on in turn, pixels: the farther a camera stands
#: the smaller. The first is the usual low camera, and at 208 even rate 2 loses what an input of 128x64 can show.
HEIGHTS = (208, 256, 192)
SUPERSAMPLING = 2
#: How far people's headings spread about a camera's usual one, radians.
_SPREAD = 2.2


@dataclass(frozen=True)
class Place:
    """One camera: what it stands before, how it renders, and which side of people it mostly sees.

    Args:
        size: (height, width) of its pictures, pixels.
        yaw: the usual heading of people there, radians, see ``canvas.View``.
        tilt: camera pitch, radians.
    """

    size: tuple[int, int]
    backdrop: Backdrop
    look: Look
    yaw: float
    tilt: float

    @classmethod
    def draw(cls, seed: int, camera: int) -> Place:
        """Draw the camera of a number, counted from 0; neighbours see different scenes and sides."""
        rng = generator(seed, "camera", camera)
        height = HEIGHTS[camera % len(HEIGHTS)]
        # Steps of three eighths of a turn: front, left back, right, ...
        return cls(
            (height, height // 2),
            Backdrop(rng, SCENES[camera % len(SCENES)], (SUPERSAMPLING * height, SUPERSAMPLING * height // 2)),
            Look.draw(rng),
            yaw=camera * 0.75 * np.pi,
            tilt=rng.uniform(0.03, 0.13),
        )


def portrait(figure: Figure, place: Place, shot: int, shots: int, key: tuple[int | str, ...]) -> Image.Image:
    """Take a picture of a person.

    Args:
        figure: who.
        place: the camera.
        shot, shots: number of the picture and of all this camera takes of the person; headings spread over them.
        key: seeds pose, box and noise.
    """
    rng = generator(*key, "shot", shot)
    height, width = (SUPERSAMPLING * side for side in place.size)
    part = (shot + rng.uniform(0.1, 0.9)) / shots
    yaw = place.yaw + _SPREAD * (2 * part - 1)
    # Half of them hardly move.
    pose = Pose(phase=rng.uniform(0, 2 * np.pi), stride=rng.choice((0.08, 1.0)) * rng.uniform(0.25, 0.5))
    # A detector's box is now and then too wide, too high or a little off.
    scale = height * rng.uniform(0.86, 0.95)
    foot = (width * (0.5 + rng.uniform(-0.05, 0.05)), height * rng.uniform(0.945, 0.975))
    view = View(yaw, place.tilt, scale, foot, place.look.light)
    rgb = figure.draw(place.backdrop.crop(rng), view, pose)
    return place.look.finish(rgb, place.size, rng)
