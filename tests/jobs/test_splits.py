"""Splits that differ in the gallery alone: one training, and each gallery evaluated with its weights."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_jobs import TINY, configured

from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.run import Run

PARTS = {"train_list.txt": range(4), "test_list_800.txt": range(10, 14)}


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory):
    """A root with a tree of VehicleID: four vehicles to train on and four to test, five images of each."""
    root = tmp_path_factory.mktemp("vehicles")
    generator = np.random.default_rng(0)
    (root / "VehicleID" / "image").mkdir(parents=True)
    (root / "VehicleID" / "train_test_split").mkdir()
    for part, pids in PARTS.items():
        names = {f"{pid:03d}{shot:04d}": pid for pid in pids for shot in range(5)}
        for name in names:
            pixels = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "VehicleID" / "image" / f"{name}.jpg")
        lines = (f"{name} {pid}\n" for name, pid in names.items())
        (root / "VehicleID" / "train_test_split" / part).write_text("".join(lines))
    return root


@pytest.fixture
def job(vehicles, tmp_path):
    """Return a function: overrides to the configuration of a job on two splits of these vehicles."""
    settings = TINY | {
        "model.name": "tiny_net",
        "data.sources": ["vehicleid_x8"],
        "data.targets": ["vehicleid_x8"],
        "data.pairs": False,
        "data.num_splits": 2,
        "data.options.vehicleid_x8": {"check_counts": False},
        "train.max_epoch": 1,
    }
    return lambda **changes: configured(settings, vehicles, tmp_path / "run", changes)


@pytest.fixture
def epochs(monkeypatch):
    """The split of the run in whose folder each epoch was trained."""
    trained = []
    real = XresMixin.train

    def train(self, *args, **kwargs):
        trained.append(self.save_dir.parent.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(XresMixin, "train", train)
    return trained


def test_a_network_is_trained_once_for_all_galleries(job, epochs, monkeypatch):
    cfg = job()
    real = Run.adopt

    def killed(self, other):
        real(self, other)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "adopt", killed)
        run_job(cfg)
    records = run_job(cfg)
    assert [record["split_id"] for record in records] == [0, 1]
    assert len({record["weights_sha256"] for record in records}) == 1
    assert len({record["manifest"] for record in records}) == 2
    assert run_job(cfg) == records and epochs == ["split0"]
    cfg.test.evaluate = True
    assert [record["mAP"] for record in run_job(cfg)] == [record["mAP"] for record in records]


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"data__sources": ["mlr_vru", "veri776_x8"]}, True),
        ({"data__sources": ["vehicleid_x8", "caviar"]}, False),
        ({"data__sources": ["market1501"]}, False),
        ({"data__combineall": True}, False),
        ({"data__targets": ["caviar"]}, True),
        ({"data__targets": ["caviar"], "data__load_train_targets": True}, False),
        ({"stages": {"first": {"data": {"sources": ["caviar"]}}, "second": {}}}, False),
    ],
)
def test_weights_are_shared_where_the_training_images_are_the_same(job, monkeypatch, changes, shared):
    taken = []
    monkeypatch.setattr(Run, "train", lambda self: [])
    monkeypatch.setattr(Run, "adopt", lambda self, other: taken.append((self.name, other.name)))
    run_job(job(**changes))
    assert taken == ([("split1/tiny_net", "split0/tiny_net")] if shared else [])


def test_a_stage_on_a_set_of_one_split_is_done_once(job, monkeypatch):
    monkeypatch.setattr(Run, "train", lambda self: [{"run": self.name, "split": self.split}])
    first = {"data": {"sources": ["veri776_x8"], "targets": ["veri776_x8"]}}
    cfg = job(stages={"first": first, "second": {"model": {"load_weights": "{first}/" + LAST}}})
    assert run_job(cfg) == [
        {"run": "split0/tiny_net/first", "split": 0},
        {"run": "split0/tiny_net/second", "split": 0},
        {"run": "split1/tiny_net/second", "split": 1},
    ]
    assert "split0/tiny_net/first/" in own_runs(cfg, 1, Path(cfg.data.save_dir))[-1].cfg.model.load_weights
