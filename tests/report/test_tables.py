import json

import pytest
from scripts import script

from torchreid_xres.report.tables import ablation_table, accuracy_table, curve_table


def record(model="m", rank1=50.0, **more):
    figures = dict.fromkeys(("rank5", "rank10", "mAP", "mINP"), 70.0)
    return {"dataset": "d", "model": model, "parameters": 2e6, "rank1": rank1, "by_rate": {}, **figures, **more}


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_one_row_per_model_and_the_rates_apart():
    rates = {"2": {"rank1": 60.0}, "4": {"rank1": 40.0}}
    head, _, first, second = cells(accuracy_table([record("a", by_rate=rates), record("b", 30.0)]))
    figures = ["rank-1", "rank-5", "rank-10", "mAP", "mINP"]
    assert head == ["data set", "model", *figures, "r1@x2", "r1@x4", "params (M)", "train (s)"]
    assert first[1:3] == ["a", "50.0"] and first[7:9] == ["60.0", "40.0"]
    assert second[1:3] == ["b", "30.0"] and second[7:9] == ["-", "-"]


def test_curves_show_only_models_that_have_one():
    curve = {"1": {"rank1": 90.0, "mAP": 80.0}, "4": {"rank1": 30.0, "mAP": 20.0}}
    records = [record("a", curve=curve), record("b")]
    head, _, row = cells(curve_table(records, ["mAP"]))
    assert head[-2:] == ["x1", "x4"] and row == ["d", "a", "mAP", "80.0", "20.0"]


def test_a_figure_that_is_not_given_is_left_out():
    row = {"label": "a", "quoted": [88.84, None], "records": [record()]}
    head, _, (name, *found) = cells(ablation_table({"figures": ["rank1", "mAP"], "rows": [row]}))
    assert head[-2:] == ["quoted rank-1", "quoted mAP"] and (name, found[-2:]) == ("a", ["88.8", "-"])


@pytest.fixture
def tables(repo):
    return script(repo / "benchmarks" / "tables.py")


def test_kept_records_fill_a_document(tables, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    (tmp_path / "stages.json").write_text(json.dumps({"key": "k", "done": {"split0/m": [record()]}}))
    tables.main(["keep", str(tmp_path), "--name", "mine", "--command", "train"])
    document = tmp_path / "doc.md"
    document.write_text("before\n<!-- accuracy: mine -->\nold\n<!-- end -->\nafter\n")
    tables.main(["write", str(document)])
    text = document.read_text()
    assert "50.0" in text and "old" not in text and text.startswith("before\n") and text.endswith("after\n")
    tables.main(["write", str(document)])
    assert document.read_text() == text


def test_names_that_are_not_kept_are_one_message(tables, tmp_path, capsys):
    assert tables.main(["show", "quickstrt"]) == 2
    assert "no records are kept as 'quickstrt'; did you mean 'quickstart'? There are: " in capsys.readouterr().err
    document = tmp_path / "doc.md"
    document.write_text("<!-- accuracy: nosuch -->\nold\n<!-- end -->\n")
    assert tables.main(["write", str(document)]) == 2 and "old" in document.read_text()
    assert "no records are kept as 'nosuch'. There are: " in capsys.readouterr().err
    assert tables.main(["write", str(tmp_path / "nosuch")]) == 2
    assert f"there is no document {tmp_path / 'nosuch'}" in capsys.readouterr().err
