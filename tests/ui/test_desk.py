"""What the page does: boxes, searches, marks; and no picture from outside the gallery's folder."""

import csv
import os
from pathlib import Path

import PIL.Image
import pytest

from torchreid_xres.lock import InUseError, locked
from torchreid_xres.search.filters import Filters
from torchreid_xres.search.hits import Hit
from torchreid_xres.ui.desk import MARKS, Desk, caption


def test_a_box_of_a_frame_is_searched_and_a_hit_searched_on_with(desk, scene):
    answer = desk.search(scene, [(160, 160), (100, 40)], top=3)
    assert answer.asked["box"] == [100, 40, 60, 120] and answer.asked["file"] == "scene.png"
    assert answer.picture.size == (60, 120) and answer.found[0].hit.name == "green.png" and len(answer.found) == 3
    assert answer.found[0].picture.getpixel((0, 0)) == (20, 200, 20)
    assert caption(answer.found[0]) == "1 · score 1.000 · green.png"
    again = desk.search_on(desk.search(scene, top=4).found[-1].hit)
    assert again.found[0].hit.name == again.asked["file"] and again.asked["box"] is None
    assert desk.search(scene, [(1, 1)]).asked["box"] is None  # one corner is no box yet
    with pytest.raises(ValueError, match="a box of 2 x 50 pixels shows nobody"):
        desk.search(scene, [(10, 10), (12, 60)])
    with pytest.raises(ValueError, match="the picture"):
        desk.search(scene, [(500, 10), (560, 60)])


def test_a_search_keeps_to_cameras_and_says_so(desk, scene):
    filters = Filters(cameras=("1",))
    found = desk.search(scene, [(100, 40), (160, 160)], filters=filters).found
    assert {one.hit.name for one in found} == {"red.png", "blue.png"}
    assert {one.hit.name for one in desk.search_on(found[0].hit, filters=filters).found} == {"red.png", "blue.png"}
    assert desk.part(filters).told == "searched: 2 of 4 images; camera by the list of boxes of 3, of 1 unknown"
    page = Path(desk.hand_over(desk.search(scene, filters=filters), filters)[0]).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 3
    with pytest.raises(ValueError, match="no image is of the camera 7"):
        desk.search(scene, filters=Filters(cameras=("7",)))


@pytest.mark.parametrize(
    "name", ["../outside.png", "/outside.png", "link.png", "folder/outside.png", "gone.png", "loop.png"]
)
def test_no_picture_from_outside_the_folder_is_shown(desk, tmp_path, name):
    PIL.Image.new("RGB", (8, 16), "black").save(tmp_path / "outside.png")
    images = desk.archive.gallery.images
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    (images / "folder").symlink_to(tmp_path)
    (images / "loop.png").symlink_to("loop.png")
    path = Path(f"{tmp_path}{name}") if name.startswith("/") else images / name
    hit = Hit(1, 0.5, name, path, (16, 8))
    assert desk.shown(hit) is None
    with pytest.raises(ValueError, match="cannot be shown"):
        desk.search_on(hit)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(desk):
    os.mkfifo(desk.archive.gallery.images / "pipe.png")
    assert desk.shown(Hit(1, 0.5, "pipe.png", desk.archive.gallery.images / "pipe.png", (16, 8))) is None


def test_marks_are_kept_beside_the_gallery(desk, scene):
    strange = scene.rename(scene.with_name("=1+1.png"))
    answer = desk.search(strange, [(100, 40), (160, 160)])
    path = desk.mark(answer, answer.found[0], right=True)
    desk.mark(answer, answer.found[1], right=False)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert path == desk.archive.gallery.folder / MARKS and [row["right"] for row in rows] == ["1", "0"]
    assert rows[0]["query"] == "'=1+1.png" and rows[0]["query_box"] == "100 40 60 120" and rows[0]["hit"] == "green.png"
    with locked(path.with_suffix(".lock"), "", ""), pytest.raises(InUseError, match=r"is written to .* mark the hit"):
        desk.mark(answer, answer.found[2], right=True)  # another who serves the gallery is at it
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=r"marks\.csv is a folder"):
        desk.mark(answer, answer.found[0], right=True)


def test_what_was_found_can_be_fetched(desk, scene):
    page, table = map(Path, desk.hand_over(desk.search(scene)))
    assert (page.name, table.name) == ("hits.html", "hits.csv") and len(table.read_text().splitlines()) == 5
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 5


def test_pictures_that_moved_are_named(desk):
    desk.archive.gallery.images.rename(desk.archive.gallery.images.with_name("moved"))
    with pytest.raises(FileNotFoundError, match=r"pictures of the gallery in .* are no longer in .*pictures: build it"):
        Desk(desk.archive)
