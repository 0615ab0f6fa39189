"""PS-HRNet's two phases: who learns, what each loss is, and that a stopped run goes on in either phase."""

import math
from pathlib import Path

import pytest
import torch
from pictures import clouds
from tiny_jobs import ready_engine

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError
from torchreid_xres.data.degrade import round_trip
from torchreid_xres.engine import psh_rnet
from torchreid_xres.engine.base import LAST, XresEngine
from torchreid_xres.features.record import weights_hash
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.models.hrnet_reid import HRNetReIDOutput

CHANGES = {
    "model__name": "psh_rnet",
    "model__options": {"backbone": "hrnet_w18_small"},
    "stages": {
        "teacher": {"model": {"name": "hrnet_reid"}, "train": {"staged_lr": False}},
        "student": {"loss": {"ps": {"teacher": "{teacher}/" + LAST}}},
    },
    "data__height": 64,
    "data__width": 32,
    "data__pair_rates": [1.0],
    "data__transforms": ["random_flip", "pad_crop"],
    "data__pad": 2,
    "sr__name": "vdsr_ca",
    "sr__options": {"depth": 3, "features": 4, "squeezed": 2},
    "sampler__train_sampler": "IdentitySampler",
    "sampler__num_instances": 3,
    "train__batch_size": 12,
    "train__max_epoch": 1,
    "train__staged_lr": True,
    "train__new_layers": ["reid"],
    "loss__triplet__margin": 0.1,
    "loss__triplet__weight_t": 0.2,
    "loss__triplet__weight_x": 1.15,
    "loss__sr__weight": 0.5,
}
OWN = {"stages__student__train": {"sr_optimizer": "adam"}, "sr__options": {"depth": 4, "features": 8, "squeezed": 2}}


@pytest.fixture
def student(tiny_config):
    """Return a function: changes to the student's engine beside an untrained teacher, ready for a step."""

    def make(**changes):
        first, second = own_runs(tiny_config(**{**CHANGES, **changes}), 0, Path(tiny_config().data.save_dir))
        checkpoint.save_atomic({"models": {"model": first.engine().model.state_dict()}}, first.folder / LAST)
        engine = ready_engine(second)
        engine.set_model_mode("train")
        return engine

    return make


def test_the_teacher_does_not_move_and_everything_else_does(student):
    engine = student(train__lr=0.01)
    teacher = {name: value.clone() for name, value in engine.teacher.state_dict().items()}
    before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    engine.run(save_dir=str(engine.save_dir), max_epoch=1, ranks=[1])
    assert all(torch.equal(value, teacher[name]) for name, value in engine.teacher.state_dict().items())
    assert not engine.teacher.training and not any(p.requires_grad for p in engine.teacher.parameters())
    assert [name for name, p in engine.model.named_parameters() if torch.equal(p, before[name])] == []
    held = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in engine.teacher.parameters()}


def test_a_trained_student_needs_no_teacher(student, tiny_config, tmp_path):
    engine = student()
    kept = tmp_path / "student.pth.tar"
    checkpoint.save_atomic({"models": {"model": engine.model.state_dict()}}, kept)
    alone = {"stages": None, "loss__ps__teacher": "gone.pth.tar", "model__reid_weights": "gone.pth.tar"}
    alone |= {"test__evaluate": True, "model__load_weights": str(kept), "data__save_dir": str(tmp_path / "alone")}
    (record,) = run_job(tiny_config(**{**CHANGES, **alone}))
    assert record["weights_sha256"] == weights_hash(engine.model)


def test_as_published_the_front_end_learns_at_a_tenth(student):
    engine = student(train__lr=0.01)
    rates = {id(p): group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in engine.model.reid.parameters()} == {0.01}
    assert all(rates[id(p)] == pytest.approx(0.001) for p in engine.model.front_end.parameters())


def test_an_optimiser_of_its_own_has_the_front_end_alone_without_decay_or_warm_up(student):
    engine = student(**OWN, train__lr=0.01, train__warmup_epochs=2, train__max_epoch=4, train__stepsize=[3])
    parts = {
        name: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, optimizer in engine._optims.items()
    }
    assert parts["front_end"] == {id(p) for p in engine.model.front_end.parameters()}
    assert parts["model"] == {id(p) for p in engine.model.reid.parameters()}
    (group,) = engine._optims["front_end"].param_groups
    assert isinstance(engine._optims["front_end"], torch.optim.Adam) and group["weight_decay"] == 0
    seen = []
    for _ in range(4):
        seen.append((group["lr"], engine.optimizer.param_groups[-1]["lr"]))
        engine.optimizer.step()
        engine._optims["front_end"].step()
        engine.update_lr()
    assert [own for own, _ in seen] == pytest.approx([3e-4, 3e-4, 3e-4, 3e-5])
    assert [rate for _, rate in seen] == pytest.approx([1e-3, 5.5e-3, 1e-2, 1e-3])


