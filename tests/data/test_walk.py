"""Every walk of a folder: what is found, what is left out and why, what could not be looked at."""

import doctest
import logging
import os

import PIL.features
import PIL.Image
import pytest

from torchreid_xres.data import read_image, walk
from torchreid_xres.data.walk import images_at, readable_suffixes, walk_images


@pytest.fixture
def files(tmp_path):
    """Return a function that makes empty files below a folder, and returns the folder."""

    def make(*names, folder="images"):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / folder

    return make


@pytest.fixture
def refused(monkeypatch):
    """Return a function that makes a folder unreadable, as the system refuses it to who is not root."""
    scandir, closed = os.scandir, set()

    def scan(path):
        if os.fspath(path).rstrip("/") in closed:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    return lambda path: closed.add(os.fspath(path))


def test_examples():
    result = doctest.testmod(walk)
    assert result.attempted and not result.failed


def test_images_come_in_the_order_of_their_names_parts(files):
    found = walk_images(files("b.jpg", "a/2.PNG", "a/1.jpg", "a-b/1.jpg", "c/d/e.bmp"))
    assert list(found.images) == ["a/1.jpg", "a/2.PNG", "a-b/1.jpg", "b.jpg", "c/d/e.bmp"]
    assert all(path == found.folder / name for name, path in found.images.items())
    assert found.folders == ["", "a", "a-b", "c", "c/d"] and not found.left_out and not found.unseen
    assert found.told() == f"{found.folder}: 5 images"


def test_what_is_left_out_is_counted_by_reason(files):
    folder = files(
        "a.jpg", "._a.jpg", ".thumbnails/a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "sub/@eaDir/x.jpg",
        "__MACOSX/._a.jpg", "notes.txt", "sub/jpg", "raw.NEF", "x.jpg/b.jpg",
    )  # fmt: skip
    os.mkfifo(folder / "pipe.png")
    found = walk_images(folder)
    assert list(found.images) == ["a.jpg", "x.jpg/b.jpg"]  # a folder may have such a name
    assert {why: sorted(names) for why, names in found.left_out.items()} == {
        walk.HIDDEN: ["._a.jpg", ".thumbnails"],
        walk.SYSTEM: ["@eaDir", "__MACOSX", "sub/@eaDir"],
        walk.OTHER: ["notes.txt", "sub/jpg"],
        walk.UNREADABLE: ["raw.NEF"],
        walk.SPECIAL: ["pipe.png"],
    }
    assert "2 hidden, e.g. ._a.jpg" in found.told() and "3 of a system (thumbnails, deleted files)" in found.told()
    assert found.without_images() == ["sub"]


