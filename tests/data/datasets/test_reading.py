"""The helpers that all readers use."""

import pytest

from torchreid_xres.data.datasets import reading


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
