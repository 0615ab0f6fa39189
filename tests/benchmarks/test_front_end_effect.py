"""A trained run with and without its front end: the figures of both, and what cannot be measured."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_jobs import untrained_run

from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.jobs.run import Run

HRNET = {"model__options": {"backbone": "hrnet_w18_small"}, "data__height": 64, "data__width": 32}
VDSR_CA = {"sr__name": "vdsr_ca", "sr__options": {"depth": 3, "features": 4, "squeezed": 2}}
CASES = {
    "sr_reid": {"data__height": 64, "data__width": 32},
    "psh_rnet": {"model__name": "psh_rnet", "loss__ps__weight": 0.0, **HRNET, **VDSR_CA},
}


@pytest.fixture(scope="module")
def effect(benchmark_module):
    return benchmark_module("front_end_effect")


@pytest.fixture
def job(effect, tiny_config, tmp_path):
    """Return a function: changes to the folder of a job, untrained."""

    def make(**changes):
        cfg, folder = tiny_config(**changes), tmp_path / "run"
        Run(cfg, 0, folder, "0", name="job").save()  # the job's own configuration lies beside its runs
        untrained_run(cfg, effect.trained_folder(folder, 0))
        return folder

    return make


def slow_psnr(root, rate):
    """Mean PSNR of the low queries of tiny_root, enlarged bilinearly, by PIL and NumPy."""
    found = []
    for path in sorted(root.glob("query/*/*_c1_*.png")):
        original = Image.open(path).convert("RGB")
        enlarged = degrade_image(original, rate, "area").resize(original.size, Image.BILINEAR)
        error = (np.asarray(original, float) - np.asarray(enlarged, float)) / 255
        found.append(-10 * np.log10((error**2).mean()))
    return np.mean(found)


@pytest.mark.parametrize("model", CASES)
def test_both_rows_have_what_the_papers_table_has(effect, job, tiny_root, model, tmp_path, monkeypatch):
    folder = job(data__rates=[4.0], **CASES[model])
    argv = [str(folder), "--root", str(tiny_root), "--keep", str(tmp_path / "kept.json")]
    monkeypatch.setattr("sys.argv", ["front_end_effect.py", *argv])
    assert effect.main(argv) == 0
    without, with_it = json.loads((tmp_path / "kept.json").read_text())["rows"]
    assert [row["front end"] for row in (without, with_it)] == ["without", "with"]
    for row in (without, with_it):
        assert set(row) == {"front end", "rank-1", "mAP", "PSNR", "SSIM", "PSNR x4"}
        assert row["PSNR"] == row["PSNR x4"] and 0 < row["SSIM"] < 1
    assert without["PSNR"] == pytest.approx(slow_psnr(tiny_root, 4.0), abs=0.01)
    assert with_it["PSNR"] != without["PSNR"] and with_it["SSIM"] != without["SSIM"]


def test_a_model_whose_front_end_cannot_be_left_out_is_refused(effect, job, tiny_root, capsys):
    folder = job(model__name="hrnet_reid", **HRNET)
    assert effect.main([str(folder), "--root", str(tiny_root)]) == 2
    told = capsys.readouterr().err
    assert "hrnet_reid has no front end that can be left out; sr_reid and psh_rnet have one" in told
