"""What a run's record says of its front end as a restorer."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.engine.restoration import restoration, tell
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.models.restored import restores

SIZE = {"data__height": 64, "data__width": 32}  # that of the files


@pytest.fixture
def opened(tiny_config):
    """Return a function: changes to the network of a run, in evaluation mode, and its gallery."""

    def make(**changes):
        cfg = tiny_config(**SIZE, **changes)
        run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
        manager = run.datamanager()
        return run._model(manager.num_train_pids).eval(), manager.test_loader["folder"]["gallery"].dataset

    return make


def slow_psnr(paths, rate):
    """Mean PSNR of pictures at a rate, enlarged bilinearly, by PIL and NumPy."""
    found = []
    for path in paths:
        original = Image.open(path).convert("RGB")
        enlarged = degrade_image(original, rate, "area").resize(original.size, Image.BILINEAR)
        error = (np.asarray(original, float) - np.asarray(enlarged, float)) / 255
        found.append(-10 * np.log10((error**2).mean()))
    return np.mean(found)


def test_gains_are_over_plain_enlargement_at_each_rate(opened):
    model, gallery = opened(data__rates=[2.0, 4.0])
    with torch.no_grad():
        model.front_end.last.weight.fill_(0.01)
    found = restoration(model, gallery, count=5, batch_size=2)
    chosen = [path for path, *_ in gallery.gallery][:: (len(gallery.gallery) - 1) // 4][:5]
    assert found["images"] == len(chosen) == 5 and list(found["by_rate"]) == ["2", "4"]
    for rate, figures in found["by_rate"].items():
        assert figures["psnr"] - figures["psnr_gain"] == pytest.approx(slow_psnr(chosen, float(rate)), abs=0.02)
        assert figures["psnr_gain"] != 0 and 0 < figures["ssim"] < 1 and figures["ssim_gain"] != 0


def test_a_front_end_that_knows_the_originals_gains_all_there_is(opened, monkeypatch):
    model, gallery = opened(data__rates=[4.0])
    path = gallery.gallery[0][0]
    truth = gallery.transform(gallery.read(path))[None]
    monkeypatch.setattr(type(model), "restore", lambda self, img: self.normalize.undo(truth.expand_as(img)))
    (figures,) = restoration(model, gallery, count=1)["by_rate"].values()
    assert figures["psnr"] == 100 and figures["ssim"] == pytest.approx(1)


def test_where_low_images_are_low_by_nature_the_rates_are_those_of_pairs(opened):
    natural = {"data__options__folder": {"synthetic": False, "lr_camera": "1"}}
    model, gallery = opened(**natural, data__pair_rates=[1.0, 3.0])
    assert gallery.natural and list(restoration(model, gallery, count=2)["by_rate"]) == ["3"]
    assert restoration(*opened(**natural, data__pair_rates=[1.0])) is None


def test_a_model_without_a_front_end_that_learns_says_nothing(opened):
    for changes in ({"model__name": "tiny_net"}, {"sr__name": "bicubic", "sr__options": {}}):
        assert restoration(*opened(**changes)) is None
    model, gallery = opened(sr__frozen=True)
    assert restoration(model, gallery, count=1)["images"] == 1
    assert restores(model) and restoration(model, "a set of torchreid") is None


def test_a_front_end_that_does_nothing_is_said_to(caplog):
    caplog.set_level(logging.INFO)
    figures = {"psnr": 20.0, "ssim": 0.5, "ssim_gain": 0.01}
    tell("set", {"images": 3, "by_rate": {"2": figures | {"psnr_gain": 0.06}, "4": figures | {"psnr_gain": 0.04}}})
    info, warning = caplog.records
    assert info.getMessage() == (
        "set: the front end over plain enlargement, 3 held-out images: x2 +0.06 dB (SSIM +0.0100), "
        "x4 +0.04 dB (SSIM +0.0100)"
    )
    assert warning.levelname == "WARNING" and "does nothing at x4: it gains less than 0.05 dB" in warning.getMessage()


def test_the_record_of_a_run_has_it(tiny_config):
    (record,) = run_job(tiny_config(train__max_epoch=1, data__rates=[2.0, 4.0]))
    assert set(record["restoration"]["by_rate"]) == {"2", "4"}
