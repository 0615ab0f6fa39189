"""Whatever an image file holds: a whole 8-bit RGB picture, or an OSError that names it."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis")

from hypothesis import example, given
from hypothesis import strategies as st

from torchreid_xres.data.io import read_image


def encoded(kind, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    # Pillow makes no 16-bit picture of colours at once.
    (picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)).save(file, kind, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 3  # upside down

FILES = {
    "png": encoded("PNG"),
    "palette.png": encoded("PNG", "P", transparency=3),
    "jpg": encoded("JPEG"),
    "turned.jpg": encoded("JPEG", exif=TURNED),
    "turned.png": encoded("PNG", exif=TURNED),
    "progressive.jpg": encoded("JPEG", "CMYK", progressive=True),
    "webp": encoded("WEBP"),
    "gif": encoded("GIF", "P"),
    "tif": encoded("TIFF", compression="tiff_lzw"),
    "deep.tif": encoded("TIFF", "I;16"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
}
TAIL = 60  # bytes: most of what a format says of itself is in its first or last ones


@st.composite
def spoilt(draw, file):
    """A picture with a few bytes changed, left out, put in, or cut off; mostly in its header."""
    data = bytearray(file)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(TAIL, len(data) - 1)) | st.integers(0, len(data) - 1))
        place = draw(st.sampled_from([place, len(data) - 1 - place]))
        how = draw(st.sampled_from(["change", "change", "leave out", "put in", "cut"]))
        if how == "change":
            data[place] = draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
        elif how == "leave out":
            del data[place]
        elif how == "put in":
            data[place:place] = draw(st.binary(min_size=1, max_size=4))
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


def require_picture_or_name(path, data):
    path.write_bytes(data)
    try:
        img = read_image(path)
    except OSError as error:
        assert path.name in str(error)
    else:
        assert img.mode == "RGB" and np.asarray(img).shape == (img.height, img.width, 3)


@pytest.mark.parametrize("name", FILES)
def test_the_files_themselves_are_read(tmp_path, name):
    (tmp_path / "a").write_bytes(FILES[name])
    assert read_image(tmp_path / "a").size == (9, 12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_spoilt_files(tmp_path, name, data):
    require_picture_or_name(tmp_path / "spoilt", data.draw(spoilt(FILES[name])))


@pytest.mark.filterwarnings("ignore")
@given(data=st.binary(max_size=100), kind=st.sampled_from(sorted(FILES)))
@example(data=b"", kind="png")
def test_any_bytes_behind_a_good_beginning(tmp_path, data, kind):
    require_picture_or_name(tmp_path / "odd", FILES[kind][: 8 + len(data) % 24] + data)
