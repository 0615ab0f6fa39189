"""Half precision on a processor is believed only where its products are those of single precision."""

import json
import logging
import sys

import pytest
import torch
from forked import python
from tiny_jobs import same
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchreid_xres import checkpoint
from torchreid_xres.devices.memory import perturbed_memory
from torchreid_xres.devices.precision import UNCHECKED
from torchreid_xres.devices.proof import Proof, WrongKernelError, first_fault, proved_precision
from torchreid_xres.engine.base import LAST
from torchreid_xres.files import cache_folder
from torchreid_xres.inference import Extractor
from torchreid_xres.jobs.job import run_job


class WrongKernels(TorchDispatchMode):
    """Imitates a processor whose bf16 convolutions of stride 2 leave rubbish in one number.

    Args:
        products: names of the operators that are wrong.
        rubbish: what a result's first number becomes, from what it is.
    """

    def __init__(self, products=("convolution",), rubbish=lambda value: value + 100):
        super().__init__()
        self.products, self.rubbish, self.hits = products, rubbish, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func._schema.name.removeprefix("aten::") not in self.products:
            return found
        stride = next(a for a in args if isinstance(a, (list, tuple)) and len(a) == 2)
        outputs = found if isinstance(found, tuple) else (found,)
        if args[0].dtype == torch.bfloat16 and 2 in stride:
            self.hits += 1
            spoilt = next(output for output in reversed(outputs) if output is not None and output.ndim == 4)
            spoilt[0, 0, 0, 0] = self.rubbish(spoilt[0, 0, 0, 0])
        return found


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def fast_bf16(monkeypatch):
    """A processor on which ``auto`` is bf16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x):
        return self.second(self.first(x).relu()).mean((2, 3))


def work_of(net, img, backward=False):
    def work():
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(img).float().square().sum()
        if backward:
            loss.backward()
        return loss

    return work


@pytest.mark.parametrize("backward", [False, True])
def test_right_products_are_believed_and_the_result_is_the_works_own(backward):
    net, img = Narrow(), torch.rand(4, 3, 8, 2)
    found, fault = first_fault(net, work_of(net, img, backward), img.shape, "train")
    assert fault == "" and torch.equal(found, work_of(net, img)())


@pytest.mark.parametrize(
    ("products", "rubbish"),
    [
        (("convolution",), lambda value: 1.86 * value + 0.5),
        (("convolution",), lambda value: float("nan")),
        (("convolution",), lambda value: -1.7e38),
        (("convolution_backward",), lambda value: 2 * value + 1),
    ],
)
def test_a_wrong_product_is_found_with_its_layer(products, rubbish):
    net, img = Narrow(), torch.rand(4, 3, 8, 2)
    with WrongKernels(products, rubbish) as wrong:
        _, fault = first_fault(net, work_of(net, img, backward=True), img.shape, "train")
    assert wrong.hits and fault.startswith("Narrow.second: aten::" + products[0]) and "in bf16 is wrong" in fault


def test_what_was_found_is_kept_for_the_networks_shape():
    net, img = Narrow(), torch.rand(4, 3, 8, 2)
    with WrongKernels():
        _, fault = first_fault(net, work_of(net, img), img.shape, "eval")
    (kept,) = (cache_folder() / "half_precision").iterdir()
    assert json.loads(kept.read_text()) == {"fault": fault}
    other = Narrow()  # other weights, the same shape
    assert first_fault(other, work_of(other, img), img.shape, "eval") == (None, fault)
    for net, size, part in ((Narrow(), (4, 3, 8, 4), "eval"), (Narrow(), (4, 3, 8, 2), "train")):
        assert first_fault(net, work_of(net, torch.rand(size)), size, part)[1] == ""
    kept.write_text("[")
    assert first_fault(net, work_of(net, img), img.shape, "eval")[1] == ""


def test_auto_goes_on_in_fp32_bf16_by_name_stops_and_can_insist(fast_bf16, caplog):
    net, img = Narrow(), torch.rand(4, 3, 8, 2)

    def run(wanted):
        proof = Proof("cpu", wanted)

        def work():
            with proof.autocast():
                return net(img)

        with WrongKernels():
            return proof, proof.run(work, net, img.shape, "eval")

    proof, found = run("auto")
    assert proof.precision == "fp32" and found.dtype == torch.float32 and torch.equal(found, net(img))
    assert "Narrow.second" in caplog.text and "fp32 instead" in caplog.text
    with pytest.raises(WrongKernelError, match=r"Narrow\.second.* cannot be trusted .* bf16_unchecked to insist"):
        run("bf16")
    proof, found = run(UNCHECKED)
    assert proof.precision == "bf16" and found.dtype == torch.bfloat16
    with WrongKernels():
        assert proved_precision(net, img.shape, "auto") == "fp32" == proved_precision(net, img.shape, "fp32")
    wider = (4, 3, 8, 8)
    assert proved_precision(net, wider, "auto") == "bf16"


@pytest.mark.parametrize("model", ["sr_reid", "tiny_net"])
def test_a_training_on_wrong_kernels_is_that_in_fp32(model, fast_bf16, tiny_config, tmp_path, caplog):
    keys = {"model__name": model, "train__max_epoch": 1, "train__epoch_batches": 2}
    with caplog.at_level(logging.WARNING), WrongKernels(rubbish=lambda value: float("nan")):
        (record,) = run_job(tiny_config(**keys, train__precision="auto", data__save_dir=str(tmp_path / "auto")))
    assert record["precision"] == "fp32" and caplog.text.count("in fp32 instead") == 1
    run_job(tiny_config(**keys, train__precision="fp32", data__save_dir=str(tmp_path / "fp32")))
    auto, fp32 = (checkpoint.load(tmp_path / name / "split0" / model / LAST) for name in ("auto", "fp32"))
    assert same(auto["models"], fp32["models"]) and same(auto["random"], fp32["random"])


def test_a_proof_changes_nothing_of_a_training(tiny_config, tmp_path):
    states = []
    for wanted in ("bf16", UNCHECKED):
        keys = {"train__max_epoch": 1, "train__epoch_batches": 2, "train__precision": wanted}
        (record,) = run_job(tiny_config(**keys, data__save_dir=str(tmp_path / wanted)))
        assert record["precision"] == "bf16"
        states.append(checkpoint.load(tmp_path / wanted / "split0" / "sr_reid" / LAST))
    assert same(states[0]["models"], states[1]["models"]) and same(states[0]["random"], states[1]["random"])


def test_a_compiled_network_is_proved_as_it_is_written(fast_bf16):
    net, img = Narrow(), torch.rand(4, 3, 8, 2)
    net.compile(backend="eager")
    with WrongKernels():
        assert proved_precision(net, img.shape, "auto") == "fp32"


def test_an_extractor_on_wrong_kernels_answers_as_in_fp32(fast_bf16, tmp_path):
    from torchreid_xres import host

    torch.save(host.build_model("osnet_x0_25", 5, pretrained=False).state_dict(), tmp_path / "osnet.pth")
    pictures = torch.rand(3, 3, 40, 20)
    exact = Extractor.of_host("osnet_x0_25", tmp_path / "osnet.pth", size=(64, 32), precision="fp32")(pictures)
    auto = Extractor.of_host("osnet_x0_25", tmp_path / "osnet.pth", size=(64, 32))
    with WrongKernels():
        found = auto(pictures)
    assert torch.equal(found, exact) and auto.precision == "fp32"


PATTERN = """
import torch
from torchreid_xres.devices.memory import perturbed_memory
with perturbed_memory() as able:
    values = torch.empty(1 << 20, dtype=torch.bfloat16)
print(able, values.abs().min().item() > 1e38)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only of glibc")
def test_memory_nobody_wrote_is_huge_in_the_block(tmp_path):
    found = python("-c", PATTERN, cwd=tmp_path)
    assert found.stdout in ("True True\n", "False False\n")  # another C library cannot


def test_a_pattern_of_the_environments_own_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_PERTURB_", "7")
    with perturbed_memory() as able:
        assert able
