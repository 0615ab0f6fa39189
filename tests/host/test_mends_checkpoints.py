"""Checkpoints of the host: each fault on the bare host, and its cure."""

import contextlib
import io
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import nn

from torchreid_xres import host
from torchreid_xres.host_mends import bare_host, unwrap
from torchreid_xres.host_mends.checkpoints import require_training_state

utils = host.torchreid.utils
REFUSES_NUMPY = Version(torch.__version__) >= Version("2.6")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def host_checkpoint(model, path, **more):
    """Save what the host's own save_model saves: rank1 is the NumPy scalar its evaluator returns."""
    torch.save({"state_dict": model.state_dict(), "epoch": 3, "rank1": np.float32(0.5), **more}, path)
    return str(path)


@pytest.mark.mend("load-checkpoint")
@pytest.mark.skipif(not REFUSES_NUMPY, reason="torch < 2.6 unpickles everything by default")
def test_bare_host_cannot_read_its_own_checkpoint(net, tmp_path):
    path = host_checkpoint(net, tmp_path / "old")
    with bare_host(), pytest.raises(pickle.UnpicklingError):
        utils.resume_from_checkpoint(path, net)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_])
def test_old_checkpoint_is_read(net, tmp_path, kind):
    path = host_checkpoint(net, tmp_path / "old", rank1=kind(1))
    fresh = type(net)()
    assert utils.resume_from_checkpoint(path, fresh) == 3
    assert same(fresh.state_dict(), net.state_dict())
    assert utils.load_checkpoint(path)["rank1"] == 1


