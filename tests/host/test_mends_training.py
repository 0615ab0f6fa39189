"""What the host builds and steps: each fault on the bare host, and its cure."""

import gc
import io
import sys

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchreid_xres import host
from torchreid_xres.host_mends import bare_host, unwrap

optim, utils = host.torchreid.optim, host.torchreid.utils


@pytest.fixture
def ddp(tmp_path):
    """A process group of one: wraps a model in DistributedDataParallel."""
    store = (tmp_path / "store").as_uri()
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield lambda model: DistributedDataParallel(model, find_unused_parameters=True)
    torch.distributed.destroy_process_group()


@pytest.mark.mend("build-model")
def test_build_model_without_num_classes(monkeypatch):
    asked = []
    monkeypatch.delitem(host.model_factory(), "mends_ours", raising=False)
    host.register_model("mends_ours", lambda **kwargs: asked.append(kwargs))
    build = host.torchreid.models.build_model
    with bare_host(), pytest.raises(TypeError, match="num_classes"):
        host.torchreid.models.build_model("mends_ours")
    build("mends_ours")
    build("mends_ours", 7, "triplet", False, False)
    assert asked == [
        {"num_classes": 0, "loss": "softmax", "pretrained": True, "use_gpu": True},
        {"num_classes": 7, "loss": "triplet", "pretrained": False, "use_gpu": False},
    ]
    del host.model_factory()["mends_ours"]


def test_build_model_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"build_model\('osnet_x0_25'\) needs num_classes"):
        host.torchreid.models.build_model("osnet_x0_25", pretrained=False)
    with pytest.raises(KeyError, match="did you mean 'osnet_x0_25'"):
        host.torchreid.models.build_model("osnet_x025", 5)
    extractor = host.module("utils.feature_extractor")  # binds build_model by name
    assert extractor.build_model is host.torchreid.models.build_model


