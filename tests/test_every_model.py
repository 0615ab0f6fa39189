"""One walk over the registered models at a tiny size: each is built, takes a step, evaluates, is saved and loaded.

A new model needs a line in CASES of ``helpers/every_model.py``. That each can be exported is walked in
``inference/test_export.py``, that each takes a step at its paper's size in ``models/test_paper_size.py`` and the
methods' own tests, that two processes have the losses of one in ``devices/test_distributed.py``, that each would run on
a GPU in ``devices/test_without_gpu.py``; front ends are walked in ``sr/test_front_ends.py``.

The numbers in ``golden/<model>.json`` are written by ``python tests/golden/make.py``.
"""

import json
import math

import pytest
import torch
from doubles import cast
from every_model import CASES, input_size, picture_batch
from golden_values import agree_with_kept, fill, noise, probed
from gradients import awaken, fitting, keep_in_evaluation, watch_gradients, without_gradient

from torchreid_xres import checkpoint, host
from torchreid_xres.data.base import dataset_options
from torchreid_xres.engine.base import ENGINES, LAST
from torchreid_xres.engine.liveness import Watch
from torchreid_xres.jobs.run import model_options
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.models.dgrl_restorer import RateRestorer
from torchreid_xres.models.vpfa import PANNINGS
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import parts_of, put_out
from torchreid_xres.sr.pyramid import PyramidRestorer

# Parameters that a step gives no gradient, by a pattern of their names, and why.
NO_GRADIENT = {
    "kgnet": {
        r"hourglass\..*": "trained before, on keypoints; fixed",
        r"encoders\.\w+\.bn\.bias": "stays zero, so that the features lie about the origin (BNNeck)",
    },
    "dgrl": {
        r"restorer\..*": "trained before, by dgrl_restorer; fixed",
        r"heads\.\d\.bn\.bias": "stays zero, so that the features lie about the origin (BNNeck)",
    },
    "prpr": {r"restorer\..*": "trained before, by prpr_restorer; fixed"},
    "asymmetric": {r"gallery\..*": "trained before; fixed"},
}
# Parameters that the host's own engines, which hand a model one view, give none either, and why.
ITS_ENGINE_ALONE = {
    "kgnet": {r"encoders\.teacher\..*": "the teacher sees high resolution; a model given one view takes it as low"},
    "dgrl": {
        r"stems\.sr\..*": "the stem of restored images; a model given one view takes it as high resolution",
        r"sides\..*": "the side branches count in the method's own loss alone",
        r"heads\.[12]\..*": "the ends of the side branches",
    },
}
# Parts that were trained before, and stay.
FROZEN = {
    "kgnet": {"hourglass"}, "dgrl": {"restorer"}, "prpr": {"restorer"}, "asymmetric": {"gallery encoder"},
}  # fmt: skip
# Models that give images or maps, so that no engine for identities can train them.
NO_IDENTITIES = {"dgrl_restorer", "prpr_restorer", "hourglass_vehicle20"}
RESTORING = {"sr_reid", "psh_rnet", "dgrl", "kgnet", "msifla", "prpr"}  # their records say what it gains

every_model = pytest.mark.parametrize("name", CASES)
every_method = pytest.mark.parametrize("name", [name for name in CASES if name not in NO_IDENTITIES])


