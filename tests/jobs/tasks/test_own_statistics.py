"""A network as it came, with batch statistics of one's own images, as a stage."""

from pathlib import Path

import pytest
import torch

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError
from torchreid_xres.engine.base import LAST
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.models.statistics import measure_statistics

PLAIN = {"model__name": "osnet_x0_25", "data__pairs": False, "model__pretrained": False, "train__max_epoch": 0}


def kept(run):
    return checkpoint.load(run.folder / LAST)["models"]["model"]


def test_the_statistics_are_those_of_all_training_images_and_no_weight_changes(tiny_config):
    cfg = tiny_config(**PLAIN, task="own_statistics")
    (record,) = run_job(cfg)
    (run,) = own_runs(cfg, 0, Path(cfg.data.save_dir))
    own = kept(run)
    plain_cfg = tiny_config(**PLAIN)
    plain_cfg.data.save_dir += "_plain"
    (plain,) = run_job(plain_cfg)
    came = kept(own_runs(plain_cfg, 0, Path(plain_cfg.data.save_dir))[0])
    changed = {name.rpartition(".")[2] for name, value in own.items() if not torch.equal(value, came[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    assert record["mAP"] != plain["mAP"] and record["train_images"] == plain["train_images"] == 48
    # 48 images are one batch.
    _, engine = trained_engine(run.folder)
    dataset = engine.datamanager.train_loader.dataset
    images = torch.stack([engine.datamanager.transform_te(dataset.seen(path)) for path, *_ in dataset.train])
    model = engine.model
    measure_statistics(model, model, [images])
    assert torch.allclose(model.state_dict()["conv1.bn.running_mean"], own["conv1.bn.running_mean"], atol=1e-5)


def test_a_query_encoder_follows_it(tiny_config):
    cfg = tiny_config(
        model__name="asymmetric",
        stages={
            "gallery": {"task": "own_statistics", "model": {"name": "osnet_x0_25"}, "train": {"max_epoch": 0},
                        "data": {"pairs": False}},
            "query": {"model": {"gallery_run": "{gallery}"}, "train": {"max_epoch": 1, "epoch_batches": 2}},
        },
        model__pretrained=False,
        model__options={},
    )  # fmt: skip
    records = run_job(cfg)
    assert [record["stage"] for record in records] == ["gallery", "query"]
    gallery, query = (kept(run) for run in own_runs(cfg, 0, Path(cfg.data.save_dir)))
    for name, value in gallery.items():
        if "classifier" not in name:
            assert torch.equal(query[f"gallery.{name}"], value), name


def test_epochs_are_refused(tiny_config):
    with pytest.raises(ConfigError, match=r"own_statistics trains nothing, and train\.max_epoch is 2"):
        run_job(tiny_config(**PLAIN | {"train__max_epoch": 2}, task="own_statistics"))
