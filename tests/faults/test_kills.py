"""Kill -9 at random moments: nothing is lost but the epoch, image or batch at hand, and the end is the same.

A moment is one of the times that the job turns to a file, or a few milliseconds after it. Half of the moments are
drawn from those at which it writes, renames or removes one.
"""

import json
import re
import shutil
import sqlite3

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_jobs import same

from torchreid_xres import checkpoint
from torchreid_xres.config import config_text, load_config
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.jobs.job import run_job
from torchreid_xres.jobs.tasks.restore import DONE, LEVELS
from torchreid_xres.models import build_model
from torchreid_xres.search.reader import DATABASE

KILLED = -9
# What differs between two runs of the same.
TIMES = {"seconds", "processor_seconds", "train_seconds", "train_processor_seconds", "seconds_per_1000"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


class Training:
    """Three epochs, each evaluated."""

    def __init__(self, place, tiny):
        self.folder, self.args = place / "training", (place / "training.yaml",)
        self.args[0].write_text(config_text(tiny(self.folder)))
        self.last = self.folder / "split0" / "sr_reid" / LAST

    def done(self):
        return checkpoint.load(self.last)["epoch"] if self.last.is_file() else 0

    def did(self, reply):
        return len(set(re.findall(r"epoch: \[(\d)/3\]", reply["output"])))

    units = 3
    job = "run"


class Restoring:
    """The pyramids of PRPR, one image at a time."""

    def __init__(self, place, tiny):
        self.folder, self.args = place / "restoring", (place / "restoring.yaml",)
        options = {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4}
        weights = place / "restorer.pth.tar"
        torch.manual_seed(0)
        checkpoint.save_atomic({"models": {"model": build_model("prpr_restorer", **options).state_dict()}}, weights)
        cfg = tiny(
            self.folder, task="restore", model__name="prpr_restorer", model__options=options,
            model__load_weights=str(weights), data__pairs=False, test__batch_size=1,
        )  # fmt: skip
        self.args[0].write_text(config_text(cfg))
        self.home = self.folder / "split0" / "prpr_restorer"

    def done(self):
        """Images whose line is whole; all their pictures must be."""
        if not (self.home / DONE).is_file():
            return 0
        lines = (self.home / DONE).read_text().splitlines(keepends=True)
        names = [json.loads(line)["name"] for line in lines if line.endswith("\n")]
        for name in names:
            for level in LEVELS:
                Image.open(self.home / level / f"{name}.png").load()
        return len(names)

    def did(self, reply):
        return int(re.search(r"restored (\d+) of 84 images", reply["output"])[1])

    units = 84
    job = "run"


class Indexing:
    """A gallery, two images at a time."""

    def __init__(self, place, trained, images):
        self.folder = place / "gallery"
        self.args = (trained, self.folder, images)

    def done(self):
        if not (self.folder / DATABASE).is_file():
            return 0
        with sqlite3.connect(self.folder / DATABASE) as database:
            if not database.execute("SELECT name FROM sqlite_master").fetchall():
                return 0
            return database.execute("SELECT count(*) FROM images").fetchone()[0]

    def did(self, reply):
        return reply["result"]["added"]

    units = 36
    job = "index"


@pytest.fixture(scope="module")
def whole(fork, place, tiny, tiny_root):
    """Return a function: the name of a job to it, its undisturbed reply, and what it left."""
    made = {}

    def make(name):
        if name not in made:
            if name == "indexing":
                trained = shutil.copytree(make("training")[0].folder / "split0" / "sr_reid", place / "trained")
                images = place / "images"
                for part in ("query", "gallery"):
                    shutil.copytree(tiny_root / part, images / part)
                job = Indexing(place, trained, images)
            else:
                job = {"training": Training, "restoring": Restoring}[name](place, tiny)
            reply = fork(job.job, *job.args, watched=place.parent)
            assert reply["status"] == 0, reply["output"]
            assert job.done() == job.did(reply) == job.units
            made[name] = job, reply, contents(job.folder)
        return made[name]

    return make


def contents(folder):
    """Every file below a folder but logs, without what differs between two runs of the same."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or "events.out" in name:
            continue
        if ".pth.tar" in name:
            found[name] = checkpoint.load(path)
            for clock in TIMES:
                found[name].pop(clock, None)
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.name == DATABASE:
            with sqlite3.connect(path) as database:
                query = "SELECT name, height, width, feature, fault FROM images ORDER BY name"
                found[name] = database.execute(query).fetchall()
        elif path.name == DONE:
            found[name] = sorted(path.read_text().splitlines())
        else:
            found[name] = path.read_bytes()
    return found


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def require_same(found, expected):
    assert sorted(found) == sorted(expected)
    assert [name for name in found if not same(found[name], expected[name])] == []


def kill_and_go_on(fork, place, whole, name, kills, seed):
    """Kill the job so many times, up to three times in a row before it may end; each end is like an undisturbed one."""
    job, undisturbed, expected = whole(name)
    random = np.random.default_rng(seed)
    left = kills
    while left:
        shutil.rmtree(job.folder)
        before = 0
        for _ in range(min(left, random.integers(1, 4))):
            moments = undisturbed["writes"] if random.random() < 0.5 else range(undisturbed["events"])
            how = {"moment": int(random.choice(moments)), "delay": random.choice([0, float(random.exponential(0.01))])}
            reply = fork(job.job, *job.args, watched=place.parent, **how)
            assert reply["status"] in (KILLED, 0), f"{how}: {reply['output']}"
            if reply["status"] == 0:  # it had less to do than the undisturbed one, and ended before the moment came
                before = job.units
                break
            left -= 1
            assert before <= job.done(), how
            before = job.done()
        reply = fork(job.job, *job.args, watched=place.parent)
        assert reply["status"] == 0, f"after {how}: {reply['output']}"
        if before < job.units:
            assert job.did(reply) == job.units - before, f"after {how}, with {before} done before"
        require_same(contents(job.folder), expected)


@pytest.mark.parametrize("name", ["training", "restoring", "indexing"])
def test_a_killed_job_goes_on_where_it_was(fork, place, whole, name):
    kill_and_go_on(fork, place, whole, name, kills=1, seed=1)


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_evaluation_that_was_stopped_is_made_up_for(whole, monkeypatch, epoch):
    """Between the state of an epoch and the figures that follow it; the last epoch's, too."""
    job, _, expected = whole("training")
    shutil.rmtree(job.folder)
    evaluate = XresMixin.test

    def stop(self, *args, **kwargs):
        if self.epoch == epoch:
            raise KeyboardInterrupt
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(XresMixin, "test", stop)
    with pytest.raises(KeyboardInterrupt):
        run_job(load_config(job.args[0]))
    assert job.done() == epoch + 1
    monkeypatch.setattr(XresMixin, "test", evaluate)
    run_job(load_config(job.args[0]))
    require_same(contents(job.folder), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("training", 17), ("restoring", 17), ("indexing", 16)])
def test_fifty_kills(fork, place, whole, name, kills):
    kill_and_go_on(fork, place, whole, name, kills, seed=2)