@pytest.fixture(scope="module")
def stepped(engine_of):
    """Return a function: a model's name to its engine after one step, the same engine at each call."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = engine_of(name)
            made[name].forward_backward(next(iter(made[name].train_loader)))
        return made[name]

    return make


def answer(model, batch):
    """Return all that a model says of a batch, as one vector."""
    model.eval()
    with torch.no_grad():
        if hasattr(model, "extract"):
            said = model.extract(batch)
        elif isinstance(model, RateRestorer):
            said = model(0.5 + 0.2 * batch["img"], 2.0)  # in [0, 1]
        elif isinstance(model, PyramidRestorer):
            said = model(0.5 + 0.2 * batch["img"])
        else:
            said = model(batch["img"])
    return torch.cat([part.flatten() for part in ([said] if torch.is_tensor(said) else said)])


def test_the_walk_passes_every_model_and_every_engine():
    assert set(CASES) - set(MODELS) == {"osnet_x0_25"} and set(MODELS) <= set(CASES)
    assert set(ENGINES) <= set(CASES) and set(NO_GRADIENT) | NO_IDENTITIES <= set(MODELS)


@every_model
def test_a_step_gives_every_parameter_a_gradient_but_the_listed_ones(name, engine_of, monkeypatch):
    engine = engine_of(name)
    awaken(engine.model, monkeypatch)
    norms = watch_gradients(engine.model)
    losses = engine.forward_backward(next(iter(engine.train_loader)))
    assert "loss" in losses and all(math.isfinite(value) for value in losses.values())
    assert without_gradient(engine.model, norms) == fitting(engine.model, NO_GRADIENT.get(name, {}))


@every_model
def test_the_same_seed_gives_the_same_weights_after_a_step(name, engine_of, stepped):
    first = stepped(name).model.state_dict()
    again = engine_of(name)
    untrained = {key: value.clone() for key, value in again.model.state_dict().items()}
    again.forward_backward(next(iter(again.train_loader)))
    assert all(torch.equal(value, first[key]) for key, value in again.model.state_dict().items())
    assert not all(torch.equal(value, first[key]) for key, value in untrained.items()), "the step changes nothing"


@every_model
def test_every_part_that_is_to_learn_learns(name, engine_of):
    """A few steps move it by more than weight decay; that each parameter gets a gradient is seen above."""
    # Beside the decay of re-ID networks, RCAN's channel attention would not; restorers are trained without.
    engine = engine_of(name, train__weight_decay=0.0 if name in NO_IDENTITIES else 5e-4)
    watch = Watch(engine.model, filter(None, engine._optims.values()))
    batch = next(iter(engine.train_loader))
    for _ in range(3):
        engine.forward_backward(batch)
    parts = watch.parts
    assert set().union(*(part.parameters() for part in parts.values())) == set(engine.model.parameters())
    states = {part: watch.moved(parts[part])["state"] for part in parts}
    assert {part for part, state in states.items() if state == "frozen"} == FROZEN.get(name, set())
    assert [part for part, state in states.items() if state == "still"] == []


def test_the_front_end_of_psh_rnet_learns_at_its_depth(engine_of):
    engine = engine_of("psh_rnet", sr__options={"depth": 20, "features": 4, "squeezed": 2})
    watch = Watch(engine.model, [engine.optimizer])
    engine.forward_backward(next(iter(engine.train_loader)))
    assert watch.moved(watch.parts["front end"])["state"] == "learns"


@every_model
def test_each_part_can_be_put_out_at_test(name, stepped):
    model, batch = stepped(name).model, picture_batch(*input_size(name))
    whole = answer(model, batch)
    for part in parts_of(model).values():
        if part.off is not None:
            with put_out(part):
                without = answer(model, batch)
            assert without.shape == whole.shape and without.isfinite().all()
    assert torch.equal(answer(model, batch), whole)


@every_model
def test_a_saved_model_loads_into_another_and_says_the_same(name, engine_of, stepped, tmp_path):
    engine, batch = stepped(name), picture_batch(*input_size(name))
    checkpoint.save_atomic({"models": {"model": engine.model.state_dict()}}, tmp_path / LAST)
    other = engine_of(name, train__seed=5).model
    expected = answer(engine.model, batch)
    assert expected.isfinite().all() and expected.std() > 0
    assert not torch.equal(answer(other, batch), expected)
    assert load_weights(other, tmp_path / LAST, strict=True) == []
    assert torch.equal(answer(other, batch), expected)


@every_model
def test_it_evaluates(name, stepped, tmp_path):
    engine = stepped(name)
    engine.test(dist_metric="cosine", save_dir=str(tmp_path), ranks=[1, 5])
    (record,) = engine.records.values()
    assert json.loads(next(tmp_path.rglob("results/*.json")).read_text()) == json.loads(json.dumps(record))
    kept = ("rank1", "mAP") if name not in NO_IDENTITIES else ("psnr", "pck")
    assert ("restoration" in record) == (name in RESTORING)
    figures = {key for key in record if key.startswith(kept)}
    assert figures and all(0 <= record[key] <= 100 for key in figures)


@pytest.mark.parametrize("loss", [pytest.param("softmax", marks=pytest.mark.slow), "triplet"])
@every_method
def test_the_hosts_own_engines_train_and_evaluate_it(name, loss, config_of, tiny_root, tmp_path, monkeypatch):
    cfg = config_of(name)
    options = model_options(cfg, name) if name in MODELS else {}
    with dataset_options({"folder": {"synthetic": True, "lr_camera": "1"}}):
        manager = host.ImageDataManager(
            root=str(tiny_root), sources="folder", height=cfg.data.height, width=cfg.data.width, transforms=[],
            batch_size_train=24, batch_size_test=18, workers=0, use_gpu=False, num_instances=3,
            train_sampler="RandomIdentitySampler" if loss == "triplet" else "RandomSampler",
        )  # fmt: skip
    model = build_model(name, manager.num_train_pids, loss, pretrained=False, **options)
    awaken(model, monkeypatch)
    norms = watch_gradients(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = host.build_optimizer(model, optim="sgd", lr=1e-3)
    kind = host.ImageTripletEngine if loss == "triplet" else host.ImageSoftmaxEngine
    weights = {"weight_t": 1.0, "weight_x": 1.0} if loss == "triplet" else {}
    engine = kind(manager, model, optimizer, use_gpu=False, **weights)
    engine.run(str(tmp_path), max_epoch=1, print_freq=1, ranks=[1])
    listed = NO_GRADIENT.get(name, {}) | ITS_ENGINE_ALONE.get(name, {})
    assert without_gradient(model, norms) == fitting(model, listed)
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert any("classifier" in key for key in moved)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    saved = torch.load(next((tmp_path / "model").glob("*.pth.tar-1")), weights_only=True)
    assert 0 <= saved["rank1"] <= 1


# -- golden values -------------------------------------------------------------------------------------------------


def measured(engine, name, dtype):
    """Return the numbers that are kept of a model: its size, what it says, its losses, and a gradient.

    The gradient is that with fixed statistics: batch normalisation over a dozen images of a few pixels divides by the
    small deviations of what its units have clipped, and makes of the rounding of single precision up to 4 % of a
    gradient's length.
    """
    model, batch = engine.model.to(dtype), cast(picture_batch(*input_size(name)), dtype)
    teacher = getattr(engine, "teacher", None)
    if teacher is not None:
        fill(teacher.to(dtype))
    paths = [path for path, *_ in engine.datamanager.train_loader.dataset.train]
    if isinstance(getattr(engine, "loss", None), torch.nn.Module):
        engine.loss.to(dtype)
    batch["impath"] = [paths[i % len(paths)] for i in range(12)]

    def step():
        fill(model)
        torch.manual_seed(0)  # what an engine draws
        return engine.forward_backward(batch)

    fill(model)
    said = answer(model, batch)
    model.train()
    keep_in_evaluation(model, torch.nn.Dropout)  # draws other numbers in other versions of torch
    losses = step()
    keep_in_evaluation(model, torch.nn.modules.batchnorm._BatchNorm)
    norms = watch_gradients(model)
    step()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "answer": probed(said),
        "losses": losses,
        "gradient": math.hypot(*norms.values()),
    }


def vpfa_measured(dtype):
    """Return the numbers that are kept of VPFA, which is no model of its own: what each module makes of features."""
    x, target = noise("low", 9, 6).to(dtype), noise("high", 9, 6).to(dtype)
    rate = torch.tensor([1.0, 2.0, 4.0], dtype=dtype).repeat(3)
    answers = {}
    for name in PANNINGS:
        module = PANNINGS.build(name, features=6, rates=(2.0, 4.0), hidden=8).to(dtype)
        module.learn(x, rate, target, train=lambda block, inputs, targets: fill(block))
        answers[name] = probed(module(x, rate).flatten())
    return answers


@every_model
def test_golden_values(name, engine_of):
    agree_with_kept(name, lambda dtype: measured(engine_of(name), name, dtype))


def test_golden_values_of_vpfa():
    agree_with_kept("vpfa", vpfa_measured)
