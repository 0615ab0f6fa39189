"""Whatever the text files of a data set hold: what they say, or an error that names the file."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis")

from hypothesis import example, given
from hypothesis import strategies as st

from torchreid_xres import host
from torchreid_xres.data.base import dataset_options
from torchreid_xres.data.datasets.folder import COLUMNS, TABLE
from torchreid_xres.data.datasets.reading import match_name, read_list
from torchreid_xres.data.datasets.vehicle2cam import LISTS
from torchreid_xres.keypoints.annotations import read_annotations
from torchreid_xres.keypoints.vehicle20 import KEYPOINTS

odd = st.sampled_from(
    ["", " ", "\0", "\r", '"', ",", "\u2028", "²", "-1", "9" * 30, "nan", "../x", "/etc", "\ufeff", "x" * 300]
)
text = st.text(max_size=20) | odd


def bytes_of(lines):
    return st.binary(max_size=80) | lines.map(lambda lines: "\n".join(lines).encode("utf-8"))


def read_or_name(read, path):
    try:
        return read()
    except (ValueError, OSError) as error:
        assert path.name in str(error), f"{type(error).__name__}: {error}"
        assert not isinstance(error, UnicodeError), error
        return None


# -- lists of images -----------------------------------------------------------------------------------------


@given(content=bytes_of(st.lists(st.lists(text, min_size=1, max_size=3).map(" ".join), max_size=4)))
@example(content="a ²".encode())
@example(content=b"a --1")
@example(content=b"a -")
@example(content=b"a " + b"9" * 5000)
@example(content=b"\xff\xfe 1")
def test_lists(tmp_path, content):
    path = tmp_path / "train_list.txt"
    path.write_bytes(content)
    for name, pid in read_or_name(lambda: read_list(path), path) or ():
        assert name and isinstance(pid, int)


@given(name=st.text(max_size=30) | st.from_regex(r"-?\d{1,4}_c\d{1,3}.{0,5}", fullmatch=True))
def test_names(name):
    path = f"folder/{name}"
    try:
        assert all(map(int, match_name(r"(-?[1-9]\d*)_c([1-9]\d*)", path)))
    except ValueError as error:
        assert path in str(error)


# -- the table of one's own images ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with six pictures and a good table of them."""
    folder = tmp_path_factory.mktemp("table")
    parts = ["train", "train", "query", "gallery", "query", "gallery"]
    rows = [",".join(COLUMNS)]
    for number, part in enumerate(parts):
        Image.fromarray(np.full((8, 4, 3), number, dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2] if number < 2 else 'cd'[number > 3]},{1 + number % 2},{part}")
    return folder, rows


def read_folder(folder):
    with dataset_options({"folder": {}}):
        return host.init_image_dataset("folder", root=str(folder), mode="query", verbose=False)


def test_the_good_table_is_read(pictures):
    folder, rows = pictures
    (folder / TABLE).write_text("\n".join(rows))
    assert len(read_folder(folder).query) == 2


@given(data=st.data())
def test_tables(pictures, data):
    folder, rows = pictures
    if data.draw(st.booleans(), "bytes"):
        content = data.draw(bytes_of(st.lists(st.lists(text, min_size=1, max_size=5).map(",".join), max_size=4)))
        content = data.draw(st.sampled_from([b"", (",".join(COLUMNS) + "\n").encode()]), "header") + content
    else:  # one field of one line of the good table
        lines = [row.split(",") for row in rows]
        line = data.draw(st.integers(0, len(lines) - 1), "line")
        lines[line][data.draw(st.integers(0, 3), "column")] = data.draw(text, "field")
        content = "\n".join(map(",".join, lines)).encode("utf-8")
    (folder / TABLE).write_bytes(content)
    try:
        read_folder(folder)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error) or "folder:" in str(error), f"{type(error).__name__}: {error}"
        assert not isinstance(error, UnicodeError), error


# -- keypoints -----------------------------------------------------------------------------------------------

GOOD = ["a.jpg", *["3"] * (2 * len(KEYPOINTS)), "4"]
field = st.integers(-2, 400).map(str) | odd.filter(lambda text: text.split() == [text])
annotations = st.tuples(st.integers(0, len(GOOD) - 1), field).map(
    lambda change: " ".join(change[1] if i == change[0] else value for i, value in enumerate(GOOD))
)


@given(content=bytes_of(st.lists(annotations | st.text(max_size=30), max_size=3)))
@example(content=" ".join([*GOOD[:5], "9" * 30, *GOOD[6:]]).encode())
@example(content=" ".join([*GOOD[:5], "9" * 5000, *GOOD[6:]]).encode())
@example(content=" ".join(["folder/", *GOOD[1:]]).encode())
def test_annotations(tmp_path, content):
    path = tmp_path / "keypoint_train.txt"
    path.write_bytes(content)
    read = read_or_name(lambda: read_annotations(path), path)
    if read is not None:
        assert read.points.shape == (len(read.names), len(KEYPOINTS), 2) and all(read.names)


# -- readers with lists of their own -------------------------------------------------------------------------


@given(content=bytes_of(st.lists(text | st.sampled_from(["car_1_cam1.jpg", "car_1_cam2.jpg"]), max_size=4)))
@example(content=b"\xff\xff_cam1.jpg")
def test_the_lists_of_vehicle2cam(tmp_path, content):
    folder = tmp_path / "vehicle_2cam"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in LISTS:
        (folder / name).write_bytes(content)
    with dataset_options({"vehicle2cam": {"check_counts": False}}), pytest.raises((ValueError, OSError)) as caught:
        host.init_image_dataset("vehicle2cam", root=str(tmp_path), mode="train", verbose=False)
    assert not isinstance(caught.value, UnicodeError), caught.value
