"""What an earlier version wrote (``golden/kept``, at commit ceeb5f4, before the rooms were parted) is read as it was.

It holds a data set of drawn stripes (``root``), a finished run of a restorer with its state, a run of a re-ID network
without its weights (record, features, VPFA modules), and a gallery with a query's feature.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from torchreid_xres.config import config_hash, load_config
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.features.records import read_record
from torchreid_xres.features.tables import record_tables
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.tasks.panning import load_panning
from torchreid_xres.search import Gallery

KEPT = Path(__file__).parent / "golden" / "kept"
RUN = KEPT / "run" / "split0" / "osnet_x0_25"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A copy, as the working folder: its configurations name each other by relative paths."""
    shutil.copytree(KEPT, tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    return tmp_path / "kept"


@pytest.mark.parametrize("job", ["restorer", "run"])
def test_a_configuration_is_the_same_experiment(kept, job):
    cfg = load_config(kept / job / "config.yaml")
    (run,) = own_runs(cfg, 0, Path(job))
    assert f'"sha256": "{run.sha256}"' in (run.folder / "run.json").read_text()
    assert f'"key": "{config_hash(cfg)}"' in (kept / job / "stages.json").read_text()


def test_a_finished_job_is_finished(kept):
    before = {path: path.read_bytes() for path in kept.rglob("*.tar")}
    for job in ("restorer", "run"):
        assert run_job(load_config(kept / job / "config.yaml"))
    assert before == {path: path.read_bytes() for path in kept.rglob("*.tar")}


def test_a_training_that_was_stopped_before_its_evaluation_goes_on_from_its_state(kept):
    before = json.loads((kept / "restorer/split0/dgrl_restorer/results/folder.json").read_text())
    (kept / "restorer" / "stages.json").unlink()
    shutil.rmtree(kept / "restorer/split0/dgrl_restorer/results")
    (record,) = run_job(load_config(kept / "restorer" / "config.yaml"))
    assert record["epoch"] == 1 and record["weights_sha256"] == before["weights_sha256"]
    for name in ("psnr_x2", "psnr_bicubic_x2", "ssim_x4"):
        assert record[name] == pytest.approx(before[name], rel=1e-4)


def test_a_record_and_its_table():
    record = read_record(RUN)
    assert (record["model"], record["mAP"]) == ("osnet_x0_25", 100.0) and record["curve"]["2"]["rank1"] == 100.0
    assert "| folder" in record_tables([record])[0]


def test_features_and_modules():
    query, gallery = (FeatureSet.load(RUN / "features" / f"{role}.npz") for role in ("query", "gallery"))
    assert query.features.shape == gallery.features.shape == (4, 512) and query.weights_sha256 == gallery.weights_sha256
    for name in ("mean", "conditioned"):
        module, about = load_panning(next(RUN.glob(f"vpfa-*/{name}.pth.tar")))
        assert about and torch.isfinite(module(query.features, torch.from_numpy(query.rate))).all()


def test_a_gallery_is_searched(kept):
    gallery = Gallery(kept / "gallery")
    (hits,) = gallery.search(torch.from_numpy(np.load(kept / "query.npy"))[None], top=4)
    assert [hit.name for hit in hits] == [
        "004/004_c2_0.png", "004/004_c2_1.png", "005/005_c2_1.png", "005/005_c2_0.png",
    ]  # fmt: skip
    assert [hit.score for hit in hits] == pytest.approx([-0.0022383, -0.0025600, -0.0209337, -0.0215252], abs=1e-6)
