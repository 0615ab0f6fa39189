import copy
import math

import pytest
import tiny_net
import torch
from doubles import cast, doubles_kept
from tiny_jobs import IDENTITIES
from torch.nn import functional as F

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError
from torchreid_xres.data.degrade import low_size, round_trip
from torchreid_xres.engine.base import LAST
from torchreid_xres.host_mends import unwrap
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.losses.parts import part_cross_entropy, part_triplet

MSIFLA = {
    "model__name": "msifla",
    "model__reid": tiny_net.STAGED,  # which it takes apart
    "model__options": {"widths": [4, 8]},
    "data__pairs": False,
    "data__transforms": ["random_flip", "pad_crop"],
    "data__pad": 2,
    "sampler__train_sampler": "MixedIdentitySampler",
    "train__batch_size": 8,
    "train__lr": 0.003,
    "train__staged_lr": True,
    "train__new_layers": ["cascade"],
    "loss__triplet__margin": 0.5,
}


@pytest.fixture
def engine(tiny_config, tmp_path):
    """Return a function: overrides to an engine before its first epoch, and its first batch."""

    def make(**changes):
        made = own_runs(tiny_config(**{**MSIFLA, **changes}), 0, tmp_path)[-1].engine()
        made.epoch = made.batch_idx = 0
        made.set_model_mode("train")
        return made, next(iter(made.train_loader))

    return make


@pytest.fixture
def in_double(engine):
    """Return the same function for double precision, in which another order of sums changes no step that is seen."""

    def make(**changes):
        made, batch = engine(**changes)
        made.model.double()
        return made, cast(batch, torch.float64)

    with doubles_kept():
        yield make


def gradients(module):
    return [p.grad for p in module.parameters()]


def state(module):
    return copy.deepcopy([p.detach() for p in module.parameters()])


def differs(before, module):
    return any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_a_batch_mixes_resolutions(engine):
    _, batch = engine()
    assert batch["low"].view(2, 4).sum(1).tolist() == [2, 2]


def test_losses_by_the_papers_formulas(engine):
    made, batch = engine()
    net, high = made.model, ~batch["low"]
    x_h, sizes = batch["img"][high], batch["size"][high].tolist()
    sizes = [[min(h, x_h.shape[2]), min(w, x_h.shape[3])] for h, w in sizes]  # as the network sees them

    def version(rate):
        pairs = zip(x_h, sizes, strict=True)
        return torch.stack([round_trip(x, low_size(*size, rate), "area", "bilinear") for x, size in pairs])

    x = {4: version(4), 3: version(3), 2: version(2), 1: x_h}
    one, two, three = net.cascade.nets
    ir = {"ir_x3": 0.0, "ir_x2": 0.0, "ir_x1": 0.0}
    for given in (x[4], x[3], x[2], x[1]):
        first = one(given)
        second = two(first)
        third = three(second)
        ir["ir_x3"] += F.mse_loss(first, x[3])  # eq. 1
        ir["ir_x2"] += F.mse_loss(second, x[2])  # eq. 2
        ir["ir_x1"] += F.mse_loss(third, x[1])  # eq. 3
    found = made.reconstruction_losses(batch)
    for name, value in ir.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["loss"], sum(ir.values()), rtol=1e-4, atol=1e-6)  # eq. 4

    total = 0.0
    for reid, image in zip(net.reid, net.cascade(batch["img"]), strict=True):
        parts, logits = reid(image)
        total += part_cross_entropy(logits, batch["pid"], 0.1) + part_triplet(parts, batch["pid"], 0.5)  # eq. 13
    torch.testing.assert_close(made.identity_losses(batch)["loss"], total, rtol=1e-4, atol=1e-5)  # eq. 14


def test_only_high_images_train_the_reconstruction(engine):
    made, batch = engine()
    before = made.reconstruction_losses(batch)["loss"]
    spoilt = {**batch, "img": batch["img"].clone()}
    spoilt["img"][batch["low"]] = 7.0
    assert torch.equal(made.reconstruction_losses(spoilt)["loss"], before)
    spoilt["img"][~batch["low"]] += 1.0
    assert not torch.equal(made.reconstruction_losses(spoilt)["loss"], before)


def test_a_later_scale_trains_the_earlier_networks_too(engine):
    made, batch = engine()
    made.reconstruction_losses(batch)["ir_x1"].backward()
    assert all(g is not None and g.any() for net in made.model.cascade.nets for g in [net.last.weight.grad])
    assert all(g is None for g in gradients(made.model.reid))


