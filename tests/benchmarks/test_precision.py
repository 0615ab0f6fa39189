"""The ranks of a trained run under each option of speed."""

import json

import pytest
import tiny_net

from torchreid_xres.config import load_config
from torchreid_xres.jobs.job import own_runs

TINY = [
    "model.reid", tiny_net.NAME, "sr.options", {"depth": 3, "features": 4},
    "data.height", 32, "data.width", 16, "train.batch_size", 8, "train.max_epoch", 1, "use_gpu", False,
    "data.options.synth_person", {"train_identities": 8, "test_identities": 4, "images_per_camera": 2},
]  # fmt: skip


def test_rows_name_what_moved(benchmark_module, repo, tmp_path):
    cfg = load_config(repo / "configs" / "quickstart.yaml", [*TINY, "data.root", str(tmp_path)])
    run = own_runs(cfg, 0, tmp_path)[0]
    run.work()
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    keep = tmp_path / "kept.json"
    module = benchmark_module("precision")
    assert module.main([str(run.folder), "--keep", str(keep)]) == 0
    kept = json.loads(keep.read_text())
    rows = kept["rows"]
    assert [row["side"] for row in rows] == ["fp32", "+ channels last", "+ bf16"]
    record = json.loads((run.folder / "results" / "synth_person.json").read_text())
    as_run = rows[{"fp32": 1, "bf16": 2}[record["precision"]]]  # the run was channels last, at this precision
    assert {key: as_run[key] for key in ("rank1", "mAP")} == pytest.approx({k: record[k] for k in ("rank1", "mAP")})
    assert as_run["mAP moved"] == pytest.approx(record["mAP"] - rows[0]["mAP"])
    assert str(tmp_path) not in kept["command"]
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()} == before


def test_a_folder_without_a_run_is_named(benchmark_module, tmp_path, capsys):
    assert benchmark_module("precision").main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
