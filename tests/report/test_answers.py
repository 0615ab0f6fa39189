"""What a search found is handed over whole, and no name in it does anything."""

import csv
import io
import json
from pathlib import Path

import PIL.Image
import pytest

from torchreid_xres.report.answers import Answer, Found, cell, content, page, sheet, table, write_answers
from torchreid_xres.search.hits import Hit

ABOUT = {"gallery": "log/g", "images": 7, "model": "m", "weights_sha256": "f" * 64, "strangers": True}
GREY = PIL.Image.new("RGB", (8, 16), "grey")
NASTY = '<script>alert(1)</script>".jpg'


def answer(name="a.jpg", **more):
    asked = {"file": "query.jpg", "box": [1, 2, 3, 4], "size": [16, 8], "rate": 1.0, "low": False}
    hits = [
        Found(Hit(1, -0.25, name, Path("/pictures") / name, (16, 8)), GREY, 0.0234, True),
        Found(Hit(2, -0.5, "=1+1.jpg", Path("=1+1.jpg"), (32, 8)), None, 3.2, False),
    ]
    return Answer(asked | more, "16x8, full resolution", GREY, None, hits)


def test_a_page_needs_nothing_and_shows_names_as_text():
    text = page(ABOUT, [answer(NASTY, file="<b>q</b>.jpg")])
    assert "<script" not in text and "&lt;script&gt;" in text and "<b>q" not in text
    assert text.count("data:image/jpeg") == 2 and "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text and "<details" not in text and "@media print" in text
    assert ">0.02<" in text and ">3<" in text and ">gone<" in text and 'class="accepted"' in text


def test_a_table_holds_what_json_holds_and_no_formula():
    rows = list(csv.DictReader(io.StringIO(table(ABOUT, [answer(), answer(file="@x.jpg")]))))
    assert [row["query"] for row in rows] == ["query.jpg"] * 2 + ["'@x.jpg"] * 2
    assert rows[0]["query_box"] == "1 2 3 4" and rows[0]["height"] == "16" and float(rows[0]["score"]) == -0.25
    assert rows[1]["file"] == "'=1+1.jpg" and rows[1]["accepted"] == "False" and "camera" not in rows[0]
    found = content(ABOUT, [answer()])
    assert found["hits"][0] == {
        "rank": 1, "score": -0.25, "file": "/pictures/a.jpg", "size": [16, 8], "strangers": 0.0234, "accepted": True,
    }  # fmt: skip
    assert set(content(ABOUT, [answer()], several=2)) == {*ABOUT, "queries"}


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "  =1", "\n=1"])
def test_formulas_get_a_quote(text):
    assert cell(text) == f"'{text}" and cell(-1.5) == -1.5 and cell(None) is None


def test_files_are_written_by_their_ending(tmp_path):
    for name in ("hits.html", "hits.csv", "hits.json", "hits.png"):
        (path,) = write_answers(tmp_path / name, ABOUT, [answer()])
        assert path == tmp_path / name and path.stat().st_size
    assert json.loads((tmp_path / "hits.json").read_text())["hits"][1]["rank"] == 2
    several = write_answers(tmp_path / "of.png", ABOUT, [answer(), answer()._replace(number=3)], several=10)
    assert [path.name for path in several] == ["of_01.png", "of_03.png"]  # the second could not be read
    with PIL.Image.open(several[0]) as drawn:
        assert drawn.size == sheet(answer()).size
