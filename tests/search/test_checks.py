"""What is said of a query: each line where it is so, and nowhere else."""

from types import SimpleNamespace

import PIL.Image
import PIL.ImageFilter
import pytest
from archive import Eye, adapted, frame_of, mot, street
from yacs.config import CfgNode

from torchreid_xres.inference.network import drawn_sources
from torchreid_xres.search import Gallery
from torchreid_xres.search.checks import Checks


@pytest.fixture
def gallery(tmp_path):
    made = Gallery(tmp_path / "gallery", Eye())
    made.update(street(tmp_path / "frames"), mot(tmp_path / "det.txt", tracks=False))
    return made


def said(gallery, eye, img, tmp_path, box=None, **how):
    file = tmp_path / "query.jpg"
    img.save(file, quality=95, **how)
    return Checks(gallery, eye).told(file, eye.prepare(img if box is None else img.crop(box)), box)


def test_each_line_where_it_is_so(gallery, tmp_path):
    eye, scene = Eye(), frame_of(3)
    crop = scene.crop((26, 20, 50, 80))
    assert said(gallery, eye, crop, tmp_path) == []
    (line,) = said(gallery, eye, scene, tmp_path)
    assert line.startswith("it looks like a whole scene (240x160,") and "--box X Y W H" in line
    assert said(gallery, eye, scene, tmp_path, box=(26, 20, 50, 80)) == []
    (line,) = said(gallery, eye, crop.filter(PIL.ImageFilter.GaussianBlur(6)), tmp_path)
    assert line == "it is blurred: 98 % of the pictures here are more than twice as sharp"
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    (line,) = said(gallery, eye, crop, tmp_path, exif=exif)
    assert line == "its EXIF has it turned by half a turn, and so it was: look whether it is upright"
    small = crop.resize((6, 15))
    assert said(gallery, eye, small, tmp_path) == []  # low, so of course it is blurred
    (line,) = said(gallery, adapted(eye), small, tmp_path)
    assert "smaller than anything that adapt learned from: enlarged 4.3 times, and 4.0 is the most there" in line
    assert said(gallery, adapted(eye, threshold=None), small, tmp_path) == []


def test_a_gallery_that_knows_less_says_less(gallery, tmp_path):
    rows = [row._replace(sharpness=None) for row in gallery.rows]
    old = SimpleNamespace(rows=rows, sizes=gallery.sizes)
    blurred = frame_of(3).crop((26, 20, 50, 80)).filter(PIL.ImageFilter.GaussianBlur(6))
    assert said(old, Eye(), blurred, tmp_path) == []


@pytest.mark.parametrize(
    ("sources", "start", "drawn"),
    [
        (["synth_person"], "", ["synth_person"]),
        (["synth_person", "synth_vehicle"], "", ["synth_person", "synth_vehicle"]),
        (["synth_person", "folder"], "", []),
        (["synth_person"], "weights/osnet.pth", []),
        (["folder"], "", []),
        ([], "", []),
    ],
)
def test_networks_that_have_seen_drawn_images_alone(sources, start, drawn):
    model = {"reid_weights": start, "load_weights": "", "gallery_run": ""}
    cfg = CfgNode({"data": {"sources": sources}, "model": model})
    assert drawn_sources(cfg) == drawn
