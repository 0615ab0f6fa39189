"""All threads, or one where other work on the cores makes that faster."""

import logging
from pathlib import Path

import pytest
import torch

from torchreid_xres.checkpoint import load, save_atomic
from torchreid_xres.devices import threads
from torchreid_xres.devices.threads import APART, SLOWER, Threads
from torchreid_xres.engine.base import LAST
from torchreid_xres.jobs.job import run_job


class Machine:
    """Imitates a machine of two cores: how much slower all threads are than one, and a clock."""

    def __init__(self, ratio=0.6):
        self.ratio, self.now, self.trials = ratio, 0.0, 0

    def trial(self, number, limit):
        self.trials += 1
        return 1.0 if number == 1 else self.ratio if self.ratio <= limit else float("inf")

    def clock(self):
        return self.now

    def batch(self, seconds):
        def work():
            self.now += seconds
            return torch.get_num_threads()

        return work


@pytest.fixture
def two_threads(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_quiet_machine_keeps_all_and_a_busy_one_takes_one_until_it_is_quiet(two_threads, caplog):
    machine = Machine()
    chosen = Threads(machine.trial, machine.clock)
    assert chosen.choose() == 2 == torch.get_num_threads() and not caplog.text
    machine.ratio = 20
    assert chosen.choose() == 2  # tried a moment ago
    machine.now += APART
    assert chosen.choose() == 1 == torch.get_num_threads()
    assert "computing on 1 of 2 threads" in caplog.text and "OMP_NUM_THREADS" in caplog.text
    machine.now += APART
    machine.ratio = SLOWER
    assert chosen.choose() == 2 == torch.get_num_threads() and "the cores are free again" in caplog.text


def test_a_batch_slower_than_usual_has_the_threads_tried_again(two_threads):
    machine = Machine()
    chosen = Threads(machine.trial, machine.clock)
    assert [chosen.timed(machine.batch(1)) for _ in range(40)] == [2] * 40 and machine.trials == 2
    machine.ratio = 20
    assert chosen.timed(machine.batch(10), "other work") == 2 and machine.trials == 2  # nothing is usual of that yet
    assert chosen.timed(machine.batch(10)) == 2 and machine.trials == 4
    assert chosen.timed(machine.batch(1)) == 1


def test_the_first_batch_is_not_waited_for_but_later_ones_are(two_threads):
    machine = Machine(ratio=20)
    chosen = Threads(machine.trial, machine.clock)
    assert [chosen.timed(machine.batch(5)) for _ in range(3)] == [2, 1, 1]


@pytest.mark.parametrize("how", ["environment", "by hand", "one"])
def test_a_number_that_was_asked_for_stays(how, two_threads, monkeypatch):
    if how == "one":
        torch.set_num_threads(1)
    machine = Machine(ratio=20)
    chosen = Threads(machine.trial, machine.clock)
    if how == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    if how == "by hand":
        torch.set_num_threads(3)
    before = torch.get_num_threads()
    assert chosen.timed(chosen.choose) == before == torch.get_num_threads() and machine.trials == 0


def test_a_resumed_run_keeps_its_number_or_says_that_it_cannot(two_threads, caplog):
    chosen = Threads(Machine().trial)
    chosen.keep(1)
    assert torch.get_num_threads() == 1 and not caplog.text
    chosen.keep(5)
    assert torch.get_num_threads() == 1 and "computed on 5 threads so far and goes on with 1" in caplog.text


def test_a_trial_is_of_the_threads_asked_for_and_leaves_them(two_threads):
    assert 0 < threads._seconds(1, float("inf")) < float("inf") and torch.get_num_threads() == 2
    assert threads._seconds(1, 0.0) == float("inf") and torch.get_num_threads() == 2


def test_a_run_keeps_its_threads_in_its_state(tiny_config, caplog):
    run_job(tiny_config(train__max_epoch=1))
    cfg = tiny_config(train__max_epoch=1)
    (last,) = Path(cfg.data.save_dir).rglob(LAST)
    state = load(last)
    assert state["threads"] == torch.get_num_threads()
    save_atomic(state | {"threads": 64}, last)
    (last.parents[2] / "stages.json").unlink()
    with caplog.at_level(logging.WARNING):
        run_job(cfg)
    assert "computed on 64 threads so far" in caplog.text