@pytest.fixture
def restorable(student):
    """Return a detached engine without a teacher, and a batch of pictures from which its front end can learn."""
    engine = student(**OWN, loss__sr__coupling="detached", loss__ps__weight=0.0, train__sr_lr=0.01)
    data = next(iter(engine.train_loader))
    normalize, (height, width) = engine.model.normalize, data["img_hr"].shape[2:]
    truth = clouds(len(data["img"]), height, width)
    data |= {"img_hr": normalize(truth), "img_lr": normalize(round_trip(truth, (height // 2, width // 2)))}
    return engine, data | {"rate_lr": torch.full_like(data["rate_lr"], 2.0)}


def test_detached_the_front_end_learns_from_the_reconstruction_loss_alone(restorable):
    engine, data = restorable
    parameters = list(engine.model.front_end.parameters())

    def gradients():
        losses = engine.losses(data)
        return (
            torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, parameters, retain_graph=True)])
            for loss in (losses["loss"], engine.weight_sr * losses["sr"])
        )

    whole, own = gradients()
    torch.testing.assert_close(whole, own)
    engine.detached = False  # joint: the identity loss reaches it, too, and is far stronger
    whole, own = gradients()
    assert whole.norm() > 3 * own.norm()


@pytest.mark.slow
def test_the_front_end_learns_to_restore_while_the_student_learns_identities(restorable):
    engine, data = restorable
    plain = float((data["img_lr"] - data["img_hr"]).abs().mean())
    assert [engine.step(data)["sr"] for _ in range(30)][-1] < 0.97 * plain


def test_only_low_views_are_reconstructed_unless_all_are_asked_for(student):
    engine = student(loss__sr__views="all", loss__ps__weight=0.0)
    engine.set_model_mode("eval")
    data = next(iter(engine.train_loader))  # of all, the pairs at rate 1, too
    low = data["rate_lr"] > 1
    assert 0 < low.sum() < len(low)
    with torch.no_grad():
        error = (engine.model(data["img_lr"], full=True).restored - data["img_hr"]).abs()
        torch.testing.assert_close(engine.losses(data)["sr"], error.mean())
        engine.sr_views = "low"
        torch.testing.assert_close(engine.losses(data)["sr"], error[low].mean())
        assert "sr" not in engine.losses({**data, "rate_lr": torch.ones_like(data["rate_lr"])})


def test_the_ps_loss_is_zero_for_a_twin_that_sees_the_same(student):
    engine = student(sr__name="bicubic", sr__scale=1, sr__options={})  # at the image's own size the identity
    engine.model.reid.load_state_dict(engine.teacher.state_dict())
    engine.set_model_mode("eval")
    data = next(iter(engine.train_loader))
    same = {**data, "img_lr": data["img_hr"]}
    losses = engine.losses(same)
    assert losses["ps"].item() == pytest.approx(0, abs=1e-4) and losses["sr"].item() == pytest.approx(0, abs=1e-5)
    assert engine.losses(data)["ps"] > 10 * losses["ps"]


def test_the_total_is_equations_5_to_12(student):
    engine = student()
    engine.set_model_mode("eval")  # the loss twice on one batch, without dropout
    data = next(iter(engine.train_loader))
    losses = engine.losses(data)
    with torch.no_grad():
        out = engine.model(data["img_lr"], full=True)
        target = engine.teacher(data["img_hr"], full=True)
    pids, classes, count = data["pid"].tolist(), out.reid.logits.shape[1], len(data["pid"])

    ce = 0.0  # eq. 8 and 9
    for row, pid in zip(out.reid.logits.tolist(), pids, strict=True):
        log_total = math.log(sum(math.exp(x) for x in row))
        for k in range(classes):
            q = 1 - (classes - 1) / classes * 0.1 if k == pid else 0.1 / classes
            ce -= q * (row[k] - log_total) / count
    triplet = 0.0  # eq. 7
    for seq in out.reid.seqs:
        for a in range(count):
            d = [float((seq[a] - seq[b]).norm()) for b in range(count)]
            positive = max(d[b] for b in range(count) if pids[b] == pids[a])
            negative = min(d[b] for b in range(count) if pids[b] != pids[a])
            triplet += max(0.0, 0.1 + positive - negative) / count
    low = data["rate_lr"] > 1
    sr = float((out.restored - data["img_hr"])[low].abs().mean())  # eq. 5
    ps = 0.0  # eq. 11
    for mine, theirs in (
        (out.reid.seqs[0], target.seqs[0]), (out.reid.seqs[3], target.seqs[3]),
        (out.reid.seqs[4], target.seqs[4]), (out.reid.logits, target.logits),
    ):  # fmt: skip
        ps += float((mine - theirs).abs().mean())
    found = {name: losses[name].item() for name in ("ce", "triplet", "sr", "ps", "loss")}
    expected = {"ce": ce, "triplet": triplet, "sr": sr, "ps": ps}
    expected["loss"] = 1.15 * ce + 0.2 * triplet + 0.5 * sr + 0.5 * ps  # eq. 10 and 12
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_reconstruction_loss_is_the_one_that_is_named(student):
    engine = student(loss__sr__name="mse")
    engine.set_model_mode("eval")
    data = next(iter(engine.train_loader))
    with torch.no_grad():
        restored = engine.model(data["img_lr"], full=True).restored
    error = (restored - data["img_hr"])[data["rate_lr"] > 1]
    assert engine.losses(data)["sr"].item() == pytest.approx(float((error**2).mean()), rel=1e-4)


def test_a_front_end_that_always_learns_cannot_be_frozen(student):
    with pytest.raises(ConfigError, match=r"sr\.frozen is for models that leave the choice, as sr_reid does"):
        student(sr__frozen=True)


def test_at_the_start_the_sr_loss_is_the_distance_of_the_pair(student):
    engine = student(sr__options={})  # the paper's VDSR-CA
    data = next(iter(engine.train_loader))
    pair = float((data["img_lr"] - data["img_hr"])[data["rate_lr"] > 1].abs().mean())
    assert pair > 0.05
    assert engine.losses(data)["sr"].item() == pytest.approx(pair, abs=0.01)


def test_without_ps_weight_no_teacher_is_needed_or_run(student):
    engine = student(loss__ps__weight=0.0)
    assert engine.teacher is None and "ps" not in engine.losses(next(iter(engine.train_loader)))
    engine = student(loss__sr__weight=0.0)
    assert "sr" not in engine.losses(next(iter(engine.train_loader)))


def test_natural_low_images_have_no_original_to_follow(student):
    engine = student()
    engine.set_model_mode("eval")
    data = next(iter(engine.train_loader))
    low = torch.zeros(len(data["pid"]), dtype=torch.bool)
    low[:3] = True
    natural = {**data, "low": low, "rate_lr": torch.ones(len(low))}
    spoilt = {**natural, "img_hr": data["img_hr"].clone()}
    spoilt["img_hr"][:3] += 5
    a, b = engine.losses(natural), engine.losses(spoilt)
    assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()}, rel=1e-4)


