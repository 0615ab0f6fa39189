"""A job made longer goes on where it had ended, and nothing else about it may have changed."""

import shutil
from itertools import chain
from pathlib import Path

import pytest
from tiny_jobs import TINY, configured, same

from torchreid_xres import checkpoint
from torchreid_xres.config import load_config
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.jobs.job import run_job
from torchreid_xres.jobs.longer import is_longer

CHANGING = {"seconds", "processor_seconds"}  # of a state: a clock's


def state(cfg, name="split0/sr_reid"):
    kept = checkpoint.load(Path(cfg.data.save_dir, name, LAST))
    return {key: value for key, value in kept.items() if key not in CHANGING}


@pytest.fixture(scope="module")
def plain(tiny_root, tmp_path_factory):
    """Jobs of one epoch and of two, ended: by that number their configuration and records."""
    found = {}
    for epochs in (1, 2):
        cfg = configured(TINY, tiny_root, tmp_path_factory.mktemp("plain"), {"train.max_epoch": epochs})
        found[epochs] = cfg, run_job(cfg)
    return found


@pytest.fixture
def again_of(plain, tiny_config):
    """Return a function: epochs to a copy of the ended job, to write into, where the test's own jobs are."""

    def make(epochs):
        cfg, records = plain[epochs]
        shutil.copytree(cfg.data.save_dir, tiny_config().data.save_dir)
        return tiny_config(train__max_epoch=epochs), records

    return make


def test_without_a_schedule_that_knows_the_length_it_is_the_longer_run_bit_for_bit(tiny_config, plain, again_of):
    again_of(1)
    made_longer = tiny_config(train__max_epoch=2)
    records = run_job(made_longer)
    at_once, straight = plain[2]
    assert same(state(made_longer), state(at_once))
    clocks = {"seconds", "train_seconds", "train_processor_seconds", "machine"}
    told = [[{k: v for k, v in one.items() if k not in clocks} for one in many] for many in (records, straight)]
    assert told[0] == told[1] and records[0]["epochs"] == 2
    assert run_job(made_longer) == records  # done


def test_the_schedule_is_stretched_to_the_new_length(tiny_config, tmp_path, caplog):
    how = {"train__lr_scheduler": "cosine", "train__warmup_epochs": 2}
    run_job(tiny_config(train__max_epoch=1, **how))
    made_longer = tiny_config(train__max_epoch=3, **how)
    with caplog.at_level("INFO"):
        run_job(made_longer)
    at_once = tiny_config(train__max_epoch=3, data__save_dir=str(tmp_path / "at_once"), **how)
    run_job(at_once)
    assert same(state(made_longer), state(at_once))  # the first epoch's rate is that of any length
    assert "goes on after epoch 1 to epoch 3, which was to be 1" in caplog.text
    assert "that of a training of 3 epochs from its beginning" in caplog.text


def test_a_stop_on_the_way_changes_nothing(tiny_config, tmp_path, monkeypatch):
    how = {"train__lr_scheduler": "cosine"}
    run_job(tiny_config(train__max_epoch=1, **how))
    made_longer = tiny_config(train__max_epoch=2, **how)
    for place, method in (("torchreid_xres.jobs.stages.write_json", None), (None, "train")):
        with monkeypatch.context() as patch:

            def stopped(*args, **kwargs):
                raise KeyboardInterrupt

            if method:
                patch.setattr(XresMixin, method, stopped)
            else:
                patch.setattr(place, stopped)
            with pytest.raises(KeyboardInterrupt):
                run_job(made_longer)
    run_job(made_longer)
    at_once = tiny_config(train__max_epoch=2, data__save_dir=str(tmp_path / "at_once"), **how)
    run_job(at_once)
    assert same(state(made_longer), state(at_once))


def test_fewer_epochs_are_refused_in_a_line(tiny_config, again_of):
    cfg, _ = again_of(2)
    before = Path(cfg.data.save_dir, "stages.json").read_bytes()
    told = r"run with train.max_epoch 2, and 1 is fewer: a training can be made longer, not shorter. Name [^\n]+$"
    with pytest.raises(ValueError, match=told):
        run_job(tiny_config(train__max_epoch=1))
    assert Path(cfg.data.save_dir, "stages.json").read_bytes() == before


def test_nothing_else_may_differ(tiny_config, again_of):
    cfg, records = again_of(1)
    kept = state(cfg)
    with pytest.raises(ValueError, match=r"another experiment \(it differs in train.lr, train.max_epoch\)"):
        run_job(tiny_config(train__max_epoch=2, train__lr=0.01))
    assert same(state(cfg), kept) and run_job(cfg) == records


STAGES = {"first": {"model": {"name": "tiny_net"}, "data": {"pairs": False}}, "second": {}}


@pytest.mark.slow
def test_stages_that_build_on_none_go_on_and_what_is_the_same_is_not_done_again(tiny_config):
    cfg = tiny_config(train__max_epoch=1, stages=STAGES, compare__models=["tiny_net"])
    first = Path(cfg.data.save_dir, "split0/sr_reid/first", LAST)
    run_job(cfg)
    before = first.stat().st_mtime_ns
    records = run_job(
        tiny_config(
            train__max_epoch=1, stages=STAGES | {"second": {"train": {"max_epoch": 2}}}, compare__models=["tiny_net"]
        )
    )
    assert [record["epochs"] for record in records] == [1, 1, 2] and first.stat().st_mtime_ns == before


@pytest.mark.slow
def test_what_builds_on_a_longer_stage_is_refused_before_anything_is_changed(tiny_config):
    second = {"model": {"load_weights": "{first}/" + LAST}}
    cfg = tiny_config(train__max_epoch=1, stages={"first": {}, "second": second})
    run_job(cfg)
    kept = [state(cfg, f"split0/sr_reid/{stage}") for stage in ("first", "second")]
    told = r"split0/sr_reid/second builds on split0/sr_reid/first, which .*\(stages.second.train.max_epoch\)"
    with pytest.raises(ValueError, match=told):
        run_job(tiny_config(train__max_epoch=2, stages={"first": {}, "second": second}))
    assert same(kept, [state(cfg, f"split0/sr_reid/{stage}") for stage in ("first", "second")])
    run_job(tiny_config(train__max_epoch=1, stages={"first": {}, "second": {**second, "train": {"max_epoch": 2}}}))
    assert state(cfg, "split0/sr_reid/second")["epoch"] == 2 and state(cfg, "split0/sr_reid/first")["epoch"] == 1


@pytest.mark.parametrize(
    "changes, longer",
    [
        ({"train.max_epoch": 5}, True),
        ({"train.max_epoch": 5, "train.print_freq": 1}, True),
        ({"train.print_freq": 1}, False),
        ({"stages.c": {"train": {"max_epoch": 9}}}, True),
        ({"stages.c": {"train": {"lr": 9.0}}}, False),
        ({"train.max_epoch": 5, "train.gamma": 0.5}, False),
        ({"stages.b.train.max_epoch": 9}, True),
        ({"stages.b.train.lr": 9.0}, False),
    ],
)
def test_longer_is_more_epochs_and_nothing_else(changes, longer):
    stages = {"a": {"train": {"lr": 0.1}}, "b": {"train": {"max_epoch": 3}}, "c": {}}
    base = ["train.max_epoch", 4, "stages", stages]
    assert is_longer(load_config(None, base), load_config(None, [*base, *chain(*changes.items())])) is longer
