import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.config import ConfigError
from torchreid_xres.engine.sr_reid import SRReIDEngine
from torchreid_xres.jobs.job import own_runs
from torchreid_xres.models import build_model


@pytest.fixture
def engine_with(tiny_config, tmp_path):
    """Return a function: changes to an engine whose re-ID network starts from weights in a file."""
    reid = build_model("tiny_net", num_classes=8, pretrained=False)
    torch.save(reid.state_dict(), tmp_path / "reid.pth")

    def make(**changes):
        changes["model__reid_weights"] = str(tmp_path / "reid.pth")
        engine = own_runs(tiny_config(**changes), 0, tmp_path)[0].engine()
        engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, tmp_path
        return engine

    return make


def test_the_third_term_is_the_identity_loss_of_low_views_as_they_came(engine_with):
    engine = engine_with(loss__sr__plain=0.5)
    engine.set_model_mode("train")
    data = next(iter(engine.train_loader))
    pids = data["pid"]
    with torch.no_grad():
        model = engine.model
        restored = model.normalize(model.restore(data["img_lr"]))
        logits = model.reid(torch.cat((restored, data["img_hr"], data["img_lr"])))
        found = engine.losses(data)
    both = F.cross_entropy(logits[: 2 * len(pids)], torch.cat((pids, pids)), label_smoothing=0.1)
    plain = F.cross_entropy(logits[2 * len(pids) :], pids, label_smoothing=0.1)
    torch.testing.assert_close(found["identity"], both)
    torch.testing.assert_close(found["plain"], plain)
    torch.testing.assert_close(found["loss"], both + engine.weight_sr * found["sr"] + 0.5 * plain)
    for loss in ("softmax", "triplet"):
        assert "plain" not in engine_with(loss__name=loss).losses(data)
        assert engine_with(loss__name=loss, loss__sr__plain=1.0).losses(data)["plain"] > 0


def test_features_are_compared_by_a_copy_that_does_not_move(engine_with):
    engine = engine_with(loss__sr__feature=2.0, loss__sr__weight=0.0, train__lr=0.01)
    start = {name: value.clone() for name, value in engine.teacher.state_dict().items()}
    assert all(torch.equal(value, start[name]) for name, value in engine.model.reid.state_dict().items())
    engine.set_model_mode("train")
    data = next(iter(engine.train_loader))
    found = engine.losses(data)
    restored = engine.model.restore(data["img_lr"])
    features = [engine.teacher(image) for image in (engine.model.normalize(restored), data["img_hr"])]
    torch.testing.assert_close(found["feature"], (1 - F.cosine_similarity(*features)).mean())
    torch.testing.assert_close(found["loss"], found["identity"] + 2 * found["feature"])
    (found["feature"]).backward()
    assert all(p.grad.abs().sum() > 0 for p in engine.model.front_end.parameters() if p.ndim == 4)
    assert all(p.grad is None for p in engine.teacher.parameters())
    engine.step(data)
    assert all(torch.equal(value, start[name]) for name, value in engine.teacher.state_dict().items())
    assert not engine.teacher.training


@pytest.mark.parametrize("weights", [{"weight": 1.0}, {"weight": 0.0, "feature": 1.0}, {"weight": 0.0}])
def test_detached_only_reconstruction_reaches_the_front_end_if_it_counts(engine_with, weights):
    engine = engine_with(loss__sr=weights | {"coupling": "detached"}, train__sr_optimizer="adam")
    engine.set_model_mode("train")
    data = next(iter(engine.train_loader))
    losses = engine.losses(data)
    parameters = list(engine.model.front_end.parameters())
    identity = torch.autograd.grad(losses["identity"], parameters, retain_graph=True, allow_unused=True)
    assert all(grad is None for grad in identity) == (weights != {"weight": 0.0})
    before = [p.detach().clone() for p in parameters]
    engine.step({**data, "rate_lr": torch.ones_like(data["rate_lr"])})  # nothing is restored
    engine.step(data)
    assert not any(torch.equal(p, kept) for p, kept in zip(parameters, before, strict=True))


def test_features_need_a_network_that_has_learned_something(tiny_config):
    cfg = tiny_config(loss__sr__feature=1.0)
    with pytest.raises(ConfigError, match=r"the re-ID network that would see the features starts from random weights"):
        SRReIDEngine.engine_options(cfg)
    cfg.model.pretrained = True
    assert SRReIDEngine.engine_options(cfg)["weight_feature"] == 1.0
    cfg.test.evaluate = True
    assert SRReIDEngine.engine_options(cfg)["weight_feature"] == 0.0


def test_the_front_end_may_have_an_optimiser_of_its_own(engine_with):
    engine = engine_with(train__sr_optimizer="adam", train__sr_lr=0.02)
    own, rest = (engine._optims[name].param_groups for name in ("front_end", "model"))
    assert [p for group in own for p in group["params"]] == list(engine.model.front_end.parameters())
    assert [p for group in rest for p in group["params"]] == list(engine.model.reid.parameters())
    assert (own[0]["lr"], own[0]["weight_decay"]) == (0.02, 0)
    before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    engine.set_model_mode("train")
    engine.step(next(iter(engine.train_loader)))
    assert [name for name, p in engine.model.named_parameters() if torch.equal(p, before[name])] == []
    for nothing in ({"sr__frozen": True}, {"sr__name": "bicubic", "sr__options": {}}):
        assert "front_end" not in engine_with(train__sr_optimizer="adam", **nothing)._optims


def test_only_low_views_are_reconstructed_unless_all_are_asked_for(tiny_config, tmp_path):
    engine = own_runs(tiny_config(data__pair_rates=[1.0]), 0, tmp_path)[0].engine()
    engine.set_model_mode("eval")
    data = next(iter(engine.train_loader))
    with torch.no_grad():
        output = engine.model(data["img_lr"], data["img_hr"])
        error = (output.restored - output.original).abs()
        low = data["rate_lr"] > 1
        assert 0 < low.sum() < len(low)
        torch.testing.assert_close(engine.losses(data)["sr"], error[low].mean())
        engine.sr_views = "all"
        torch.testing.assert_close(engine.losses(data)["sr"], error.mean())


def test_all_but_natural_low_images_are_reconstructed(tiny_config, tmp_path):
    engine = own_runs(tiny_config(loss__sr__views="all"), 0, tmp_path)[0].engine()
    engine.set_model_mode("eval")
    data = next(iter(engine.train_loader))
    low = torch.zeros(len(data["pid"]), dtype=torch.bool)
    low[:3] = True
    data = {**data, "low": low, "rate_lr": torch.ones(len(low))}  # the first are low by nature, the others pairs at 1
    with torch.no_grad():
        output = engine.model(data["img_lr"], data["img_hr"])
        expected = (output.restored[3:] - output.original[3:]).abs().mean()
        found = engine.losses(data)["sr"]
        none = engine.losses({**data, "low": low | True})["sr"]
    torch.testing.assert_close(found, expected)
    assert expected > 0 and none == 0
