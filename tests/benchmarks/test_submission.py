"""A row that is sent to others: what its folder holds, what a check of it finds, and a cell that is run again."""

import json
from pathlib import Path

import numpy as np
import pytest

from torchreid_xres.config import ConfigError, load_config

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "accuracy_synth_person.json"
(MANIFEST,) = json.loads(KEPT.read_text(encoding="utf-8"))["manifests"]


@pytest.fixture
def accuracy(benchmark_module):
    return benchmark_module("accuracy")


@pytest.fixture
def measured(benchmark_module, monkeypatch):
    """Let cells be made up, of two rates, with figures that follow from their queries; returns what shifts mAP."""
    shift = {"mAP": 0.0}

    def run_cell(row, cfg, out):
        ap = np.array([10.0 * cfg.train.seed, 20.0, 30.0, 60.0], np.float32) + shift["mAP"]
        first = np.array([0.0, 100.0, 100.0, 100.0], np.float32)
        rate = np.array([4, 4, 6, 6], np.float32)
        others = {"rank5": 1.0, "rank10": 1.0, "mINP": 1.0}

        def figures(rows):
            return {"rank1": float(first[rows].mean()), "mAP": float(ap[rows].mean())} | others

        by_rate = {f"{one:g}": figures(rate == one) for one in (4.0, 6.0)}
        record = {"dataset": "d", "split_id": 0, "manifest": MANIFEST, "by_rate": by_rate} | figures(rate > 0)
        origin = {"commit": "0" * 12, "processor": "p", "threads": 1, "precision": "fp32", "versions": {"torch": "2"}}
        costs = dict.fromkeys(("parameters", "multiply_adds", "train_seconds", "train_speed", "extraction_speed"), 1.0)
        queries = {"pid": np.arange(4), "split": np.zeros(4, np.int16), "rate": rate, "rank1": first, "mAP": ap}
        return {"records": [record], "queries": queries, "cost": costs, "origin": origin}

    monkeypatch.setattr(benchmark_module("collect"), "run_cell", run_cell)
    return shift


@pytest.fixture
def sent(accuracy, measured, tmp_path):
    """The folder of a row of two seeds."""
    own, folder = tmp_path / "own.yaml", tmp_path / "sent"
    own.write_text("model: {name: osnet_x0_5}\n")
    argv = ["--suite", "synth_person", "--out", str(tmp_path / "out"), "--only", "augmented", "--seeds", "1", "2"]
    argv += ["--root", "/elsewhere", "--row", f"own={own}", "--submit", str(folder)]
    assert accuracy.main(argv) == 0
    return folder


def wrong_lines(capsys):
    return [line[5:].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]


def test_a_row_that_is_sent_says_all_about_itself(accuracy, sent, capsys):
    about = json.loads((sent / "row.json").read_text())
    assert (about["suite"], about["label"], about["seeds"]) == ("synth_person", "own", [1, 2])
    assert sorted(about["files"]) == sorted(path.name for path in sent.iterdir() if path.name != "row.json")
    assert not any("elsewhere" in path.read_text() for path in sent.glob("*.[jy]*"))
    cfg = load_config(sent / "own_2.yaml")
    assert cfg.model.name == "osnet_x0_5" and cfg.train.seed == 2 and cfg.data.rates == [4.0, 6.0, 8.0]
    capsys.readouterr()
    assert accuracy.main(["check", str(sent)]) == 0
    shown = capsys.readouterr().out
    assert "4 queries give the printed figures" in shown and "the configuration is the one that was run" in shown
    assert shown.count("not known here") == 2 and "WRONG" not in shown