def test_a_name_that_is_no_text_is_left_out(files):
    folder = files("a.jpg")
    try:
        with open(os.fsencode(folder) + b"/\xff.png", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes no such name")
    found = walk_images(folder)
    assert list(found.images) == ["a.jpg"] and len(found.left_out[walk.NOT_TEXT]) == 1
    assert found.told().isascii()


def test_a_name_cannot_steer_the_terminal(files):
    found = walk_images(files("a.jpg", "\x1b[31mred.txt"))
    assert r"\x1b[31mred.txt" in found.told() and "\x1b" not in found.told()


class TestLinks:
    def test_linked_folders_and_files_are_searched(self, files, tmp_path):
        folder = files("a.jpg")
        outside = files("b.jpg", "deep/c.jpg", folder="outside")
        (folder / "linked").symlink_to(outside)
        (folder / "d.jpg").symlink_to(outside / "b.jpg")
        (tmp_path / "all").symlink_to(folder)
        for place in (folder, tmp_path / "all"):
            found = walk_images(place)
            assert list(found.images) == ["a.jpg", "d.jpg", "linked/b.jpg", "linked/deep/c.jpg"]
            assert all(path.is_file() for path in found.images.values()) and not found.left_out

    def test_loops_end(self, files):
        folder = files("a/b/c.jpg")
        outside = files("x.jpg", folder="outside")
        (folder / "a" / "b" / "up").symlink_to(folder / "a")
        (folder / "all").symlink_to(folder)
        (folder / "above").symlink_to(folder.parent)
        (folder / "out").symlink_to(outside)
        (outside / "back").symlink_to(folder)
        (outside / "self").symlink_to(outside)
        (folder / "itself").symlink_to(folder / "itself")
        found = walk_images(folder)
        assert list(found.images) == ["a/b/c.jpg", "out/x.jpg"]
        assert sorted(found.left_out.pop(walk.AGAIN)) == ["a/b/up", "above", "all", "out/back", "out/self"]
        assert not found.left_out and list(found.unseen) == ["itself"]
        assert isinstance(found.unseen["itself"], FileNotFoundError)

    def test_no_link_decides_how_an_image_is_called(self, files):
        folder = files("m/a.jpg", "m/n/b.jpg")
        (folder / "favourites").symlink_to(folder / "m" / "n")
        outside = files("c.jpg", folder="outside")
        for name in ("z1", "z0"):
            (folder / name).symlink_to(outside)
        found = walk_images(folder)
        assert list(found.images) == ["m/a.jpg", "m/n/b.jpg", "z0/c.jpg"]
        assert found.left_out == {walk.AGAIN: ["favourites", "z1"]}

    def test_a_link_that_leads_nowhere_is_unseen(self, files):
        folder = files("a.jpg")
        (folder / "disk").symlink_to(folder / "not mounted")
        (folder / "b.jpg").symlink_to(folder / "gone.jpg")
        found = walk_images(folder)
        assert list(found.images) == ["a.jpg"] and set(found.unseen) == {"disk", "b.jpg"}
        assert "cannot look at b.jpg (the link leads nowhere), disk (the link leads nowhere)" in found.told()
        assert found.is_unseen("disk/deep/c.jpg") and found.is_unseen("b.jpg")
        assert not found.is_unseen("disk2/c.jpg") and not found.is_unseen("c.jpg")


class TestUnreadableFolders:
    def test_the_others_are_searched(self, files, refused):
        folder = files("a.jpg", "closed/b.jpg", "open/c.jpg")
        refused(folder / "closed")
        found = walk_images(folder)
        assert list(found.images) == ["a.jpg", "open/c.jpg"] and list(found.unseen) == ["closed"]
        assert found.told().endswith("2 images; cannot look at closed (Permission denied)")
        assert found.is_unseen("closed/b.jpg") and found.without_images() == []

    def test_the_folder_itself(self, files, refused):
        folder = files("a.jpg")
        refused(folder)
        with pytest.raises(PermissionError):
            walk_images(folder)

    def test_many_are_not_all_named(self, files, refused):
        folder = files("a.jpg", *(f"{number}/b.jpg" for number in range(9)))
        for number in range(9):
            refused(folder / str(number))
        assert walk_images(folder).told().endswith("4 (Permission denied) and 4 more")

    def test_a_folder_with_nothing_else(self, files, refused):
        folder = files("closed/b.jpg")
        refused(folder / "closed")
        with pytest.raises(FileNotFoundError, match=r"no images in .*: cannot look at closed \(Permission denied\)"):
            images_at(folder)


def test_what_may_be_missed_is_a_warning(files, caplog):
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("torchreid_xres.walks")
    folder = files("a.jpg")
    walk_images(folder).log(logger)
    assert not caplog.records
    files("Thumbs.db", ".DS_Store")
    walk_images(folder).log(logger)
    files("b.heic" if ".heic" not in readable_suffixes() else "b.cr2")
    walk_images(folder).log(logger)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_the_gallerys_own_folder_and_folders_below(files):
    folder = files("a.jpg", "gallery/b.jpg", "sub/c.jpg")
    assert list(walk_images(folder, without=folder / "gallery").images) == ["a.jpg", "sub/c.jpg"]
    flat = walk_images(folder, deep=False)
    assert list(flat.images) == ["a.jpg"] and flat.left_out == {walk.FOLDERS: ["gallery", "sub"]}


def test_images_at(files, tmp_path):
    folder = files("a.jpg", "sub/b.jpg", "notes")
    assert list(images_at(folder).images.values()) == [folder / "a.jpg", folder / "sub" / "b.jpg"]
    assert list(images_at(folder / "notes").images.values()) == [folder / "notes"]  # who names it wants it
    with pytest.raises(FileNotFoundError, match=r"no image and no folder .*gone"):
        images_at(tmp_path / "gone")
    empty = files("x/y.txt", folder="other")
    with pytest.raises(FileNotFoundError, match=r"no images in .*other: left out: 1 other files, e.g. x/y.txt; image"):
        images_at(empty)
    (empty / "x" / "y.txt").unlink()
    with pytest.raises(FileNotFoundError, match="only empty folders"):
        images_at(empty)
    (empty / "x").rmdir()
    with pytest.raises(FileNotFoundError, match="it is empty"):
        images_at(empty)


class TestKinds:
    def test_what_is_called_readable_is_read(self, tmp_path):
        """Of every kind that this Pillow can also write; the usual ones must be among them."""
        read = set()
        for suffix in readable_suffixes():
            kind = PIL.Image.registered_extensions()[suffix]
            if kind in PIL.Image.SAVE:
                PIL.Image.new("1" if suffix == ".pbm" else "RGB", (8, 16), "white").save(tmp_path / f"a{suffix}", kind)
                assert read_image(tmp_path / f"a{suffix}").size == (8, 16), suffix
                read.add(suffix)
        assert {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"} <= read
        assert len(walk_images(tmp_path).images) == len(read)

    def test_a_pillow_without_a_library(self, files, monkeypatch):
        folder = files("a.jpg", "b.avif", "c.jp2", "d.WEBP")
        monkeypatch.setattr(PIL.features, "check", lambda feature: False)
        for library in ("avif", "jpg_2000", "webp"):
            monkeypatch.setitem(PIL.features.modules, library, ("PIL._none", None))
        found = walk_images(folder)
        assert list(found.images) == ["a.jpg"]
        assert found.left_out == {walk.UNREADABLE: ["b.avif", "c.jp2", "d.WEBP"]}

    def test_a_plug_in_brings_a_kind(self, files, monkeypatch):
        folder = files("a.heic")
        monkeypatch.setitem(PIL.Image.EXTENSION, ".heic", "HEIF")
        monkeypatch.setitem(PIL.Image.OPEN, "HEIF", (None, None))
        assert list(walk_images(folder).images) == ["a.heic"]
