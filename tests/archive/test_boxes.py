"""Lists of boxes: each of the three kinds, and each line that cannot be named and left out."""

import json

import pytest

from torchreid_xres.archive.boxes import read_boxes


def listed(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    return read_boxes(file)


def test_a_table(tmp_path):
    found = listed(
        tmp_path, "det.csv",
        "path;left;top;width;height;camera;time;track\n"
        "a/1.jpg;10;20.4;30;40.3;c1;2024-05-01T12:00:00;7\n"
        "a/1.jpg;-3;0;5;5;;12.5;\n"
        "a/1.jpg;x;0;5;5;;;\n"
        ";1;1;5;5;;;\n"
        "a/1.jpg;1;1;0;5;;;\n"
        "a/1.jpg;1;1;nan;5;;;\n"
        "a/1.jpg;1;1;5;5;;yesterday;\n"
        "a/1.jpg;1\n",
    )  # fmt: skip
    first, second = found.boxes
    assert first.path == "a/1.jpg" and first.corners == (10, 20, 30, 41)  # edges at 20.4 and 60.7
    assert (first.camera, first.time, first.track, first.number) == ("c1", "2024-05-01T12:00:00", "7", 0)
    assert second.corners == (-3, 0, 5, 5) and second.time == "12.5"  # whether it fits, its frame says
    assert list(found.faults) == [f"line {number}" for number in range(4, 10)]
    assert "four numbers, not 'x'" in found.faults["line 4"] and "nothing under path" in found.faults["line 5"]
    assert "a width and a height, not 0 x 5" in found.faults["line 6"] and "nan" in found.faults["line 7"]
    assert "'yesterday' is neither seconds nor a date" in found.faults["line 8"]


def test_motchallenge(tmp_path):
    found = listed(
        tmp_path, "det.txt",
        "1,-1,11,21,30,60,0.9,-1,-1,-1\n2, 4, 1, 1, 9.6, 9, 1\n\n3 5 2 2 8 8 1\n"
        "1,2\n1.5,1,1,1,5,5\n4,1,1,1,5,5,0,1,1\n",
    )  # fmt: skip
    assert [(box.number, box.track, box.corners) for box in found.boxes] == [
        (1, "", (10, 20, 30, 60)), (2, "4", (0, 0, 10, 9)), (3, "5", (1, 1, 8, 8)),
    ]  # fmt: skip
    assert list(found.faults) == ["line 5", "line 6", "line 7"]
    assert "2 numbers" in found.faults["line 5"] and "no number of a frame" in found.faults["line 6"]
    assert "does not count" in found.faults["line 7"]


def test_coco(tmp_path):
    content = {
        "images": [
            {"id": 3, "file_name": "a.jpg", "date_captured": "2024-05-01 12:00:00"},
            {"id": 4, "file_name": "b.jpg", "date_captured": "0"},
        ],
        "annotations": [
            {"image_id": 3, "bbox": [1.2, 2, 3, 4], "track_id": 9},
            {"image_id": 4, "bbox": [1, 2, 3, 4]},
            {"image_id": 5, "bbox": [1, 2, 3, 4]},
            {"image_id": 3},
            {"image_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 1},
            {"image_id": 3, "bbox": [1, 2]},
            7,
        ],
    }
    found = listed(tmp_path, "coco.json", json.dumps(content))
    assert [(box.path, box.corners, box.time, box.track) for box in found.boxes] == [
        ("a.jpg", (1, 2, 3, 4), "2024-05-01 12:00:00", "9"), ("b.jpg", (1, 2, 3, 4), "", ""),
    ]  # fmt: skip
    assert list(found.faults) == [f"annotation {number}" for number in range(3, 8)]
    assert "no image 5" in found.faults["annotation 3"] and "crowd" in found.faults["annotation 5"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "without the column path, left, top, width, height"),
        ("a.csv", "path,left,top\na,1,1\n", "without the column width, height"),
        ("a.csv", "path,left,top,width,height\n", "holds no box that can be used; a list of boxes is"),
        ("a.txt", "1,1,1,1,0,5\n", "no box that can be used; the first, line 1: a box has a width"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "[]", "without images and annotations"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        listed(tmp_path, name, text)
    with pytest.raises(FileNotFoundError, match="there is no list of boxes"):
        read_boxes(tmp_path / "nowhere.csv")