@pytest.mark.parametrize("coupling, reaches", [("alternate", True), ("detached", False)])
def test_the_identity_loss_reaches_the_cascade_unless_detached(engine, coupling, reaches):
    made, batch = engine(loss__msifla__coupling=coupling)
    made.identity_losses(batch)["loss"].backward()
    assert all((g is not None) is reaches for g in gradients(made.model.cascade))
    assert all(g is not None for g in gradients(made.model.reid))


def test_joint_gradients_are_those_of_two_backward_passes(in_double):
    made, batch = in_double(loss__msifla__coupling="joint")
    made.model.eval()  # in training the first pass would move the statistics of the second
    made.reconstruction_losses(batch)["loss"].backward()
    made.identity_losses(batch)["loss"].backward()
    apart = copy.deepcopy(gradients(made.model))
    made.optimizer.zero_grad()
    losses = made.joint_losses(batch)
    losses["loss"].backward()
    for a, b in zip(apart, gradients(made.model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert {"ir_x3", "ir_x2", "ir_x1", "ce", "triplet", "acc"} < losses.keys()


def test_alternate_steps_the_cascade_first_and_then_everything(engine, monkeypatch):
    made, batch = engine()
    moved = []

    def watched(closure=None, step=made.optimizer.step):
        cascade, reid = state(made.model.cascade), state(made.model.reid)
        step()
        moved.append((differs(cascade, made.model.cascade), differs(reid, made.model.reid)))

    monkeypatch.setattr(made.optimizer, "step", watched)
    summary = made.forward_backward(batch)
    assert moved == [(True, False), (True, True)]
    terms = [summary[name] for name in ("ir_x3", "ir_x2", "ir_x1", "ce", "triplet")]
    assert summary["loss"] == pytest.approx(sum(terms), rel=1e-4)


@pytest.mark.parametrize("optim, lr", [("adam", 3e-3), ("sgd", 1e-5)])
def test_alternate_has_an_optimiser_of_the_cascade_for_each_loss(in_double, optim, lr):
    made, batch = in_double(train__optim=optim, train__lr=lr)
    twin, _ = in_double(train__optim=optim, train__lr=lr)
    for _ in range(2):
        made.forward_backward(batch)
    cascade, reid = twin.model.cascade, twin.model.reid
    options = {key: value for key, value in made.optimizer.defaults.items() if key != "lr"}
    kind = type(made.optimizer)
    first = kind(cascade.parameters(), lr=lr, **options)
    second = kind([*cascade.parameters(), *reid.parameters()], lr=lr / 10, **options)
    for _ in range(2):
        for losses, optimizer in ((twin.reconstruction_losses, first), (twin.identity_losses, second)):
            twin.model.zero_grad()
            losses(batch)["loss"].backward()
            optimizer.step()
    for a, b in zip(made.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_both_optimisers(tiny_config, tmp_path):
    changes = {**MSIFLA, "test__start_eval": 9, "train__epoch_batches": 1}
    whole, parts = (tiny_config(**changes, data__save_dir=str(tmp_path / name)) for name in ("whole", "parts"))
    run_job(whole)
    run = own_runs(parts, 0, tmp_path / "parts")[-1]
    engine = run.engine()
    options = run._run_options()
    with pytest.raises(KeyboardInterrupt):
        engine.train = _stopped_after_one(engine.train)
        engine.run(**options)
    run_job(parts)
    states = [checkpoint.load(tmp_path / name / "split0" / "msifla" / LAST) for name in ("whole", "parts")]
    for a, b in zip(*(state["models"]["model"].values() for state in states), strict=True):
        assert torch.equal(a, b)


def _stopped_after_one(train):
    calls = []

    def once(*args, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(train(*args, **kwargs))

    return once


def test_detached_moves_the_cascade_by_reconstruction_alone(engine, monkeypatch):
    made, batch = engine(loss__msifla__coupling="detached")
    steps = []
    monkeypatch.setattr(made, "identity_losses", lambda data: steps.append(state(made.model.cascade)) or
                        type(made).identity_losses(made, data))  # fmt: skip
    made.forward_backward(batch)
    assert not differs(steps[0], made.model.cascade)


@pytest.mark.parametrize("coupling", ["alternate", "joint", "detached"])
def test_a_batch_without_high_images_trains_identities_alone(engine, coupling):
    made, batch = engine(loss__msifla__coupling=coupling)
    summary = made.forward_backward({**batch, "low": torch.ones(8, dtype=torch.bool)})
    assert "ir_x1" not in summary and summary["ce"] > 0


def test_the_cascade_learns_alone_for_its_epochs(engine):
    made, batch = engine(loss__msifla__cascade_epochs=1)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.epoch = 0
    assert set(made.forward_backward(batch)) == {"loss", "ir_x3", "ir_x2", "ir_x1"}
    moved = [name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])]
    assert {name.split(".")[0] for name in moved} == {"cascade"}
    assert made.forward_backward({**batch, "low": torch.ones_like(batch["low"])}) == {"loss": 0.0}
    made.epoch = 1
    assert {"ce", "triplet", "ir_x1"} <= set(made.forward_backward(batch))


def test_without_a_cascade_identities_alone_are_learned(engine):
    made, batch = engine(model__options={"widths": [4, 8], "cascade": False}, loss__msifla__cascade_epochs=1)
    made.epoch = 0
    assert not list(made.model.cascade.parameters()) and len(made.model.reid) == 3
    assert set(made.forward_backward(batch)) == {"loss", "ce", "triplet", "acc"}


def test_stripes_of_length_one_change_the_triplet_loss_alone(engine):
    (made, batch), (unit, _) = engine(), engine(loss__msifla__unit=True)
    plain, other = (one.identity_losses(batch) for one in (made, unit))
    assert torch.equal(plain["ce"], other["ce"]) and not torch.equal(plain["triplet"], other["triplet"])


def test_the_cascade_learns_ten_times_as_fast(engine):
    made, _ = engine()
    rates = {id(p): group["lr"] for group in made.optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in made.model.cascade.parameters()} == {0.003}
    assert {round(rates[id(p)], 6) for p in made.model.reid.parameters()} == {0.0003}


@pytest.mark.parametrize(
    "changes",
    [{"model__options": {"widths": [4, 8], "scales": [1]}}, {"model__options": {"widths": [4, 8], "shared": True}},
     {"loss__msifla__coupling": "joint", "model__options": {"widths": [4, 8], "scales": [4, 3, 2, 1]}},
     pytest.param({"loss__msifla__coupling": "detached", "train__precision": "bf16"}, marks=pytest.mark.slow)],
)  # fmt: skip
def test_trains_and_evaluates(tiny_config, changes):
    (record,) = run_job(tiny_config(**{**MSIFLA, **changes, "train__max_epoch": 1}))
    scales = len(changes.get("model__options", {}).get("scales", (3, 2, 1)))
    assert record["model"] == "msifla" and record["feature_dim"] == scales * 4 * 128
    assert 0 <= record["rank1"] <= 100


def test_a_trained_run_keeps_the_weights_of_its_scales(tiny_config, tmp_path):
    scales = {**MSIFLA, "model__options": {**MSIFLA["model__options"], "scale_weights": [3.0, 1.0, 1.0]}}
    (run,) = own_runs(tiny_config(**scales, train__max_epoch=1), 0, tmp_path)
    run.save()
    checkpoint.save_atomic({"models": {"model": run.engine().model.state_dict()}}, run.folder / LAST)
    opened, engine = trained_engine(run.folder)
    assert opened.cfg.model.options.scale_weights == [3.0, 1.0, 1.0]
    assert unwrap(engine.model).scale_weights.tolist() == [3.0, 1.0, 1.0]


def test_the_reconstruction_is_learned(engine):
    made, batch = engine(loss__msifla__coupling="detached")
    first, *_, last = [made.forward_backward(batch)["ir_x1"] for _ in range(6)]
    assert last < 0.8 * first


def test_wrong_couplings_rates_and_sets_are_refused(engine):
    with pytest.raises(ConfigError, match=r"coupling is 'both'\. Allowed: 'alternate', 'joint', 'detached'"):
        engine(loss__msifla__coupling="both")
    with pytest.raises(ConfigError, match="different numbers above 1"):
        engine(loss__msifla__rates=[2.0, 1.0])


@pytest.mark.slow
def test_identities_are_learned_from_random_weights(engine):
    """Beside the triplet loss, which on stripes of any length draws them together first: chance is parts * ln C."""
    options = {"widths": [4, 8], "scales": [1], "cascade": False, "reduce_dim": 64}
    made, _ = engine(model__options=options, loss__msifla__unit=True, train__lr=0.03)
    for _ in range(30):
        ce = [made.forward_backward(batch)["ce"] for batch in made.train_loader]
    assert sum(ce) / len(ce) < 0.95 * 4 * math.log(IDENTITIES)