@pytest.mark.parametrize("name", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_scalars_of_numpy_1_and_2_are_read(tmp_path, name):
    file = io.BytesIO()
    torch.save({"rank1": np.float64(0.25)}, file, _use_new_zipfile_serialization=False)
    path = tmp_path / "old"
    path.write_bytes(file.getvalue().replace(b"numpy._core.multiarray", name).replace(b"numpy.core.multiarray", name))
    assert utils.load_checkpoint(path) == {"rank1": 0.25}


def test_text_of_python_2_is_read(tmp_path):
    file = io.BytesIO()
    torch.save({"note": "é"}, file, _use_new_zipfile_serialization=False)
    path = tmp_path / "old"
    # Python 2 wrote a byte string (opcode U) where Python 3 writes UTF-8 (opcode X).
    path.write_bytes(file.getvalue().replace(b"X\x02\x00\x00\x00\xc3\xa9", b"U\x01\xe9"))
    assert utils.load_checkpoint(path) == {"note": "é"}


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": Touch(tmp_path / "touched")}, tmp_path / "evil")
    allowed = set(torch.serialization.get_safe_globals())
    with pytest.raises(ValueError, match=r"evil is no checkpoint, or holds more than tensors"):
        utils.load_checkpoint(tmp_path / "evil")
    assert not (tmp_path / "touched").exists()
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_object_scalars_are_refused(tmp_path):
    class Scalar:
        def __reduce__(self):
            return np.float64(1).__reduce__()[0], (np.dtype("O"), b"12345678")

    torch.save({"rank1": Scalar()}, tmp_path / "evil")
    with pytest.raises(ValueError, match="holds more than tensors"):
        utils.load_checkpoint(tmp_path / "evil")


def test_unreadable_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*gone"):
        utils.load_checkpoint(tmp_path / "gone")
    with pytest.raises(ValueError, match="None"):
        utils.load_checkpoint(None)
    torch.save({"a": torch.zeros(100)}, tmp_path / "half")
    (tmp_path / "half").write_bytes((tmp_path / "half").read_bytes()[:-50])
    with pytest.raises(ValueError, match="half cannot be read"):
        utils.load_checkpoint(tmp_path / "half")
    (tmp_path / "text").write_text("not a checkpoint", encoding="utf-8")
    with pytest.raises(ValueError, match="text is no checkpoint"):
        utils.load_checkpoint(tmp_path / "text")


@pytest.mark.mend("resume")
def test_resume_between_wrapped_and_bare_models(net, tmp_path):
    wrapped = nn.DataParallel(net)
    path = str(tmp_path / "wrapped")
    torch.save({"state_dict": wrapped.state_dict(), "epoch": 3}, path)
    fresh = type(net)()
    with bare_host(), pytest.raises(RuntimeError, match="Missing key"):
        utils.resume_from_checkpoint(path, fresh)
    for target in (fresh, nn.DataParallel(type(net)())):
        assert utils.resume_from_checkpoint(path, target) == 3
        assert same(unwrap(target).state_dict(), net.state_dict())


def test_resume_copes_with_a_scheduler_stored_as_none(net, tmp_path, caplog):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    path = str(tmp_path / "none")
    state = {"state_dict": net.state_dict(), "epoch": 3, "optimizer": optimizer.state_dict(), "scheduler": None}
    torch.save(state, path)
    with bare_host(), pytest.raises((TypeError, AttributeError)):
        utils.resume_from_checkpoint(path, net, optimizer, scheduler)
    other = torch.optim.SGD(net.parameters(), lr=0.1)
    assert utils.resume_from_checkpoint(path, net, other, scheduler) == 3
    assert other.param_groups[0]["lr"] == 0.5
    assert "holds no scheduler" in caplog.text


@pytest.mark.mend("pretrained-weights")
def test_compiled_names_fit(net, tmp_path):
    path = str(tmp_path / "compiled")
    torch.save({f"_orig_mod.{k}": v for k, v in net.state_dict().items()}, path)
    fresh = type(net)()
    with bare_host(), pytest.warns(UserWarning, match="cannot be loaded"):
        utils.load_pretrained_weights(fresh, path)
    assert not same(fresh.state_dict(), net.state_dict())
    for target in (fresh, nn.DataParallel(type(net)())):
        utils.load_pretrained_weights(target, path)
        assert same(unwrap(target).state_dict(), net.state_dict())


def test_weights_that_do_not_fit_are_left_out_and_named(net, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = host_checkpoint(net, tmp_path / "old")
    wider = type(net)(ids=9)
    before = wider.classifier.weight.clone()
    utils.load_pretrained_weights(wider, path)
    assert torch.equal(wider.trunk.weight, net.trunk.weight) and torch.equal(wider.classifier.weight, before)
    assert "left out: ['classifier.bias', 'classifier.weight']" in caplog.text
    with pytest.warns(UserWarning, match="nothing in .*old fits"):
        utils.load_pretrained_weights(nn.Conv2d(1, 1, 1), path)


@pytest.mark.mend("save-checkpoint")
def test_a_kill_while_writing_leaves_the_last_good_file(net, tmp_path, monkeypatch):
    state = {"state_dict": net.state_dict(), "epoch": 1, "rank1": np.float32(0.5)}

    def killed(state, target):
        with open(target, "wb") if isinstance(target, (str, Path)) else target as file:
            file.write(b"half")
            raise KeyboardInterrupt

    for cured in (False, True):
        folder = tmp_path / str(cured)
        utils.save_checkpoint(dict(state), str(folder), is_best=True)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(torch, "save", killed)
            if cured:
                utils.save_checkpoint(state, str(folder), is_best=True)
            else:
                with bare_host():
                    utils.save_checkpoint(state, str(folder), is_best=True)
        assert ((folder / "model.pth.tar-1").read_bytes() != b"half") is cured
        assert sorted(p.name for p in folder.iterdir()) == ["model-best.pth.tar", "model.pth.tar-1"]


def test_saved_checkpoint_holds_no_numpy_and_leaves_the_callers_state(net, tmp_path):
    state = {"state_dict": nn.DataParallel(net).state_dict(), "epoch": 2, "rank1": np.float32(0.5)}
    given = dict(state)
    utils.save_checkpoint(state, tmp_path, remove_module_from_keys=True)
    assert state == given
    read = torch.load(tmp_path / "model.pth.tar-2", weights_only=True)
    assert type(read["rank1"]) is float and same(read["state_dict"], net.state_dict())
    assert not (tmp_path / "model-best.pth.tar").exists()


@pytest.mark.mend("save-model")
def test_training_without_a_scheduler(tiny, tmp_path):
    with bare_host(), pytest.raises(AttributeError, match="state_dict"):
        tiny.engine().run(save_dir=str(tmp_path / "bare"), max_epoch=1, ranks=[1])
    engine = tiny.engine()
    engine.run(save_dir=str(tmp_path / "mended"), max_epoch=1)
    read = torch.load(tmp_path / "mended" / "model" / "model.pth.tar-1", weights_only=True)
    assert set(read) == {"state_dict", "epoch", "rank1", "optimizer"} and type(read["rank1"]) is float


def best(folder):
    read = torch.load(Path(folder, "model", "model-best.pth.tar"), weights_only=True)
    return read["epoch"], read["rank1"]


def test_the_best_checkpoint_is_kept(tiny, tmp_path, monkeypatch):
    def run(folder, rank1s, start_epoch=0):
        engine = tiny.engine(scheduler=None)
        engine.scheduler = engine._scheds["model"] = torch.optim.lr_scheduler.StepLR(engine.optimizer, 5)
        given = iter(rank1s)
        monkeypatch.setattr(engine, "test", lambda **kwargs: next(given))
        engine.run(str(folder), max_epoch=start_epoch + len(rank1s), start_epoch=start_epoch, eval_freq=1)

    with bare_host():
        run(tmp_path / "bare", [np.float32(0.2), np.float32(0.6)])
    assert not (tmp_path / "bare" / "model" / "model-best.pth.tar").exists()

    folder = tmp_path / "mended"
    run(folder, [np.float32(0.25), np.float32(0.75), np.float32(0.5)])
    assert best(folder) == (2, 0.75)
    run(folder, [0.6, 0.75], start_epoch=3)  # resumed by a new engine: neither is better
    assert best(folder) == (2, 0.75)
    run(folder, [0.8], start_epoch=5)
    assert best(folder) == (6, 0.8)
    run(folder, [0.1])  # started over: the old run's best no longer counts
    assert best(folder) == (1, 0.1)
    (folder / "model" / "model-best.pth.tar").write_bytes(b"spoilt")
    run(folder, [0.05], start_epoch=1)
    assert best(folder) == (2, 0.05)


def test_wrapped_models_are_saved_under_bare_names(tiny, net, tmp_path):
    engine = tiny.engine(nn.DataParallel(net))
    with bare_host():
        assert all(k.startswith("module.") for k in engine.model.state_dict())
    engine.save_model(0, 0.5, str(tmp_path))
    read = torch.load(tmp_path / "model" / "model.pth.tar-1", weights_only=True)
    assert same(read["state_dict"], net.state_dict())


@pytest.mark.mend("run")
def test_resuming_a_finished_run_spares_epoch_1(tiny, tmp_path, caplog):
    def finished(folder):
        engine = tiny.engine()
        engine.scheduler = engine._scheds["model"] = torch.optim.lr_scheduler.StepLR(engine.optimizer, 5)
        first = folder / "model" / "model.pth.tar-1"
        first.parent.mkdir(parents=True)
        first.write_bytes(b"epoch 1")
        tested = []
        engine.test = lambda **kwargs: tested.append(kwargs.get("rerank")) or 0.5
        engine.run(str(folder), max_epoch=2, start_epoch=2, rerank=True)
        return first.read_bytes(), tested

    with bare_host():
        content, _ = finished(tmp_path / "bare")
        assert content != b"epoch 1"
    content, tested = finished(tmp_path / "mended")
    assert content == b"epoch 1" and tested == [False]
    assert "all 2 epochs are done" in caplog.text and "rerank has no effect while training" in caplog.text


def test_run_still_refuses_visrank_in_training(tiny):
    with pytest.raises(ValueError, match="visrank"):
        tiny.engine().run(max_epoch=1, start_epoch=1, visrank=True)


class _Touches:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.mend("zoo-weights")
def test_weights_that_the_zoo_fetched_run_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    mark, path = tmp_path / "code ran", tmp_path / "hub" / "checkpoints" / "resnet50-19c8e357.pth"
    path.parent.mkdir(parents=True)
    torch.save({"conv1.weight": _Touches(mark)}, path)

    def build():
        host.torchreid.models.build_model("resnet50", 3, pretrained=True, use_gpu=False)

    with bare_host(), contextlib.suppress(Exception):
        build()
    assert mark.exists()
    mark.unlink()
    with pytest.raises(ValueError, match=r"resnet50-19c8e357\.pth is no checkpoint"):
        build()
    assert not mark.exists()


def training(net, optim="adam", schedule=None, **options):
    optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}[optim](
        net.parameters(), **{"lr": 0.1, **options}
    )
    schedule = schedule or (lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 5))
    return optimizer, schedule(optimizer)


