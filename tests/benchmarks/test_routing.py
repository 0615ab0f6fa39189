"""Who should answer a query, by labels: what the rows say is what a slow look says."""

import json

import numpy as np
import pytest
import torch
from tiny_jobs import untrained_run

from torchreid_xres.engine.asymmetric import kept_out
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import trained_engine

ASYMMETRIC = {
    "model__name": "asymmetric", "model__options": {"query_size": [16, 8]}, "loss__asymmetric__held_out": 0.3,
    "sampler__train_sampler": "RandomSampler", "train__epoch_batches": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def routing(benchmark_module):
    return benchmark_module("routing")


def test_each_rate_has_what_both_encoders_find(routing, tiny_config, tiny_root, tmp_path, monkeypatch):
    folder = untrained_run(tiny_config(**ASYMMETRIC), tmp_path / "run")
    argv = ["--run", str(folder), "--root", str(tiny_root), "--keep", str(tmp_path / "kept.json")]
    monkeypatch.setattr("sys.argv", ["routing.py", *argv])
    assert routing.main(argv) == 0
    kept = json.loads((tmp_path / "kept.json").read_text())
    rows = kept["rows"]
    assert [row["rate"] for row in rows] == list(routing.RATES)
    assert rows[0]["agreement, gallery"] > 0.99 and rows[-1]["agreement, gallery"] < rows[0]["agreement, gallery"]
    cautious, early = ([row[f"caution {caution}"] for row in rows] for caution in ("1", "0.25"))
    assert set(cautious) <= {"query", "gallery"} and early.count("query") >= cautious.count("query")
    _, engine = trained_engine(folder, root=tiny_root)
    model, train = unwrap(engine.model).eval(), engine.datamanager.train_loader.dataset.train
    held_out = kept_out(engine.datamanager.train_loader.dataset, engine._sharp, 0.3)
    assert kept["of"]["images"] == len(held_out) > 2
    with torch.no_grad():
        everyone = torch.cat([model.describe_gallery(b["img"]) for b in engine.as_captured(range(len(train)))])
        unit = torch.nn.functional.normalize(everyone, dim=1)
        found = []
        for i in held_out:  # at rate 1 the view is the image, but for its way through 8 bits
            others = [j for j in range(len(train)) if train[j][2] != train[i][2]]
            similar = (unit[others] @ unit[i]).numpy()
            right = np.array([train[j][1] == train[i][1] for j in others])[np.argsort(-similar, kind="stable")]
            places = np.flatnonzero(right)
            found.append(np.mean((np.arange(len(places)) + 1) / (places + 1)))
    assert rows[0]["mAP, gallery"] == pytest.approx(100 * np.mean(found), abs=2)


def test_another_model_has_no_routing(routing, tiny_config, tiny_root, tmp_path, capsys):
    folder = untrained_run(tiny_config(sr__name="bicubic", sr__options={}), tmp_path / "run")
    assert routing.main(["--run", str(folder), "--root", str(tiny_root)]) == 2
    assert "has no query encoder" in capsys.readouterr().err