def changed(sent, name, change):
    content = json.loads((sent / name).read_text())
    change(content)
    (sent / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda sent: changed(sent, "own_1.json", lambda cell: cell["records"][0].update(mAP=99.0)),
         "own_1: the queries give other figures: mAP 30.00, not 99.00"),
        (lambda sent: changed(sent, "own_1.json", lambda cell: cell["records"][0]["by_rate"]["6"].update(rank1=1.0)),
         "rank1 at x6 100.00, not 1.00"),
        (lambda sent: (sent / "own_2.npz").unlink(), "own_2: no figures by query"),
        (lambda sent: (sent / "own_2.json").write_text("{"), "own_2: "),
        (lambda sent: (sent / "own_1.yaml").write_text("data: {rates: [2.0]}"),
         "own_1: the configuration is not the one that was run"),
        (lambda sent: (sent / "own_1.yaml").write_text("data: {rates: [2.0]}"), "data.rates"),
        (lambda sent: changed(sent, "own_1.json", lambda cell: cell["records"][0].update(manifest="other")),
         "own_1: records of other manifests: other"),
        (lambda sent: changed(sent, "own_1.json", lambda cell: cell["origin"].update(commit="1" * 12 + "-dirty")),
         "own_1: made by changed files over commit 111111111111"),
        (lambda sent: changed(sent, "own_1.json", lambda cell: cell["origin"].pop("threads")),
         "own_1: says nothing of threads"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(accuracy, sent, change, told, capsys):
    change(sent)
    capsys.readouterr()
    assert accuracy.main(["check", str(sent)]) == 1
    found = wrong_lines(capsys)
    assert found[0].startswith("files: own_") and found[0].endswith("missing or changed since")
    assert any(told in line for line in found[1:])


def test_another_manifest_than_that_of_the_kept_rows_is_named(accuracy, sent, capsys):
    changed(sent, "row.json", lambda about: about.update(manifests=["other"]))
    capsys.readouterr()
    assert accuracy.main(["check", str(sent)]) == 1
    assert wrong_lines(capsys)[0] == "manifest: not that of the suite's kept rows (other)"


def test_what_is_no_submission(accuracy, sent, tmp_path, capsys):
    assert accuracy.main(["check", str(tmp_path / "gone")]) == 2
    assert "row.json" in capsys.readouterr().err
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("")
    argv = ["--suite", "synth_person", "--out", str(tmp_path / "out"), "--only", "augmented", "--seeds", "1"]
    assert accuracy.main([*argv, "--row", f"own={tmp_path / 'own.yaml'}", "--submit", str(full)]) == 2
    assert "the folder holds something else" in capsys.readouterr().err and len(list(full.iterdir())) == 1
    assert accuracy.main([*argv, "--submit", str(full)]) == 2
    assert "--submit writes the row of one --row, and there are 0" in capsys.readouterr().err


def test_a_kept_cell_is_run_again(accuracy, measured, tmp_path, capsys):
    kept = tmp_path / "kept.json"
    argv = ["--suite", "synth_person", "--out", str(tmp_path / "out"), "--only", "augmented", "--seeds", "1", "2"]
    assert accuracy.main([*argv, "--keep", str(kept)]) == 0
    again = ["verify", "--suite", "synth_person", "--kept", str(kept)]
    capsys.readouterr()
    assert accuracy.main([*again, "--cell", "augmented:2", "--out", str(tmp_path / "same")]) == 0
    shown = capsys.readouterr().out
    assert "mAP: kept 32.50, now 32.50: the same" in shown and "processor and threads as then" in shown
    measured["mAP"] = 3.0  # the deviation over two seeds that are 2.5 apart is 1.77
    assert accuracy.main([*again, "--cell", "augmented:2", "--out", str(tmp_path / "near")]) == 0
    assert "mAP: kept 32.50, now 35.50: +3.00, within 2 x 1.77" in capsys.readouterr().out
    measured["mAP"] = 4.0
    assert accuracy.main([*again, "--cell", "augmented:2", "--out", str(tmp_path / "far")]) == 1
    assert "+4.00, beyond 2 x 1.77" in capsys.readouterr().out
    assert accuracy.main([*again, "--cell", "augmented:3"]) == 2
    assert "no such cell is kept; there are: augmented:1, augmented:2" in capsys.readouterr().err


def test_one_seed_says_nothing_of_how_far_is_near(benchmark_module):
    compared = benchmark_module("verify").compared
    kept = {1: [{"rank1": 50.0, "mAP": 60.0}]}
    assert compared(kept, 1, [{"rank1": 50.0, "mAP": 60.0}])["mAP"].told == "the same"
    other = compared(kept, 1, [{"rank1": 50.1, "mAP": 60.0}])["rank1"]
    assert not other.sound and "one seed" in other.told


def test_a_submission_needs_a_finished_cell(benchmark_module, tmp_path):
    suites, submission = benchmark_module("suites"), benchmark_module("submission")
    suite = suites.suite_of("synth_person")
    with pytest.raises(ConfigError, match="no cell of augmented is finished"):
        submission.submit(suite, suite.rows["augmented"], [], [], "", tmp_path / "sent")
    assert not (tmp_path / "sent").exists()
