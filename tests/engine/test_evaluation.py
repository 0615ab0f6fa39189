"""What the host's drawing of ranked lists gets to read: pictures as we read them, each under a name of its own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from torchreid_xres.data.io import read_image
from torchreid_xres.engine.evaluation import LONGEST_STEM, _gallery_as_seen, _queries_as_seen


def images(folder, names, size=(8, 16), mode="RGB"):
    found = []
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new(mode, size, (number, 0, 0) if mode == "RGB" else number).save(path)
        found.append((str(path), number, 0, 0))
    return found


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (("a.png", "b.jpg"), ["a", "b"]),
        (("1/a.png", "2/a.png", "3/A.png"), ["1_a", "2_a", "3_A"]),
        (("1/a.png", "2_a.png", "2/a.bmp"), ["1_a", "2_2_a", "3_a"]),
        (("x" * 240 + "1.png", "x" * 240 + "2.png"), ["1_" + "x" * LONGEST_STEM, "2_" + "x" * LONGEST_STEM]),
        (("a\x1b[2J.png",), [r"a\x1b[2J"]),
    ],
)
def test_every_query_has_a_name_of_its_own(tmp_path, names, drawn):
    query = images(tmp_path, names)
    found = _queries_as_seen(SimpleNamespace(query=query), tmp_path / "drawn")
    assert [Path(path).stem for path, *_ in found] == drawn
    assert [labels for _, *labels in found] == [labels for _, *labels in query]
    for (shown, *_), (path, *_) in zip(found, query, strict=True):
        assert np.array_equal(read_image(shown), read_image(path))


def test_of_the_gallery_only_what_opencv_shows_otherwise_is_written_anew(tmp_path):
    gallery = images(tmp_path, ("a.png", "b.jpg", "c.gif", "d.webp"))
    plain = _gallery_as_seen(SimpleNamespace(gallery=gallery), tmp_path / "drawn")
    assert [path for path, *_ in plain[:2]] == [path for path, *_ in gallery[:2]]
    assert [Path(path).name for path, *_ in plain[2:]] == ["2.png", "3.png"]
    deep = tmp_path / "deep.png"
    PIL.Image.fromarray(np.full((2, 2), 1023, np.uint16)).save(deep)
    dataset = SimpleNamespace(gallery=[(str(deep), 0, 0, 0)], options={"grey_bits": 10})
    ((path, *_),) = _gallery_as_seen(dataset, tmp_path / "drawn")
    assert PIL.Image.open(path).getpixel((0, 0)) == (255, 255, 255)
