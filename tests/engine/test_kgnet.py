"""KGNet's stages: the hourglass, then equations 5 to 10; who learns from what."""

import math
from pathlib import Path

import pytest
import tiny_net
import torch
from tiny_jobs import ready_engine

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError, load_config
from torchreid_xres.engine.base import LAST, XresEngine
from torchreid_xres.engine.kgnet import KGNetEngine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.models import build_model

HOURGLASS = {"stacks": 1, "depth": 2, "width": 8}
OPTIONS = {"hourglass": HOURGLASS, "kgr_blocks": 1, "kga_blocks": 1}
SR = {"features": 8, "groups": 1, "blocks": 1}
CHANGES = {
    "model__name": "kgnet",
    "model__reid": tiny_net.STAGED,  # which it takes apart
    "data__height": 64,
    "data__width": 64,
    "data__kernel": "bicubic",
    "data__pair_rates": [4.0],
    "data__transforms": ["random_flip", "pad_crop"],
    "data__pad": 2,
    "sr__name": "omni_sr",
    "sr__scale": 4,
    "sr__options": SR,
    "sampler__train_sampler": "IdentitySampler",
    "sampler__num_instances": 3,
    "train__batch_size": 12,
    "train__max_epoch": 1,
    "loss__sr__name": "mse",
    "loss__sr__weight": 50.0,
    "loss__distill__weight": 10.0,
}


@pytest.fixture
def hourglass(tmp_path):
    """The file of an hourglass, untrained."""
    path = tmp_path / "hourglass.pth"
    torch.save(build_model("hourglass_vehicle20", **HOURGLASS).state_dict(), path)
    return str(path)


@pytest.fixture
def config(tiny_config, hourglass):
    """Return a function: changes to a configuration of the second stage alone."""

    def make(options=None, **changes):
        own = {**OPTIONS, "hourglass_weights": hourglass, **(options or {})}
        return tiny_config(**{**CHANGES, "model__options": own, **changes})

    return make


@pytest.fixture
def engine_of(config):
    """Return a function: changes to an engine that is ready for a step."""

    def make(**changes):
        cfg = config(**changes)
        run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
        engine = ready_engine(run)
        engine.set_model_mode("train")
        return engine

    return make


# -- losses --------------------------------------------------------------------------------------------------------


def slow_identity(out, pids, margin=0.3, smoothing=0.1):
    """Cross-entropy with smoothed labels plus the batch-hard triplet loss, for one encoder."""
    rows, count = out.logits.tolist(), len(pids)
    classes = len(rows[0])
    loss = 0.0
    for row, pid in zip(rows, pids, strict=True):
        log_total = math.log(sum(math.exp(x) for x in row))
        for k in range(classes):
            q = 1 - (classes - 1) / classes * smoothing if k == pid else smoothing / classes
            loss -= q * (row[k] - log_total) / count
    for a in range(count):
        d = [float((out.feature[a] - out.feature[b]).norm()) for b in range(count)]
        positive = max(d[b] for b in range(count) if pids[b] == pids[a])
        negative = min(d[b] for b in range(count) if pids[b] != pids[a])
        loss += max(0.0, margin + positive - negative) / count
    return loss


@pytest.mark.parametrize("dual", [True, False])
def test_the_total_is_equations_5_to_10(engine_of, dual):
    engine = engine_of(options={"dual": dual})
    engine.set_model_mode("eval")  # twice on one batch, with the same statistics
    data = next(iter(engine.train_loader))
    for p in engine.model.parameters():  # so that student and teacher differ, and the SR module does something
        p.data += 0.02 * torch.randn_like(p)
    losses = engine.losses(data)
    with torch.no_grad():
        out = engine.model(data["img_lr"], data["img_hr"])
    pids = data["pid"].tolist()
    original = engine.model.normalize.undo(data["img_hr"])

    def squares(one, other):
        pairs = zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)
        return sum((a - b) ** 2 for a, b in pairs) / one.numel()

    expected = {
        "rec": squares(out.restored, original),  # Eq. 5
        "distill": squares(out.student.feature, out.teacher.feature),  # Eq. 6
        "tea": slow_identity(out.teacher, pids),  # Eq. 7
        "stu": slow_identity(out.student, pids),  # Eq. 8
    }
    expected["loss"] = 50 * expected["rec"] + 10 * expected["distill"] + expected["tea"] + expected["stu"]  # Eq. 9, 10
    assert {name: losses[name].item() for name in expected} == pytest.approx(expected, rel=1e-3)
    assert expected["rec"] > 1e-3 and expected["distill"] > 1e-4