def chained(epochs):
    def make(optimizer):
        parts = [torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])]
        parts.append(torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=epochs))
        return torch.optim.lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)

    return make


@pytest.mark.parametrize(
    "theirs, ours, told",
    [
        ({}, {}, []),
        ({"lr": 0.5}, {}, ["train.lr 0.5 (here 0.1)"]),
        ({"weight_decay": 1.0}, {}, ["train.weight_decay 1.0 (here 0)"]),
        ({"betas": (0.5, 0.9)}, {}, ["adam.beta1 and adam.beta2 (0.5, 0.9) (here (0.9, 0.999))"]),
        ({"amsgrad": True}, {}, ["train.optim amsgrad True (here False)"]),
        ({"optim": "sgd", "momentum": 0.9}, {"optim": "sgd"}, ["sgd.momentum 0.9 (here 0)"]),
        ({"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 7)}, {}, ["train.stepsize 7 (here 5)"]),
        (
            {"schedule": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60.0)},
            {"schedule": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 90.0)},
            ["train.max_epoch 60.0 (here 90.0)"],
        ),
        ({"schedule": chained(4)}, {"schedule": chained(4)}, []),
        ({"schedule": chained(4)}, {"schedule": chained(2)}, ["train.warmup_epochs 4 (here 2)"]),
    ],
)
def test_what_another_training_had_set_is_told(net, tmp_path, theirs, ours, told, caplog):
    optimizer, scheduler = training(net, **theirs)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    path = host_checkpoint(net, tmp_path / "old", optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())
    own = training(net, **ours)
    assert require_training_state(path, utils.load_checkpoint(path), net, *own) == told
    assert utils.resume_from_checkpoint(path, net, *own) == 3
    assert all(line in caplog.text for line in told) and bool(told) == bool(caplog.text)


@pytest.mark.parametrize("theirs, ours", [("adam", "sgd"), ("sgd", "adam"), ("rmsprop", "sgd")])
def test_another_optimisers_state_is_refused(net, tmp_path, theirs, ours):
    optimizer, _ = training(net, theirs)
    path = host_checkpoint(net, tmp_path / "old", optimizer=optimizer.state_dict())
    with pytest.raises(ValueError, match=r"old is of another optimiser \(train\.optim\): its settings are"):
        utils.resume_from_checkpoint(path, net, training(net, ours)[0])


@pytest.mark.parametrize("state", [{}, {"weight": torch.ones(1)}, {"state_dict": {}}, {"models": {}, "epoch": 1}])
def test_what_holds_no_training_is_named(net, tmp_path, state):
    torch.save(state, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"weights holds no state of a training: it has no (state_dict|epoch)"):
        utils.resume_from_checkpoint(tmp_path / "weights", net)


def test_weights_of_another_network_are_refused_in_a_line(net, tmp_path):
    path = host_checkpoint(type(net)(ids=9), tmp_path / "old")
    with pytest.raises(ValueError, match=r"old does not fit [^\n]*classifier\.weight \(9, \d+\) for[^\n]*$"):
        utils.resume_from_checkpoint(path, net)
