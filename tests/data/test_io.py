"""read_image: every kind of picture becomes 8-bit RGB, every kind of damage an OSError that names the file."""

import argparse
import os
import pickle

import numpy as np
import PIL.Image
import pytest
from PIL import ImageFile

from torchreid_xres.data.io import image_size, picture_path, read_image, save_image


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return PIL.Image.fromarray(rng.integers(0, 256, (40, 24, 3), dtype=np.uint8))


def test_png_is_read_exactly(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.mode == "RGB"
    assert np.array_equal(read, picture)


def test_a_size_is_read_once_from_the_header(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.png"
    picture.save(path)
    path.write_bytes(path.read_bytes()[:200])  # what lies behind the header does not matter
    opened, really = [], PIL.Image.open
    monkeypatch.setattr(PIL.Image, "open", lambda *args: (opened.append(args), really(*args))[1])
    assert image_size(path) == image_size(str(path)) == (40, 24) and len(opened) == 1
    picture.crop((0, 0, 10, 20)).save(path)
    assert image_size(path) == (20, 10) and len(opened) == 2


def test_a_size_of_no_image_names_the_file(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(OSError, match=r"a\.png: cannot be read as an image"):
        image_size(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"b\.png: there is no such image file"):
        image_size(tmp_path / "b.png")


def test_result_outlives_the_file_and_pickles(tmp_path, picture):
    path = tmp_path / "a.png"
    picture.save(path)
    read = read_image(str(path))
    path.unlink()
    assert np.array_equal(pickle.loads(pickle.dumps(read)), picture)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path, picture, mode):
    odd = picture.convert(mode)
    odd.save(tmp_path / "a.tif")
    read = read_image(tmp_path / "a.tif")
    assert read.mode == "RGB"
    assert np.array_equal(read, odd.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    img = PIL.Image.new(mode, (3, 1), 0)
    for x, alpha in enumerate((0, 128, 255)):
        img.putpixel((x, 0), (0, 0, 0, alpha) if mode == "RGBA" else (0, alpha))
    img.save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 127, 0]


def test_transparent_palette_entry_is_white(tmp_path):
    img = PIL.Image.new("P", (2, 1))
    img.putpalette([10, 20, 30, 40, 50, 60])
    img.putpixel((1, 0), 1)
    img.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    PIL.Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("pixels", [np.float32([[0.5]]), np.int32([[70000]]), np.int32([[-1]])])
def test_pixels_without_a_defined_white_are_refused(tmp_path, pixels):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=r"a\.tif: .*bits"):
        read_image(tmp_path / "a.tif")


def test_exif_orientation_is_not_applied(tmp_path, picture):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == picture.size


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nobody\.jpg: there is no such image file"):
        read_image(tmp_path / "nobody.jpg")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9])
def test_cut_off_files(tmp_path, picture, suffix, share):
    path = tmp_path / f"a.{suffix}"
    picture.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(OSError, match=rf"a\.{suffix}: cannot be read as an image: \S"):
        read_image(path)


def test_pillows_global_leniency_is_not_believed_and_not_changed(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.jpg"
    picture.save(path)
    path.write_bytes(path.read_bytes()[:-400])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with PIL.Image.open(path) as half:
        half.load()  # this is what must not happen
    with pytest.raises(OSError, match="truncated"):
        read_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("content", [b"", b"not an image at all\n" * 50, b"\xff\xd8\xff\xe0" + bytes(100)])
def test_files_that_are_no_images(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(OSError, match=r"a\.jpg: cannot be read as an image"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [read_image, image_size])
def test_a_pipe_is_no_image(tmp_path, read):
    """Opening one would wait for ever."""
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match=r"a\.jpg: cannot be read as an image: .*a\.jpg is a pipe, not a file"):
        read(tmp_path / "a.jpg")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(OSError, match="cannot be read as an image"):
        read_image(tmp_path)


def test_real_images(shared_data):
    files = sorted((shared_data / "cuhk03_p1" / "images").iterdir())[::700]
    for file in files:
        read = read_image(file)
        assert read.mode == "RGB" and np.asarray(read).std() > 5


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("new/a.webp", "WEBP")])
def test_a_picture_is_written_as_its_name_says(tmp_path, name, kind):
    path = picture_path(str(tmp_path / name))
    save_image(PIL.Image.new("RGB", (3, 2), "red"), path)
    assert PIL.Image.open(path).format == kind and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_picture_of_another_kind_is_refused():
    with pytest.raises(argparse.ArgumentTypeError, match=r"a\.gif: pictures end in \.png"):
        picture_path("a.gif")
