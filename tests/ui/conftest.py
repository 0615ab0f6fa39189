"""A gallery of coloured pictures, searched by their mean colours: what a page needs, without a network."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.inference.extractor import Prepared
from torchreid_xres.inference.pictures import as_image
from torchreid_xres.report.asking import Archive
from torchreid_xres.search import Gallery, Hit
from torchreid_xres.search.storage import Row
from torchreid_xres.ui.desk import Desk

COLOURS = {"red.png": (200, 20, 20), "green.png": (20, 200, 20), "blue.png": (20, 20, 200), "grey.png": (90, 90, 90)}

CAMERAS = {"red.png": {"camera": "1"}, "green.png": {"camera": "2"}, "blue.png": {"camera": "1"}}


class Colours:
    """Describes a picture by its mean colour."""

    size = full_size = (64, 32)
    query_encoder, batch_size = None, 8

    def image(self, picture):
        return as_image(picture)

    def is_low(self, size):
        return False

    def prepare(self, img):
        mean = np.asarray(img, dtype=np.float32).mean((0, 1)) - 100
        return Prepared(torch.from_numpy(mean), (img.height, img.width))

    def describe(self, prepared):
        return F.normalize(torch.stack([one.pixels for one in prepared]), dim=1)

    def restored(self, prepared):
        return None


class Pictures(SimpleNamespace):
    """Finds the pictures nearest in colour."""

    searches = False
    count = Gallery.count

    def __len__(self):
        return len(self.names)

    def distance(self, score):
        return 1 - score

    def picture(self, of, image):
        return image(of.path)

    def search(self, queries, top=10, among=None, groups=None):
        found = []
        for row in queries @ self.features.T:
            order = row.argsort(descending=True).tolist()
            order = [place for place in order if among is None or among[place]][:top]
            found.append([
                Hit(rank, row[place].item(), self.names[place], self.images / self.names[place], (64, 32))
                for rank, place in enumerate(order, 1)
            ])  # fmt: skip
        return found


@pytest.fixture
def desk(tmp_path):
    """A desk with a gallery of four pictures below tmp_path."""
    images, folder = tmp_path / "pictures", tmp_path / "gallery"
    images.mkdir()
    folder.mkdir()
    (folder / "gallery.sqlite").write_text("secret")
    for name, colour in COLOURS.items():
        PIL.Image.new("RGB", (32, 64), colour).save(images / name)
    extractor = Colours()
    features = extractor.describe([extractor.prepare(extractor.image(images / name)) for name in COLOURS])
    about = {"model": "colours", "weights_sha256": "c" * 64, "metric": "cosine"}
    gallery = Pictures(names=list(COLOURS), features=features, images=images, folder=folder, about=about)
    gallery.rows, gallery.facts = [Row(name, 1, 0, 64, 32, b"", None, **CAMERAS.get(name, {})) for name in COLOURS], {}
    return Desk(Archive(gallery, extractor))


@pytest.fixture
def scene(tmp_path) -> Path:
    """A white frame with a green figure in it, at left 100, top 40, 60 wide and 120 high."""
    frame = PIL.Image.new("RGB", (400, 240), "white")
    frame.paste(COLOURS["green.png"], (100, 40, 160, 160))
    frame.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"
