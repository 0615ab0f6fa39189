"""read_image: every kind of picture becomes 8-bit RGB, every kind of damage an OSError that names the file."""

import argparse
import os
import pickle
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from PIL import ImageFile

from torchreid_xres.data.io import check_grey_bits, image_size, picture_path, read_image, save_image, to_rgb

ORIENTATION = 0x0112  # EXIF


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


def _stored(picture, path, orientation):
    """Write a picture so that a viewer which obeys EXIF shows it as it is; return it as it lies in the file."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    undo = {6: PIL.Image.Transpose.ROTATE_90, 8: PIL.Image.Transpose.ROTATE_270}
    undo |= {2: PIL.Image.Transpose.FLIP_LEFT_RIGHT, 3: PIL.Image.Transpose.ROTATE_180}
    undo |= {4: PIL.Image.Transpose.FLIP_TOP_BOTTOM, 5: PIL.Image.Transpose.TRANSPOSE}
    undo |= {7: PIL.Image.Transpose.TRANSVERSE}
    stored = picture.transpose(undo[orientation]) if orientation > 1 else picture
    stored.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return stored


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(tmp_path, picture, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    _stored(picture, path, orientation)
    read = read_image(path)
    assert np.array_equal(read, picture)
    assert image_size(path) == (40, 24)
    assert np.array_equal(to_rgb(read), picture)  # what has been turned is not turned again
    again = tmp_path / "again.png"
    read.save(again)
    assert np.array_equal(read_image(again), picture)


def test_a_photo_lies_on_its_side(tmp_path, picture):
    stored = _stored(picture, tmp_path / "a.jpg", 6)
    assert stored.size == (40, 24) and read_image(tmp_path / "a.jpg").size == (24, 40)
    assert image_size(tmp_path / "a.jpg") == (40, 24)


def test_the_exif_of_a_png_may_come_last(tmp_path, picture):
    path = tmp_path / "a.png"
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    picture.save(path)
    whole, note = path.read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    assert read_image(path).size == (40, 24) and image_size(path) == (24, 40)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_cost_the_picture(tmp_path, picture):
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0132] = "maker", "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    whole = np.frombuffer(exif.tobytes(), np.uint8)
    for seed in range(200):
        rng, notes = np.random.default_rng(seed), whole.copy()
        notes[rng.integers(6, len(notes), 6)] = rng.integers(0, 256, 6)
        picture.save(tmp_path / "a.jpg", exif=notes.tobytes())
        assert sorted(read_image(tmp_path / "a.jpg").size) == [24, 40]


def test_the_first_frame_of_an_animation(tmp_path):
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"a.{suffix}"
        frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        lossless = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
        assert read_image(path).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize(("mode", "clear", "other"), [("RGB", (0, 0, 0), (7, 7, 7)), ("L", 0, 7)])
def test_a_transparent_colour_is_white(tmp_path, mode, clear, other):
    img = PIL.Image.new(mode, (2, 1))
    img.putpixel((1, 0), other)
    img.save(tmp_path / "a.png", transparency=clear)
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 7]


@pytest.mark.parametrize(("mode", "plain"), [("La", "LA"), ("RGBa", "RGBA")])
def test_colours_multiplied_by_their_alpha(mode, plain):
    img = PIL.Image.new("RGBA", (1, 1), (100, 100, 100, 255)).convert(plain)
    assert to_rgb(img.convert(mode)).getpixel((0, 0)) == (100, 100, 100)


def _tiff_of_12_bits(values):
    bits = "".join(f"{value:012b}" for value in values)
    packed = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    tags = [(256, len(values)), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1),
            (279, len(packed))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", key, 4, 1, value) for key, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + packed


def test_a_tiff_of_12_bits_says_so_itself(tmp_path, caplog):
    (tmp_path / "a.tif").write_bytes(_tiff_of_12_bits([0, 1000, 2048, 4095]))
    for bits in (16, 14):
        assert np.asarray(read_image(tmp_path / "a.tif", bits))[0, :, 0].tolist() == [0, 62, 128, 255]
    assert not caplog.records


def test_a_pgm_says_its_white_itself(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + struct.pack(">HH", 511, 1023))
    assert np.asarray(read_image(tmp_path / "a.pgm"))[0, :, 0].tolist() == [127, 255]


@pytest.mark.parametrize("bits", [10, 14])
def test_grey_of_fewer_bits_in_files_of_16(tmp_path, bits, caplog, monkeypatch):
    monkeypatch.setattr("torchreid_xres.data.io._dark", [])
    deep = np.array([[0, 1 << (bits - 1), (1 << bits) - 1]], dtype=np.uint16)
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(deep).save(tmp_path / name)
    dark = [np.asarray(read_image(tmp_path / name))[0, :, 0].tolist() for name in ("a.png", "b.png")]
    assert dark[0] == dark[1] == [0, round((1 << (bits - 1)) / 257), round((1 << bits) / 257)]
    (told,) = caplog.messages  # of the first only
    assert f"a.png has grey of 16 bits but uses {bits} (up to {(1 << bits) - 1} of 65535)" in told
    assert "data.grey_bits" in told
    assert np.asarray(read_image(tmp_path / "a.png", bits))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(OSError, match=rf"a\.png: .*more than the {bits - 1} bits that data\.grey_bits gives them"):
        read_image(tmp_path / "a.png", bits - 1)
    assert len(caplog.messages) == 1


def test_dark_colour_of_16_bits_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("torchreid_xres.data.io._dark", [])
    row = b"\0" + struct.pack(">6H", *[1023] * 6)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(data)) + key + data for key, data in parts]
    sums = [struct.pack(">I", zlib.crc32(key + data)) for key, data in parts]
    whole = b"".join(part for both in zip(chunks, sums, strict=True) for part in both)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + whole)
    read_image(tmp_path / "a.png")
    assert "a.png has colours of 16 bits but uses less than a quarter" in caplog.text


@pytest.mark.parametrize("bits", [7, 17, 12.0, True])
def test_grey_bits_that_cannot_be(bits):
    with pytest.raises(ValueError, match="from 8 to 16"):
        check_grey_bits(bits)


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