def test_one_step_decodes_once_and_runs_the_teacher_without_a_graph(student, monkeypatch):
    engine = student()
    seen = []
    real = engine.teacher.forward

    def forward(*args, **kwargs):
        seen.append(torch.is_grad_enabled())
        return real(*args, **kwargs)

    monkeypatch.setattr(engine.teacher, "forward", forward)
    decoded = []
    dataset = type(engine.train_loader.dataset)
    read = dataset.read
    monkeypatch.setattr(dataset, "read", lambda self, path: decoded.append(path) or read(self, path))
    data = next(iter(engine.train_loader))
    engine.forward_backward(data)
    assert seen == [False] and len(decoded) == len(data["pid"])


def test_the_teacher_learns_from_the_high_resolution_view(student, tiny_config):
    first = own_runs(tiny_config(**CHANGES), 0, Path(tiny_config().data.save_dir))[0]
    engine = first.engine()
    seen = []
    engine.model.forward = lambda img, full: seen.append(img) or HRNetReIDOutput(
        (torch.randn(len(img), 4, requires_grad=True),) * 5, torch.zeros(len(img), 2), torch.zeros(len(img), 8)
    )
    data = next(iter(engine.train_loader))
    engine.losses(data)
    assert torch.equal(seen[0], data["img_hr"])


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_a_run_stopped_in_either_phase_ends_like_a_whole_one(tiny_config, tmp_path, monkeypatch, phase):
    changes = {**CHANGES, **OWN, "train__max_epoch": 2}
    whole = run_job(tiny_config(**changes, data__save_dir=str(tmp_path / "whole")))

    real = XresEngine.forward_backward
    kind = psh_rnet.HRNetReIDEngine if phase == "teacher" else psh_rnet.PSHRNetEngine

    def stop(self, data):
        if type(self) is kind and self.epoch == 1:
            raise KeyboardInterrupt
        return real(self, data)

    cfg = tiny_config(**changes, data__save_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(XresEngine, "forward_backward", stop)
        run_job(cfg)
    resumed = run_job(cfg)
    assert [r["weights_sha256"] for r in resumed] == [r["weights_sha256"] for r in whole]
    assert [r["model"] for r in whole] == ["hrnet_reid [teacher]", "psh_rnet [student]"]
    assert whole[-1]["feature_dim"] == 6656


def test_a_missing_or_strange_teacher_is_refused(student, tiny_config, tmp_path):
    cfg = tiny_config(**{**CHANGES, "stages": {}})
    with pytest.raises(ConfigError, match=r"set loss\.ps\.teacher to its weights"):
        own_runs(cfg, 0, tmp_path)[0].engine()
    engine = student()
    other = psh_rnet.HRNetReID(num_classes=3, pretrained=False, backbone="hrnet_w18_small")
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="another number of identities than 8"):
        engine._load_teacher(str(tmp_path / "other.pth"), {"backbone": "hrnet_w18_small"})
    with pytest.raises(ValueError, match=r"set data\.pairs True"):
        student(data__pairs=False)
