import itertools
import logging
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_jobs import ready_engine, same

from torchreid_xres import checkpoint
from torchreid_xres.devices import proof
from torchreid_xres.engine.base import LAST, NotFiniteError
from torchreid_xres.engine.continuing import Continuing
from torchreid_xres.jobs.job import own_runs


def engine_of(cfg):
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    engine = ready_engine(run)
    return run, engine


@pytest.fixture
def trained(tiny_config):
    """A run's engine after a step, as after its first epoch."""
    run, engine = engine_of(tiny_config())
    engine.set_model_mode("train")
    engine.forward_backward(next(iter(engine.train_loader)))
    return run, engine


def weights_of(state, path):
    torch.save(state["models"]["model"], path)


def text(state, path):
    path.write_text("hello weights")


def other_rate(state, path):
    state["optimizers"]["model"]["param_groups"][0]["initial_lr"] = 0.5
    torch.save(state, path)


def other_classes(state, path):
    model = state["models"]["model"]
    name = next(key for key in model if key.endswith("classifier.weight"))
    model[name] = torch.zeros(3, model[name].shape[1])
    torch.save(state, path)


def failed(state, path):
    name = next(key for key in state["models"]["model"] if key.endswith(".running_mean"))
    state["models"]["model"][name] = torch.full_like(state["models"]["model"][name], math.inf)
    torch.save(state, path)


@pytest.mark.parametrize(
    "spoil, told",
    [
        (weights_of, "holds no state of a training, but .*; model.load_weights starts from weights"),
        (text, "is no checkpoint: it begins with b'hello weights'"),
        (other_rate, r"was trained with train\.lr 0\.5 \(here 0\.0003\): .* by model\.load_weights"),
        (
            other_classes,
            r"does not fit SRReID: it has in another shape reid\.classifier\.weight \(3, 512\) for \(8, 512\)",
        ),
        (failed, r"holds NaN or infinity, in state_dict\..*running_mean"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_training_goes_on_only_from_what_fits(trained, tmp_path, spoil, told):
    run, engine = trained
    before = {key: value.clone() for key, value in engine.model.state_dict().items()}
    spoil(engine._state(), tmp_path / "given.pth")
    with pytest.raises(ValueError, match=rf"given\.pth {told}"):
        engine.run(resume=str(tmp_path / "given.pth"), **run._run_options())
    assert same(before, dict(engine.model.state_dict())) and not list(run.folder.rglob("*.pth.tar*"))


def test_a_run_of_other_data_is_gone_on_from_with_a_word(trained, tmp_path, caplog):
    _, engine = trained
    torch.save(engine._state() | {"config": "another"}, tmp_path / "given.pth")
    engine._require_training_state(checkpoint.load(tmp_path / "given.pth"), tmp_path / "given.pth")
    assert "given.pth is of another configuration; its epochs count as this run's" in caplog.text


def test_weights_that_are_not_finite_do_not_take_the_place_of_good_ones(trained):
    run, engine = trained
    last = run.folder / LAST
    weight = next(engine.model.parameters())
    held = weight.detach().clone()
    with torch.no_grad():
        weight[(0,) * weight.ndim] = math.nan
    with pytest.raises(NotFiniteError, match=r"epoch 1 left NaN .*No epoch had been saved before") as caught:
        engine._save_state()
    assert LAST not in str(caught.value) and not last.exists()
    with torch.no_grad():
        weight.copy_(held)
    engine._save_state()
    good = last.read_bytes()
    moments = engine.optimizer.state[weight]["exp_avg_sq"]
    moments.fill_(math.inf)
    with pytest.raises(
        NotFiniteError, match=rf"exp_avg_sq, after finite losses\. The state before this epoch is in {last}"
    ):
        engine._save_state()
    assert last.read_bytes() == good


def test_a_run_goes_on_after_a_failed_epoch_and_under_a_clock_set_back(tiny_config, monkeypatch):
    cfg = tiny_config(train__max_epoch=2)
    run, engine = engine_of(cfg)
    real = type(engine).forward_backward

    def step(self, data):
        summary = real(self, data)
        if self.epoch == 1 and self.batch_idx + 1 == self.num_batches:
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
        return summary

    monkeypatch.setattr(type(engine), "forward_backward", step)
    with pytest.raises(NotFiniteError, match="epoch 2 left NaN"):
        engine.run(**run._run_options())
    first = checkpoint.load(run.folder / LAST)
    assert first["epoch"] == 1
    os.utime(run.folder / LAST, (2**31, 2**31))
    monkeypatch.setattr(type(engine), "forward_backward", real)
    clock = itertools.count(1e9, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    (record,) = run.train()
    again = checkpoint.load(run.folder / LAST)
    assert again["epoch"] == 2 and again["seconds"] > first["seconds"] and record["train_seconds"] > 0
    assert record["precision"] == "fp32" and record["precisions"] == [[1, "fp32"]]


class Kept(Continuing):
    def __init__(self, precision, asked="auto"):
        self.proof = SimpleNamespace(precision=precision)
        self.precisions, self._auto, self.epoch = [], asked == "auto", 3

    @property
    def precision(self):
        return self.proof.precision


@pytest.mark.parametrize(
    "before, here, asked, then, told",
    [
        ([[1, "fp32"]], "bf16", "auto", "fp32", "going on in fp32, as before; auto would be bf16"),
        (
            [[1, "bf16"]],
            "fp32",
            "auto",
            "fp32",
            "trained in bf16 so far, which is slow on this machine: going on in fp32",
        ),
        ([[1, "bf16"]], "bf16", "auto", "bf16", ""),
        ([[1, "bf16"]], "fp32", "fp32", "fp32", ""),
        ([], "bf16", "auto", "bf16", ""),  # written before this was kept
    ],
)
def test_a_run_keeps_its_precision_on_another_machine(before, here, asked, then, told, caplog):
    caplog.set_level(logging.INFO)
    kept = Kept(here, asked)
    kept._keep_precision(before)
    kept._note_precision()
    kept._note_precision()
    assert kept.precision == then and told in caplog.text and bool(told) == bool(caplog.text)
    assert kept.precisions == before + ([] if before and before[-1][1] == then else [[4, then]])


def test_auto_is_what_the_machine_had_when_the_run_began(tiny_config, monkeypatch):
    cfg = tiny_config(train__precision="auto")
    monkeypatch.setattr(proof, "precision_on", lambda device, wanted: "bf16")
    _, first = engine_of(cfg)
    first._note_precision()
    assert first.facts()["precisions"] == [[1, "bf16"]] and first.facts()["precision"] == "bf16"
    monkeypatch.setattr(proof, "precision_on", lambda device, wanted: "fp32")
    _, second = engine_of(cfg)
    second._keep_precision(first._state()["precisions"])
    second.epoch = 1
    second._note_precision()
    assert second.facts()["precisions"] == [[1, "bf16"], [2, "fp32"]] and second.facts()["precision"] == "fp32"
