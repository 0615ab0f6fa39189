"""Cameras, times and groups: from the list of boxes, the names, EXIF and the files' dates, in this order."""

import os

import PIL.Image
import pytest
import torch
from archive import Eye

from torchreid_xres.archive.times import date_taken, moment
from torchreid_xres.search import Gallery
from torchreid_xres.search.filters import Filters, cameras, groups, known, times
from torchreid_xres.search.storage import Row


def gallery(*rows, names=""):
    """Return what of a gallery is looked at."""
    made = [Row(name, 1, int(1e9), 2, 2, None, None, **more) for name, more in rows]
    about = {"rows": made, "facts": {"names": names}, "searches": False, "__len__": lambda self: len(made)}
    return type("Fake", (), about | {"count": Gallery.count})()


def kept(filters, of):
    among, told = filters.among(of)
    return None if among is None else among.tolist(), told


def test_the_camera_is_of_the_list_then_of_the_name():
    of = gallery(("0001_c1s1_01.jpg", {}), ("7/a_c02.jpg", {}), ("x.jpg", {"camera": "03"}), ("odd_c1_c2.jpg", {}))
    found = cameras(of)
    assert found.values == ["1", "2", "3", None]
    assert found.source == "the name of 2, the list of boxes of 1, of 1 unknown"
    assert kept(Filters(cameras=["1", "03"]), of)[0] == [True, False, True, False]
    assert kept(Filters(not_cameras=["2"]), of)[0] == [True, False, True, True]
    with pytest.raises(ValueError, match="no image is of the camera 9; cameras are: 1, 2, 3"):
        Filters(cameras=["9"]).among(of)
    with pytest.raises(ValueError, match="nothing says of which camera"):
        Filters(cameras=["1"]).among(gallery(("a.jpg", {})))
    assert kept(Filters(), of) == (None, [])


def test_a_pattern_of_names_says_it_in_their_place():
    of = gallery(("1_004_2_07.jpg", {}), ("2_004_1_07.jpg", {}), names="(?P<identity>[0-9]_[0-9]+)_(?P<camera>[0-9])_")
    assert cameras(of).values == ["2", "1"] and known(of, "identity").values == ["1_004", "2_004"]


def test_times_are_of_the_list_then_of_exif_then_of_the_file():
    noon = moment("2024-05-01T12:00:00")[1]
    of = gallery(("a", {"time": "2024-05-01T12:00:00"}), ("b", {"taken": "2024-05-01T13:00:00"}), ("c", {}))
    found = times(of)
    assert found.values == [("date", noon), ("date", noon + 3600), ("date", 1.0)]
    assert found.source == "the list of boxes of 1, the EXIF of 1, the date of the file of 1"
    assert kept(Filters(after="2024-05-01T12:00:00"), of)[0] == [True, True, False]
    assert kept(Filters(before="2024-05-01 12:30"), of)[0] == [True, False, True]
    seconds = gallery(("a", {"time": "1.5"}), ("b", {"time": "3"}))
    assert kept(Filters(after="1.5", before="2"), seconds) == ([True, False], ["time by the list of boxes"])
    for filters, of_kind, message in (
        (Filters(after="3"), of, "after 3 is in seconds, and times of images here are dates"),
        (Filters(before="2024-01-01"), seconds, "is a date, and times of images here are seconds"),
        (Filters(before="noon"), seconds, "neither seconds nor a date"),
    ):
        with pytest.raises(ValueError, match=message):
            filters.among(of_kind)


def test_the_best_of_each_group_alone(tmp_path):
    of = gallery(("0001_c1.jpg", {}), ("0001_c2.jpg", {}), ("b/x.jpg", {}), ("b/y.jpg", {}), ("z.jpg", {}))
    found = groups(of, "identity")
    assert len({*found.values}) == 3 and found.values[0] == found.values[1] and found.values[2] == found.values[3]
    with pytest.raises(ValueError, match="nothing says of which track"):
        groups(of, "track")
    tracks = gallery(("a", {"track": "1", "camera": "x"}), ("b", {"track": "1", "camera": "y"}))
    assert len({*groups(tracks, "track").values}) == 2


def test_a_part_of_a_gallery_says_what_it_is():
    of = gallery(("0001_c1.jpg", {}), ("0001_c2.jpg", {}), ("0002_c2.jpg", {}))
    part = Filters(cameras=["2"], group="identity").part(of)
    assert part.among.tolist() == [False, True, True] and len({*part.groups}) == 2
    assert part.told == "searched: 2 of 3 images; camera by the name, identity by the name"
    assert part.about == {"searched": 2, "by": ["camera by the name", "identity by the name"]}
    whole = Filters().part(of)
    assert (whole.images, whole.among, whole.groups, whole.told, whole.about) == (3, None, None, "", {})


def test_a_search_keeps_to_what_is_asked(tmp_path, home):
    images = tmp_path / "images"
    images.mkdir()
    for place, (person, camera) in enumerate([(1, 1), (1, 2), (2, 1), (3, 2)]):
        picture = PIL.Image.new("RGB", (32, 64), (60 * person, 10 * place, 30))
        picture.save(images / f"000{person}_c{camera}_{place}.png")
    eye, made = Eye(), Gallery(home, Eye())
    made.update(images)
    query = eye(images / "0001_c1_0.png")
    all_of = [hit.name for hit in made.search(query)[0]]
    among, _ = Filters(cameras=["2"]).among(made)
    assert [hit.name for hit in made.search(query, among=among)[0]] == [name for name in all_of if "_c2_" in name]
    of = groups(made, "identity").values
    best = [hit.name for hit in made.search(query, groups=of)[0]]
    assert best == [name for place, name in enumerate(all_of) if name[:4] not in {one[:4] for one in all_of[:place]}]
    both = made.search(query, top=1, among=among, groups=of)[0]
    assert [(hit.rank, hit.name) for hit in both] == [(1, next(name for name in all_of if "_c2_" in name))]
    with pytest.raises(ValueError, match="none of the 4 images"):
        made.search(query, among=torch.zeros(4, dtype=torch.bool))
    made.update(images, names="(?P<camera>[0-9])[.]png$")
    assert cameras(Gallery(made.place)).values == ["0", "1", "2", "3"]
    for names, message in (("(", "no regular expression"), ("(?P<time>.)", "needs a"), ("x", "needs a")):
        with pytest.raises(ValueError, match=message):
            made.update(images, names=names)


def test_a_jpeg_without_exif_is_not_parsed_for_its_date(tmp_path, monkeypatch):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    opened = []
    monkeypatch.setattr(PIL.Image, "open", lambda path: opened.append(path))
    assert date_taken(tmp_path / "a.jpg") is None and not opened


def test_dates_of_pictures(tmp_path):
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 12:30:00"
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    assert [date_taken(tmp_path / name) for name in ("a.jpg", "b.jpg")] == ["2024-05-01T12:30:00", None]
    made = Gallery(tmp_path / "gallery", Eye())
    made.update(tmp_path)
    assert Gallery(made.folder).facts["backend"] == "torch"
    os.utime(tmp_path / "b.jpg", (10, 10))
    made.update(tmp_path)
    assert times(made).values == [("date", moment("2024-05-01T12:30:00")[1]), ("date", 10.0)]
