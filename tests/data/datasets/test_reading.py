"""The helpers that all readers use."""

import doctest
from collections import Counter

import pytest

from torchreid_xres.data import Image
from torchreid_xres.data.datasets import reading


def test_examples():
    result = doctest.testmod(reading)
    assert result.attempted and not result.failed


def test_shuffled_is_a_fair_shuffle():
    # Each of 5 things is first about 200 times in 1000; 4 standard deviations are 51.
    firsts = Counter(reading.shuffled(range(5), f"salt {number}")[0] for number in range(1000))
    assert all(149 <= count <= 251 for count in firsts.values()), firsts
    assert sorted(reading.shuffled(range(5), "x")) == list(range(5))
    assert reading.shuffled([3, 1, 2], "x") == reading.shuffled([1, 2, 3], "x")


def test_find_folder_takes_the_first_complete_one(tmp_path):
    for place in ("a", "b/query", "c/query"):
        (tmp_path / place).mkdir(parents=True)
    assert reading.find_folder(tmp_path, ("a", "b", "c"), ["query"]) == tmp_path / "b"
    with pytest.raises(FileNotFoundError) as error:
        reading.find_folder(tmp_path, ("a", "x/y", "b"), ["query", "train"])
    told = str(error.value)
    assert "a (without query, train; it holds nothing); x/y (not there); b (without train; it holds query)" in told


def test_list_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone"):
        reading.list_images(tmp_path / "gone")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="there are no images in"):
        reading.list_images(tmp_path)
    for name in ("b.JPG", "a.png", "._a.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert reading.list_images(tmp_path) == [str(tmp_path / "a.png"), str(tmp_path / "b.JPG")]


def test_cameras_out_of_range(tmp_path):
    (tmp_path / "0001_c7s1_000151_01.jpg").touch()
    with pytest.raises(ValueError, match="camera 7; the set has the cameras 1 to 6"):
        reading.read_cameras(tmp_path, cameras=6)


def test_queries_without_match_are_left_out(caplog):
    caplog.set_level("INFO")
    query = [Image("a", 1, 0, True), Image("b", 2, 0, True), Image("c", 3, 0, True)]
    gallery = [Image("d", 1, 1), Image("e", 2, 0)]
    assert reading.with_match(query, gallery) == query[:1]
    assert "2 of 3 queries" in caplog.text


def test_one_per_identity_does_not_depend_on_the_folder():
    def images(folder):
        return [Image(f"{folder}/{number}.jpg", number % 3, 0) for number in range(12)]

    here, there = (reading.one_per_identity(images(folder), "x") for folder in ("here", "there"))
    names = [[image.path.split("/")[1] for image in part] for part in here]
    assert names == [[image.path.split("/")[1] for image in part] for part in there]
    assert names != [
        [image.path.split("/")[1] for image in part] for part in reading.one_per_identity(images("here"), "y")
    ]
