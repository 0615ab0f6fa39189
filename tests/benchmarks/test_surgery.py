"""A trained network without each of its parts at test: which rows there are, and that they are of what they say."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from tiny_jobs import untrained_run

from torchreid_xres.jobs.extraction import run_features
from torchreid_xres.metrics import rank_features

MSIFLA = {"model__name": "msifla", "data__pairs": False, "model__options": {"widths": [4, 8]}}


@pytest.fixture(scope="module")
def surgery(benchmark_module):
    return benchmark_module("surgery")


def rows_of(surgery, folder, root, tmp_path, monkeypatch):
    argv = ["--run", str(folder), "--root", str(root), "--keep", str(tmp_path / "kept.json")]
    monkeypatch.setattr("sys.argv", ["surgery.py", *argv])
    assert surgery.main(argv) == 0
    return json.loads((tmp_path / "kept.json").read_text())["rows"]


def test_every_part_that_runs_at_test_has_a_row(surgery, tiny_config, tiny_root, tmp_path, monkeypatch):
    run = untrained_run(tiny_config(data__rates=[2.0], **MSIFLA), tmp_path / "run")
    real, seen = surgery.evaluate_features, []

    def evaluated(query, *args, **how):
        seen.append(query.features)
        return real(query, *args, **how)

    monkeypatch.setattr(surgery, "evaluate_features", evaluated)
    rows = rows_of(surgery, run, tiny_root, tmp_path, monkeypatch)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in combinations(map(np.asarray, seen), 2))
    assert [row["put out"] for row in rows] == ["nothing", "cascade x3", "cascade x2", "cascade x1"]
    assert all(set(row) == {"put out", "rank-1", "mAP", "rank-1 x2"} for row in rows)
    assert not (run / "features").exists()
    query, gallery = (run_features(run)[role] for role in ("query", "gallery"))
    whole = rank_features(
        torch.as_tensor(query.features), torch.as_tensor(gallery.features), query.pid, gallery.pid, query.camid,
        gallery.camid, metric="euclidean",
    )  # fmt: skip
    assert rows[0]["mAP"] == pytest.approx(100 * whole.mAP())


def test_a_front_end_put_out_is_an_enlargement(surgery, tiny_config, tiny_root, tmp_path, monkeypatch):
    bicubic, vdsr = (tiny_config(sr__name=name, sr__options=sizes) for name, sizes in (
        ("bicubic", {}), ("vdsr", {"depth": 3, "features": 4, "channels": 3}),
    ))  # fmt: skip
    trained = untrained_run(vdsr, tmp_path / "vdsr")
    state = torch.load(trained / "last.pth.tar")["models"]["model"]
    plain = untrained_run(bicubic, tmp_path / "bicubic")
    reid = {"models": {"model": {key: value for key, value in state.items() if key.startswith("reid.")}}}
    torch.save(reid, plain / "last.pth.tar")
    _, without = rows_of(surgery, trained, tiny_root, tmp_path, monkeypatch)
    (expected,) = rows_of(surgery, plain, tiny_root, tmp_path, monkeypatch)
    assert without == expected | {"put out": "front end"}


def test_networks_that_do_not_rank_are_refused(surgery, tiny_config, tiny_root, tmp_path, capsys):
    cfg = tiny_config(model__name="prpr_restorer", sr__options={}, model__options={"trunk": "light"})
    folder = untrained_run(cfg, tmp_path / "run")
    assert surgery.main(["--run", str(folder), "--root", str(tiny_root)]) == 2
    assert "prpr_restorer gives images or maps; parts are put out of networks that rank" in capsys.readouterr().err


def test_what_is_kept_stands_side_by_side_in_a_table(benchmark_module):
    def kept(dataset, keys, *rows):
        return {"of": {"dataset": dataset}, "rows": [dict(zip(keys, row, strict=True)) for row in rows]}

    figures = ["put out", "rank-1", "mAP"]
    rated = [("nothing", 60.0, 70.26, 61.0, 59.0), ("restorer", 50.0, 60.0, 51.0, 49.0)]
    people = kept("people", [*figures, "rank-1 x4", "rank-1 x8"], *rated)
    vehicles = kept("vehicles", [*figures, "rank-1 x1"], ("nothing", 91.0, 95.0, 91.0), ("stem", 90.0, 94.0, 90.0))
    head, _, *rows = benchmark_module("tables").surgery_table([people, vehicles]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows)]
    assert cells[0] == ["put out", "people: rank-1", "mAP", "r1@x4", "r1@x8", "vehicles: rank-1", "mAP"]
    assert cells[1] == ["nothing", "60.0", "70.3", "61.0", "59.0", "91.0", "95.0"]
    assert cells[2][-2:] == ["-", "-"] and cells[3] == ["stem", *"----", "90.0", "94.0"]
