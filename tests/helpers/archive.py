"""A street with people as boxes, and a network of it that needs no time: what a gallery of boxes is tested with."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import torch
from torchvision.transforms.functional import pil_to_tensor
from yacs.config import CfgNode

from torchreid_xres.inference.extractor import Prepared
from torchreid_xres.inference.pictures import as_image

SIZE = (160, 240)  # of a frame
BOXES = {1: (10, 20, 24, 60), 2: (100, 30, 30, 80)}  # of two people in the first frame; they walk to the right
COLOURS = {1: (200, 30, 30), 2: (30, 60, 200)}
STEP = 8


def box_of(person, frame):
    """Return where a person is in a frame, from 1."""
    left, top, width, height = BOXES[person]
    return left + STEP * (frame - 1), top, width, height


def frame_of(number):
    """Return a frame, from 1, as a picture."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 110, (*SIZE, 3), dtype=np.uint8)
    for person, colour in COLOURS.items():
        left, top, width, height = box_of(person, number)
        stripes = (np.arange(height) // 4 % 2)[:, None, None] * (20 + 5 * number)
        pixels[top : top + height, left : left + width] = np.array(colour) + stripes
    return PIL.Image.fromarray(pixels)


def street(folder, frames=5):
    """Write frames into a folder, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, frames + 1):
        frame_of(number).save(folder / f"{number:06d}.png")
    return folder


def mot(file, frames=5, tracks=True, more=""):
    """Write a list of their boxes as MOTChallenge has it; return it."""
    lines = [
        ",".join(map(str, (number, person if tracks else -1, left + 1, top + 1, width, height, 0.9)))
        for number in range(1, frames + 1)
        for person in BOXES
        for left, top, width, height in [box_of(person, number)]
    ]
    file.write_text("\n".join(lines) + "\n" + more)
    return file


class Eye:
    """In place of an extractor: describes a picture by its mean colours in four bands."""

    query_encoder, batch_size, weights = None, 3, Path("/run/last.pth.tar")
    about = {"model": "eye", "weights_sha256": "a" * 64, "full_size": None, "metric": "cosine"}  # noqa: RUF012
    cfg = CfgNode({"a": 1})
    size = full_size = (64, 32)
    backend = SimpleNamespace(name="torch", told="", expect=lambda count: None)

    def __init__(self):
        self.frames = []  # files that were read

    def image(self, picture):
        if isinstance(picture, Path):
            self.frames.append(picture.name)
        return as_image(picture)

    def prepare(self, picture):
        img = self.image(picture)
        return Prepared(pil_to_tensor(img.resize((32, 64))).float() / 255, (img.height, img.width))

    def describe(self, prepared):
        return torch.stack([one.pixels.view(3, 4, 16, 32).mean((2, 3)).flatten() for one in prepared])

    def __call__(self, img):
        return self.describe([self.prepare(img)])

    def is_low(self, size):
        return size[0] < 32


def adapted(eye, threshold=2.0, most=4.0):
    """Let it have a query encoder."""
    eye.query_encoder = SimpleNamespace(about={"threshold": threshold, "magnifications": [1.0, most]})
    return eye