def test_the_teacher_learns_nothing_from_the_distillation_and_the_recovery_does(engine_of):
    engine = engine_of()
    losses = engine.losses(next(iter(engine.train_loader)))
    losses["distill"].backward()
    touched = {name for name, p in engine.model.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("hourglass.", "encoders.teacher.")) for name in touched)
    assert {name.split(".")[0] for name in touched} == {"recovery", "alignment", "encoders"}


def test_a_term_of_weight_zero_is_not_computed(engine_of):
    engine = engine_of(loss__sr__weight=0.0, loss__distill__weight=0.0)
    losses = engine.losses(next(iter(engine.train_loader)))
    assert set(losses) == {"loss", "stu", "tea", "acc"}
    assert losses["loss"].item() == pytest.approx((losses["stu"] + losses["tea"]).item())


def test_the_bicubic_baseline_has_nothing_to_reconstruct(engine_of):
    options = {"kgr": False, "kga": False, "dual": False}
    engine = engine_of(options=options, sr__name="bicubic", loss__distill__weight=0.0)
    assert set(engine.losses(next(iter(engine.train_loader)))) == {"loss", "stu", "tea", "acc"}
    assert engine.model.recovery is None and engine.model.hourglass is None


def test_natural_low_images_have_no_original_to_follow(engine_of):
    engine = engine_of()
    engine.set_model_mode("eval")
    for p in engine.model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    data = next(iter(engine.train_loader))
    low = torch.zeros(len(data["pid"]), dtype=torch.bool)
    low[:3] = True
    natural = {**data, "low": low, "rate_lr": torch.where(low, 1.0, 4.0)}
    spoilt = {**natural, "img_hr": data["img_hr"].clone()}
    spoilt["img_hr"][:3] += 1
    a, b = engine.losses(natural), engine.losses(spoilt)
    same = {name for name in a if a[name].item() == pytest.approx(b[name].item(), rel=1e-4)}
    assert same == {"rec", "distill", "stu", "acc"}  # the teacher learns its identity from the image as it is
    assert set(engine.losses({**natural, "low": low | True, "rate_lr": 0 * low + 1.0})) == {"loss", "stu", "tea", "acc"}


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"dual": False}},
        {"options": {"kgr": False, "kga": False, "dual": False}, "sr__name": "bicubic", "loss__distill__weight": 0.0},
    ],
)
def test_the_encoders_may_have_a_rate_of_their_own(engine_of, changes):
    rates = {"train__staged_lr": True, "train__new_layers": ["encoders"], "train__base_lr_mult": 0.1}
    engine = engine_of(**changes, **rates, train__lr=0.01)
    engine.forward_backward(next(iter(engine.train_loader)))
    found = {id(p): group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    for name, p in engine.model.named_parameters():
        assert found[id(p)] == pytest.approx(0.01 if name.startswith("encoders.") else 0.001)


# -- running -------------------------------------------------------------------------------------------------------


def test_all_but_the_hourglass_moves(engine_of):
    engine = engine_of(train__lr=0.01)
    before = {name: t.clone() for name, t in engine.model.state_dict().items()}
    engine.run(save_dir=str(engine.save_dir), max_epoch=1, ranks=[1])
    still = {name for name, p in engine.model.named_parameters() if torch.equal(p, before[name])}
    hourglass = {f"hourglass.{name}" for name, _ in engine.model.hourglass.named_parameters()}
    assert still == hourglass | {"encoders.student.bn.bias", "encoders.teacher.bn.bias"}
    statistics = [name for name in before if name.startswith("hourglass.")]
    assert all(torch.equal(engine.model.state_dict()[name], before[name]) for name in statistics)
    assert not any(p.requires_grad for p in engine.model.hourglass.parameters())


def test_one_step_decodes_once_and_finds_keypoints_without_a_graph(engine_of, monkeypatch):
    engine = engine_of()
    seen, decoded = [], []
    engine.model.hourglass.stem.register_forward_pre_hook(
        lambda module, args: seen.append((torch.is_grad_enabled(), len(args[0])))
    )
    dataset = type(engine.train_loader.dataset)
    read = dataset.read
    monkeypatch.setattr(dataset, "read", lambda self, path: decoded.append(path) or read(self, path))
    data = next(iter(engine.train_loader))
    engine.forward_backward(data)
    assert seen == [(False, 12)] and len(decoded) == 12


def test_queries_and_gallery_meet_their_encoders(engine_of, monkeypatch):
    engine = engine_of()
    counts = {"student": 0, "teacher": 0}
    for name in counts:
        def count(module, args, name=name):
            counts[name] += len(args[0])

        getattr(engine.model, name).trunk.register_forward_pre_hook(count)
    engine.set_model_mode("eval")
    loaders = engine.test_loader["folder"]
    with torch.no_grad():
        features = [engine._features(loaders[role], True)[0] for role in ("query", "gallery")]
    assert counts == {"student": len(features[0]), "teacher": len(features[1])}
    assert features[0].shape[1] == 128


@pytest.mark.slow
def test_a_stopped_run_ends_like_a_whole_one(config, tmp_path, monkeypatch):
    whole = run_job(config(train__max_epoch=2, data__save_dir=str(tmp_path / "whole")))
    real = XresEngine.forward_backward

    def stop(self, data):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return real(self, data)

    cfg = config(train__max_epoch=2, data__save_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(XresEngine, "forward_backward", stop)
        run_job(cfg)
    assert [r["weights_sha256"] for r in run_job(cfg)] == [r["weights_sha256"] for r in whole]


def test_what_is_missing_is_named(config, engine_of, tmp_path):
    cfg = config(options={"hourglass_weights": ""})
    with pytest.raises(ConfigError, match=r"set model\.options\.hourglass_weights to its weights"):
        own_runs(cfg, 0, tmp_path)[0].engine()
    with pytest.raises(ValueError, match=r"set data\.pairs True"):
        engine_of(data__pairs=False)


def test_one_encoder_alone_learns_the_images_as_the_camera_saw_them(engine_of):
    alone = {"dual": False, "kgr": False, "kga": False}
    engine = engine_of(
        options=alone, sr__name="bicubic", data__pairs=False, data__random_rates=[4.0, 4.0], data__random_share=1.0
    )
    batch = next(iter(engine.train_loader))
    assert not {"img_hr", "img_lr"} & set(batch)
    found = engine.losses(batch)
    assert set(found) == {"loss", "acc"} and found["loss"].requires_grad
    engine.model.eval()
    with torch.no_grad():
        encoded = engine.model(batch["img"], full=True)
        torch.testing.assert_close(encoded.feature, engine.model.student(batch["img"]).feature, rtol=1e-3, atol=1e-4)
        loss = float(engine.losses(batch)["loss"])
    assert loss == pytest.approx(slow_identity(encoded, batch["pid"]), rel=1e-4)
    for more in ({"dual": True}, {"kga": True}):
        with pytest.raises(ValueError, match=r"set data\.pairs True"):
            engine_of(options={**alone, **more}, sr__name="bicubic", data__pairs=False)


@pytest.mark.slow
def test_both_stages_on_drawn_vehicles(repo, tmp_path):
    """The project's own configuration, smaller still: what the hourglass learned is what guides."""
    few = {"train_identities": 4, "test_identities": 2, "cameras": 2, "images_per_camera": 2, "train_low": False}
    changes = {
        "data.root": str(tmp_path / "data"), "data.save_dir": str(tmp_path / "run"), "use_gpu": False,
        "data.height": 64, "data.width": 64, "data.options.synth_vehicle": few, "sr.scale": 4, "sr.options": SR,
        "stages.hourglass.data.options": {"synth_vehicle": {"query_rate": 1.0}},
        "stages.hourglass.model.options": HOURGLASS, "stages.hourglass.train.max_epoch": 1,
        "stages.hourglass.train.batch_size": 4, "stages.kgnet.model.options.hourglass": HOURGLASS,
        "train.batch_size": 8, "train.max_epoch": 2, "train.warmup_epochs": 1,
    }  # fmt: skip
    file = repo / "configs" / "kgnet_synth_vehicle.yaml"
    cfg = load_config(file, [part for pair in changes.items() for part in pair])
    points, reid = run_job(cfg)
    assert points["model"] == "hourglass_vehicle20 [hourglass]" and "pck_x8" in points
    assert reid["model"] == "kgnet [kgnet]" and reid["feature_dim"] == 128 and 0 <= reid["rank1"] <= 100
    found, guide = (
        checkpoint.load(tmp_path / "run" / "split0" / "kgnet" / stage / LAST)["models"]["model"]
        for stage in ("hourglass", "kgnet")
    )
    assert all(torch.equal(guide[f"hourglass.{name}"], value) for name, value in found.items())


def test_the_papers_configurations_are_the_papers(repo):
    for name in ("veri776_x8", "vehicleid_x8"):
        cfg = load_config(repo / "configs" / f"kgnet_{name}.yaml", ["model.pretrained", False])
        options = KGNetEngine.model_options(cfg)
        parts = [options[key] for key in ("reid", "sr", "sr_scale", "sr_options")]
        assert parts == ["resnet50", "omni_sr", 8, {}]
        own = KGNetEngine.engine_options(own_runs(cfg, 0, Path("log"))[-1].cfg)
        assert (own["weight_rec"], own["weight_distill"], own["rec"], own["margin"]) == (50.0, 10.0, "mse", 0.3)
        train = cfg.train
        assert (train.batch_size, train.lr, list(train.stepsize), train.max_epoch) == (8, 2e-4, [40, 70], 120)
