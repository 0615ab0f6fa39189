"""What is told of a network's parts after an epoch, and that to be told changes nothing."""

import math
from pathlib import Path

import pytest
import torch
from tiny_jobs import same
from torch import nn

from torchreid_xres import checkpoint, host
from torchreid_xres.config import config_hash
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.liveness import Watch
from torchreid_xres.jobs.command import configuration
from torchreid_xres.jobs.job import own_runs
from torchreid_xres.parts import Part, nothing

MSIFLA = {
    "model__name": "msifla", "data__pairs": False, "model__options": {"widths": [4, 8]}, "train__batch_size": 8,
    "sampler__train_sampler": "MixedIdentitySampler", "train__weight_decay": 0.0,
}  # fmt: skip
ASYMMETRIC = {
    "model__name": "asymmetric", "loss__asymmetric__gallery": "trained", "loss__asymmetric__momentum": 0.9,
    "loss__asymmetric__bank": 16, "loss__asymmetric__id": 1.0, "loss__asymmetric__held_out": 0.0,
    "train__epoch_batches": 3,
}  # fmt: skip


def trained(cfg):
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    records = run.train()
    state = checkpoint.load(run.folder / LAST)
    for clock in ("seconds", "processor_seconds"):
        state.pop(clock)
    return records[0], state


@pytest.mark.parametrize(
    "changes", [{}, {"model__name": "tiny_net", "data__pairs": False}, MSIFLA, ASYMMETRIC],
    ids=["sr_reid", "host", "two optimisers", "a mean network and a bank"],
)  # fmt: skip
def test_a_training_is_bit_for_bit_the_same_with_and_without(tiny_config, tmp_path, caplog, changes):
    caplog.set_level("INFO", "torchreid_xres")
    plain, state = trained(tiny_config(data__save_dir=str(tmp_path / "plain"), **changes))
    assert "liveness" not in plain and "what learns" not in caplog.text
    told, other = trained(tiny_config(data__save_dir=str(tmp_path / "told"), train__liveness=True, **changes))
    assert told["liveness"] == other.pop("liveness") and told["liveness"]["epoch"] == 1
    assert same(state, other) and told["weights_sha256"] == plain["weights_sha256"]
    assert "what learns, after epoch 1" in caplog.text
    for part in told["liveness"]["parts"].values():
        assert part["state"] == "learns" and part["change"] > 0 and part["gradient"] > 0


def test_a_run_that_goes_on_keeps_what_was_told(tiny_config):
    first, _ = trained(tiny_config(train__liveness=True, train__max_epoch=1))
    again, _ = trained(tiny_config(train__liveness=True, train__max_epoch=1))
    assert again["liveness"] == first["liveness"]


OPTIMIZERS = ["adam", "amsgrad", "sgd", "rmsprop", "radam"]


def stepped(model, name, gradient, steps=8, lr=0.01, decay=0.1):
    """Return the watch over steps of a model with some gradient."""
    optimizer = host.build_optimizer(model, optim=name, lr=lr, weight_decay=decay)
    watch = Watch(model, [optimizer])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.9**step  # as a schedule has it
        for p in model.parameters():
            p.grad = gradient(p)
        optimizer.step()
    watch.close()
    return watch


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_alone_is_no_learning(name):
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    watch = stepped(model, name, torch.zeros_like)
    assert not torch.equal(model.weight, before)
    found = watch.moved(watch.parts["network"])
    assert found["state"] == "still" and found["change"] == 0 and found["gradient"] == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_beside_decay_is(name):
    torch.manual_seed(0)
    watch = stepped(nn.Linear(4, 4), name, torch.randn_like)
    found = watch.moved(watch.parts["network"])
    assert found["state"] == "learns" and found["change"] > 1e-3 and found["gradient"] > 1e-3


def test_a_gradient_that_decay_drowns_is_no_learning_however_large_the_steps():
    def faint(p):
        return 1e-6 * torch.randn_like(p)

    watches = [stepped(nn.Linear(4, 4), "adam", faint, decay=decay) for decay in (0.1, 0.0)]
    drowned, alone = (watch.moved(watch.parts["network"]) for watch in watches)
    assert drowned["state"] == "still" and drowned["change"] > 0
    assert alone["state"] == "learns" and alone["change"] > 1e-3


def test_figures_are_shares_of_the_weights_length():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    watch = stepped(model, "sgd", lambda p: torch.full_like(p, 3.0), steps=1, lr=0.1, decay=0.0)
    found = watch.moved(watch.parts["network"])
    assert found == {"parameters": 1, "state": "learns", "change": pytest.approx(0.15), "gradient": 1.5}


def test_what_gets_no_gradient_is_still_and_what_is_fixed_is_frozen(monkeypatch):
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2), "fixed": nn.Linear(2, 2)})
    model["fixed"].requires_grad_(False)
    monkeypatch.setattr(
        nn.ModuleDict, "named_parts", lambda self: {name: Part((m,)) for name, m in self.items()}, raising=False
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    watch = Watch(model, [optimizer])
    model["used"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    found = {name: watch.moved(part) for name, part in watch.parts.items()}
    assert [found[name]["state"] for name in model] == ["learns", "still", "frozen"]
    assert "change" not in found["fixed"] and found["unused"]["gradient"] == 0


def test_the_loss_without_a_part_is_that_of_the_same_batch(monkeypatch):
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(2, 1))
    parts = {"first": Part((model[0],), nothing), "not run": Part((model[1],), nothing)}
    monkeypatch.setattr(nn.Sequential, "named_parts", lambda self: parts, raising=False)
    watch = Watch(model, [torch.optim.SGD(model.parameters())])
    found = watch.report(lambda: 2.0 + model[0](torch.ones(1, 2)).detach().item())
    whole = 2.0 + model[0](torch.ones(1, 2)).item()
    assert found["first"]["loss"] == pytest.approx((2.0 - whole) / whole, rel=1e-2)
    assert "loss" not in found["not run"]
    assert watch.report(lambda: math.nan * model[0](torch.ones(1, 2)).item())["first"]["loss"] is None


def test_it_is_asked_for_on_the_command_line_and_is_the_same_experiment(repo, monkeypatch):
    monkeypatch.syspath_prepend(str(repo / "tools"))
    from program import training_parser

    given = ["--config-file", "quickstart"]
    plain, told = (configuration(training_parser("train", "").parse_args([*given, *more])) for more in
                   ([], ["--liveness"]))  # fmt: skip
    assert told.train.liveness and not plain.train.liveness and config_hash(told) == config_hash(plain)
