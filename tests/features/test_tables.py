import json

import pytest
from scripts import script

from torchreid_xres.features.tables import ablation_table, accuracy_table, curve_table, rank1_by_resolution


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


def test_quarters_by_size_stand_beside_each_other_over_several_splits():
    def quarters(*found):
        return [{"quarter": 1 + i, "from": 10.0, "rank1": figure} for i, figure in enumerate(found) if figure]

    one, two = record("a", by_rate={"1": {"rank1": 50.0}}), record("a", by_rate={"1": {"rank1": 50.0}})
    records = [one | {"by_size": quarters(40.0, 50.0, 60.0, 70.0)}, two | {"by_size": quarters(42.0, None, 60.0, 70.0)}]
    head, _, first, second = cells(accuracy_table([*records, record("b")]))
    assert head[7:-2] == ["r1@Q1", "r1@Q2", "r1@Q3", "r1@Q4"]  # one rate is no column
    assert first[7:11] == ["41.0 ± 1.4", "50.0", "60.0 ± 0.0", "70.0 ± 0.0"] and second[7:11] == ["-"] * 4


def test_rates_come_before_quarters_and_in_their_order():
    by_rate = {rate: {"rank1": 1.0} for rate in ("10", "2", "1.5")}
    one = {"by_rate": by_rate, "by_size": [{"quarter": 4, "rank1": 2.0}, {"quarter": 1, "rank1": 3.0}]}
    (found,) = rank1_by_resolution([[one]])
    assert list(found.items()) == [
        ("r1@x1.5", "1.0"), ("r1@x2", "1.0"), ("r1@x10", "1.0"), ("r1@Q1", "3.0"), ("r1@Q4", "2.0"),
    ]  # fmt: skip


def test_curves_show_only_models_that_have_one():
    curve = {"1": {"rank1": 90.0, "mAP": 80.0}, "4": {"rank1": 30.0, "mAP": 20.0}}
    records = [record("a", curve=curve), record("b")]
    head, _, row = cells(curve_table(records, ["mAP"]))
    assert head[-2:] == ["x1", "x4"] and row == ["d", "a", "mAP", "80.0", "20.0"]


def test_a_figure_that_is_not_given_is_left_out():
    row = {"label": "a", "quoted": [88.84, None], "records": [record()]}
    head, _, (name, *found) = cells(ablation_table({"figures": ["rank1", "mAP"], "rows": [row]}))
    assert head[-4:] == ["quoted rank-1", "quoted mAP", "quoted from", "notes"]
    assert (name, found[-4:]) == ("a", ["88.84", "-", "-", "-"])


def test_what_is_other_than_in_the_paper_stands_below_an_ablation():
    measured = record(psnr=27.126, ssim=0.9137, input=[64, 32], epochs=3)
    rows = [
        {"label": "a", "quoted": [27, 0.04], "paper": "Table 1, A", "differs": ["both", "first"]},
        {"label": "b", "quoted": [None, None], "paper": "Table 1, B", "differs": ["second", "both"]},
    ]
    held = [{**row, "records": [one]} for row, one in zip(rows, (measured, record()), strict=True)]
    text = ablation_table({"source": "them", "figures": ["psnr", "ssim"], "rows": held})
    table, on, notes = text.split("\n\n")
    head, _, first, second = cells(table)
    assert head[1:4] == ["PSNR", "SSIM", "mAP"] and head[4:6] == ["quoted PSNR", "quoted SSIM"]
    assert first == ["a", "27.13", "0.914", "70.0", "27.0", "0.04", "Table 1, A", "1, 2"]
    assert second == ["b", "-", "-", "70.0", "-", "-", "Table 1, B", "1, 3"]  # notes in their order
    assert on == "Measured on d at 64x32, epochs: 3. Quoted from them."
    assert notes == "1. both\n2. first\n3. second"


def test_an_ablation_of_no_paper_has_no_columns_for_one():
    row = {"label": "a", "quoted": [None], "paper": "none", "differs": ["first"]}
    rows = [row | {"records": [record(input=[64, 32], epochs=3)]}]
    table, on, _ = ablation_table({"source": "no paper", "figures": ["mAP"], "rows": rows}).split("\n\n")
    assert cells(table)[0] == ["", "mAP", "notes"] and on == "Measured on d at 64x32, epochs: 3. Of no paper."


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