@pytest.mark.mend("open-layers")
def test_open_layers_under_ddp(net, ddp):
    wrapped = ddp(net)
    with bare_host(), pytest.raises(AssertionError, match="not an attribute"):
        utils.open_specified_layers(wrapped, "classifier")
    for model in (wrapped, torch.compile(net)):
        utils.open_all_layers(model)
        utils.open_specified_layers(model, "classifier")
        assert {n for n, p in net.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
        assert net.classifier.training and not net.trunk.training


def test_ddp_trains_the_open_layers_alone_and_then_all(tiny, net, ddp, tmp_path):
    engine = tiny.engine(ddp(net))
    before = {k: v.clone() for k, v in net.state_dict().items()}

    def changed():
        return {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}

    engine.run(str(tmp_path / "log"), max_epoch=1, fixbase_epoch=1, open_layers="classifier")
    assert changed() == {"classifier.weight", "classifier.bias"}
    engine.run(str(tmp_path / "log"), max_epoch=2, start_epoch=1, fixbase_epoch=1, open_layers="classifier")
    assert changed() == set(before)


def test_ddp_that_would_wait_for_frozen_layers_is_refused(net, ddp):
    with pytest.raises(ValueError, match="find_unused_parameters=True"):
        utils.open_specified_layers(DistributedDataParallel(net), "classifier")


def test_parameters_of_the_model_itself_are_frozen_too(net):
    with bare_host():
        utils.open_specified_layers(net, "classifier")
        assert net.scale.requires_grad
    utils.open_specified_layers(net, ["classifier"])
    assert not net.scale.requires_grad
    utils.open_specified_layers(net, ["scale"])
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["scale"]
    with pytest.raises(ValueError, match=r"open_layers names 'clasifier'.*Net.*did you mean 'classifier'"):
        utils.open_specified_layers(net, "clasifier")


def groups(optimizer, net):
    names = {id(p): name for name, p in net.named_parameters()}
    return [(round(g["lr"], 6), sorted(names[id(p)] for p in g["params"])) for g in optimizer.param_groups]


def staged(model, **kwargs):
    return optim.build_optimizer(model, lr=0.01, staged_lr=True, new_layers="classifier", **kwargs)


TRUNK, NEW = ["scale", "trunk.bias", "trunk.weight"], ["classifier.bias", "classifier.weight"]


@pytest.mark.mend("staged-lr")
def test_staged_learning_rates_under_ddp(net, ddp):
    wrapped = ddp(net)
    with bare_host():
        assert [len(names) for _, names in groups(staged(wrapped), net)] == [4 + 1, 0]
    for model in (wrapped, torch.compile(net), nn.DataParallel(net)):
        assert groups(staged(model), net) == [(0.001, TRUNK), (0.01, NEW)]


@pytest.mark.parametrize("name", ["adam", "amsgrad", "sgd", "rmsprop", "radam"])
def test_parameters_of_the_model_itself_are_in_a_group(net, name):
    with bare_host():
        assert not any("scale" in names for _, names in groups(staged(net, optim=name), net))
    optimizer = staged(net, optim=name)
    assert groups(optimizer, net) == [(0.001, TRUNK), (0.01, NEW)]
    before = net.scale.clone()
    net(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(net.scale, before)


def test_new_layers_are_checked(net):
    with bare_host():
        wrong = optim.build_optimizer(net, staged_lr=True, new_layers=["clasifier"])
        assert len(wrong.param_groups[1]["params"]) == 0
    with pytest.raises(ValueError, match=r"new_layers names 'clasifier'.*did you mean 'classifier'"):
        optim.build_optimizer(net, staged_lr=True, new_layers=["clasifier"])
    assert len(optim.build_optimizer(net, staged_lr=True).param_groups[1]["params"]) == 0  # none named
    assert groups(optim.build_optimizer(net, staged_lr=True, new_layers="scale"), net)[1][1] == ["scale"]
    assert len(optim.build_optimizer(net, "sgd", 0.1).param_groups) == 1
    with pytest.raises(TypeError, match=r"nn\.Module"):
        optim.build_optimizer([], staged_lr=True)


def test_unwrap(net):
    assert unwrap(net) is net
    assert unwrap(nn.DataParallel(torch.compile(nn.DataParallel(net)))) is net


@pytest.mark.mend("triplet-loss")
def test_triplet_loss_on_one_identity():
    loss = host.TripletLoss()
    features = torch.randn(4, 8)
    with bare_host(), pytest.raises(RuntimeError, match="min"):
        loss(features, torch.zeros(4))
    with pytest.raises(ValueError, match="all 4 images of the batch are of one identity"):
        loss(features, torch.zeros(4))
    with pytest.raises(RuntimeError, match="size of tensor"):
        loss(features, torch.tensor([0, 0, 1]))  # another fault keeps its own message


def test_triplet_loss_is_the_hosts_to_the_bit():
    """Values and gradients: random, with equal features (ties among the hardest), and identities of one image."""
    tied = torch.randn(4, 8)[torch.arange(24) // 6]
    for features, targets in (
        (torch.randn(24, 8), torch.arange(24) // 4),
        (torch.randn(24, 8), torch.randint(20, (24,))),
        (torch.randint(2, (24, 3)).float(), torch.arange(24) // 4),
        (tied, torch.arange(24) // 4),
    ):
        for margin in (0.3, 3.0):
            loss = host.TripletLoss(margin)
            found = []
            for _ in range(2):
                inputs = features.clone().requires_grad_()
                if found:
                    value = loss(inputs, targets)
                else:
                    with bare_host():
                        value = loss(inputs, targets)
                value.backward()
                found.append((value, inputs.grad))
            assert torch.equal(found[0][0], found[1][0])
            torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-5)


@pytest.mark.mend("logger-close")
def test_closing_the_log_spares_standard_output(tmp_path, monkeypatch):
    def closed_console():
        console = io.StringIO()
        monkeypatch.setattr(sys, "stdout", console)
        log = utils.Logger(str(tmp_path / "log.txt"))
        log.write("text")
        log.close()
        return log, console

    with bare_host():
        _, console = closed_console()
        assert console.closed
    log, console = closed_console()
    log.write(" and more")
    del log
    gc.collect()
    assert console.getvalue() == "text and more"
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "text"
