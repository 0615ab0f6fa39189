"""Files that are written: not over one that is read, and whatever text there is."""

import pytest

from torchreid_xres.files import require_other_file, shown_path, write_text


def test_a_file_takes_the_place_of_none_that_is_read(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    query, other = images / "a.png", tmp_path / "b.png"
    require_other_file(query, [images, query], "--out")  # not there yet
    for path in (query, other):
        path.touch()
    require_other_file(other, [images, query, "gone.png"], "--out")
    for read in ([query], [images], [tmp_path], [images / ".." / "images" / "a.png"]):
        with pytest.raises(ValueError, match=r"--out .*a\.png is there already"):
            require_other_file(query, read, "--out")
    link = tmp_path / "link.png"
    link.symlink_to(query)
    with pytest.raises(ValueError, match="is read"):
        require_other_file(link, [query], "--sheet")


def test_what_is_no_text_is_escaped(tmp_path):
    write_text("a\udcff ±", tmp_path / "new" / "a.txt")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == r"a\udcff ±"


def test_no_path_of_the_users_own_folder_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "log" / "run") == "log/run" and shown_path("../run") == "../run"
    assert shown_path(tmp_path / "me" / "run") == "me/run"  # below the working folder
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert shown_path(tmp_path / "me" / "run") == "~/run" and shown_path("/data/run") == "/data/run"
