import logging

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_xres import host
from torchreid_xres.data import dataset_options
from torchreid_xres.keypoints import KeypointTable, read_annotations


def line(name, points=None, code=3, folder="VeRi/image_test"):
    """Return a line: points is {index: (x, y)}."""
    pixels = [(-1, -1)] * 20
    for k, place in (points or {0: (4, 2)}).items():
        pixels[k] = place
    return " ".join(map(str, (f"{folder}/{name}", *(v for place in pixels for v in place), code)))


@pytest.fixture
def written(tmp_path):
    def write(*lines, name="keypoint_test.txt"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_the_public_test_file(shared_data, caplog):
    """12,079 lines of 11,579 pictures of VeRi's test set, of which one is misnamed."""
    file = shared_data / "veri_keypoints" / "keypoint_test.txt"
    if not file.is_file():
        pytest.skip(f"no file {file}")
    read = read_annotations(file)
    assert (read.lines, len(read.names), len(read.repeated), read.contradicted) == (12079, 11579, 500, ())
    assert read.points.shape == (11579, 20, 2) and set(read.orientations) == set(range(8))
    assert "500 of 12079 lines repeat an earlier line: 0030_c008_00049745_0.jpg" in caplog.text
    # Against the file itself.
    row = read.row["0027_c019_00012010_0.jpg"]
    assert read.points[row, 1].tolist() == [110, 202] and read.points[row, 2].tolist() == [-1, -1]
    assert read.orientations[row] == 4
    # The set's own names: they are the file's, but for the one that is wrong.
    wrong, right = "0009_c015_00068800_0.jpg", "0009_c017_00068800_0.jpg"
    images = [f"/VeRi/image_test/{right if name == wrong else name}" for name in read.names]
    assert read.compare(images) == ([wrong], [right])


def test_lines_that_come_again(written, caplog):
    file = written(line("a.jpg"), line("b.jpg"), line("a.jpg"), line("b.jpg", {5: (1, 1)}), line("c.jpg", code=0))
    read = read_annotations(file)
    assert read.names == ("a.jpg", "b.jpg", "c.jpg") and read.lines == 5
    assert read.repeated == ("a.jpg",) and read.contradicted == ("b.jpg",)
    assert read.points[1, 0].tolist() == [4, 2]  # the earlier line holds
    assert "1 of 5 lines repeat an earlier line: a.jpg" in caplog.text
    assert "1 of 5 lines contradict an earlier line: b.jpg" in caplog.text


@pytest.mark.parametrize(
    "damaged, message",
    [
        (line("b.jpg")[:-2], "line 2: 41 fields instead of 42"),
        ("b.jpg", "line 2: 1 fields instead of 42"),
        (line("b.jpg").replace(" 4 2", " 4 two"), "line 2: .*'two'"),
        (line("b.jpg", {1: (-1, 7)}), "line 2: left back wheel at -1 7; allowed are"),
        (line("b.jpg", {1: (-3, -3)}), "line 2: left back wheel at -3 -3"),
        (line("b.jpg", code=8), "line 2: orientation 8; allowed are 0 to 7"),
    ],
)
def test_damaged_lines_are_named(written, damaged, message):
    with pytest.raises(ValueError, match=rf"keypoint_test\.txt has 1 damaged lines of 4: {message}"):
        read_annotations(written(line("a.jpg"), damaged, "", line("c.jpg")))


def test_many_damaged_lines_are_counted(written):
    with pytest.raises(ValueError, match=r"has 9 damaged lines of 10: line 2: .* line 6: .* and 4 more"):
        read_annotations(written(line("a.jpg"), *["x"] * 9))


def test_a_missing_and_an_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no keypoint annotation .*none\.txt"):
        read_annotations(tmp_path / "none.txt")
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        read_annotations(empty)


TRAIN = ("0001_c001_00000001_0.jpg", "0001_c002_00000001_0.jpg")
TEST = ("0002_c001_00000001_0.jpg", "0002_c002_00000001_0.jpg")


@pytest.fixture
def veri(tmp_path):
    """A tree of VeRi-776 with two pictures of 8 x 4 pixels in each part; the query is in the gallery, too."""
    folder = tmp_path / "VeRi"
    for part, names in (("image_train", TRAIN), ("image_query", TEST[:1]), ("image_test", TEST)):
        (folder / part).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(folder / part / name)
    (folder / "keypoint_train.txt").write_text("\n".join(line(n, folder="VeRi/image_train") for n in TRAIN) + "\n")
    (folder / "keypoint_test.txt").write_text("\n".join(line(n) for n in TEST) + "\n")

    def build(mode):
        with dataset_options({"veri776_x8": {"check_counts": False}}):
            return host.init_image_dataset("veri776_x8", root=str(tmp_path), mode=mode, verbose=False)

    build.folder = folder
    return build


def test_points_are_fractions_of_the_original_picture(veri):
    """Not of the 128 x 128 it is brought to; a pixel counts with its centre."""
    (veri.folder / "keypoint_train.txt").write_text(
        line(TRAIN[0], {0: (0, 0), 1: (7, 3), 2: (4, 2), 3: (9, 1)}) + "\n" + line(TRAIN[1]) + "\n"
    )
    dataset = veri("train")
    table = KeypointTable(dataset)
    points = table.points([path for path, *_ in dataset.train])
    assert len(table) == 2 and points.shape == (2, 20, 2) and points.dtype == torch.float32
    expected = [[0.5 / 8, 0.5 / 4], [7.5 / 8, 3.5 / 4], [4.5 / 8, 2.5 / 4], [1.0, 1.5 / 4], [-1, -1]]
    torch.testing.assert_close(points[0, :5], torch.tensor(expected))


def test_each_mode_has_its_file_and_the_query_shares_the_gallerys(veri, caplog):
    query, gallery = veri("query"), veri("gallery")
    assert query.keypoints_file == gallery.keypoints_file != veri("train").keypoints_file
    table = KeypointTable(query, gallery)
    assert len(table) == 3 and caplog.text == ""


def test_wrong_and_missing_names_are_reported_and_survived(veri, caplog):
    (veri.folder / "keypoint_test.txt").write_text(line(TEST[0]) + "\n" + line("0002_c009_00000001_0.jpg") + "\n")
    with caplog.at_level(logging.WARNING):
        table = KeypointTable(veri("gallery"))
    assert len(table) == 1
    assert "1 names are no image of the set: 0002_c009_00000001_0.jpg" in caplog.text
    assert "1 images have no keypoints: 0002_c002_00000001_0.jpg" in caplog.text


def test_a_set_without_keypoints_and_a_strangers_file(veri, tiny_root):
    with dataset_options({"folder": {"synthetic": True}}):
        people = host.init_image_dataset("folder", root=str(tiny_root), mode="train", verbose=False)
    with pytest.raises(ValueError, match="folder has no keypoint annotation; synth_vehicle and veri776_x8 have"):
        KeypointTable(people)
    with pytest.raises(ValueError, match="folder has no keypoint annotation"):
        KeypointTable(veri("train") + people)
    (veri.folder / "keypoint_train.txt").write_text(line("other.jpg") + "\n")
    with pytest.raises(ValueError, match=r"names none of the 2 images of the set, such as .*; its first is other\.jpg"):
        KeypointTable(veri("train"))
    (veri.folder / "keypoint_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"keypoint_train\.txt"):
        KeypointTable(veri("train"))
