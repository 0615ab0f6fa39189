"""Another runtime serves only where its features are torch's; what it made of a network is kept and made anew."""

import logging
from functools import partial
from importlib.metadata import version

import PIL.Image
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from untrained_runs import METHODS

from torchreid_xres.devices.proof import Proof
from torchreid_xres.inference import Extractor, backends
from torchreid_xres.inference.backends import Backend, Runtime, WrongFeaturesError

VERSION = version("torch")  # of the double
PICTURES = [PIL.Image.effect_noise((w, h), 60).convert("RGB") for w, h in ((32, 64), (16, 32), (11, 21), (30, 61))]


class Double(Runtime):
    """Computes by the network itself, times a factor, and counts how often one is handed to it."""

    package, extra, handing = "torch", "none", 10.0

    def __init__(self, factor=1.0):
        self.factor, self.networks, self.seen = factor, [], 0

    def handed(self, network, image, precision):
        self.networks.append(network)
        return b"%d" % (len(self.networks) - 1)

    def loaded(self, kept, precision):
        network = self.networks[int(kept)]

        def described(img):
            self.seen += len(img)
            return network(img) * self.factor

        return described


class Means(nn.Module):
    """A small network of the host's kind."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, img):
        return img.mean(dim=(2, 3)) @ self.weight


def seconds_where_runtimes_take(seconds):
    return lambda work, batch: seconds if isinstance(work, partial) else 1.0


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "torchreid_xres" / "compiled"


@pytest.fixture
def double(monkeypatch):
    runtime = Double()
    monkeypatch.setattr(backends, "RUNTIMES", {"openvino": runtime})
    monkeypatch.setattr(backends, "_seconds", seconds_where_runtimes_take(0.1))
    return runtime


def backend_of(wanted, model=None, precision="fp32"):
    return Backend(wanted, model or Means(), (8, 4), Proof("cpu", precision), {"model": "means"})


def batch_of(count):
    low = torch.arange(count) % 2 == 0
    return {"img": torch.randn(count, 3, 8, 4), "low": low, "role": [""] * count}


def test_what_is_asked_for_serves_and_says_how_it_compares(double):
    backend, batch = backend_of("openvino"), batch_of(5)
    assert backend.name == f"openvino {VERSION} in fp32"
    assert backend.told == "10.0 times as fast as torch here, cosine 1.000000"
    seen = double.seen
    torch.testing.assert_close(backend(batch), backend_of("torch")(batch))
    assert double.seen == seen + 5


@pytest.mark.parametrize("factor", [-1.0, 1.02, float("nan")])
def test_other_features_are_refused_and_by_auto_left_to_torch(double, caplog, factor):
    double.factor = factor
    with pytest.raises(WrongFeaturesError, match="openvino gives other features than torch: the least cosine of 8"):
        backend_of("openvino")
    backend = backend_of("auto")
    with caplog.at_level(logging.WARNING):
        backend.expect(1000)
    assert "features are not computed by openvino: openvino gives other features" in caplog.text
    batch = batch_of(4)
    assert backend.name == "torch"
    torch.testing.assert_close(backend(batch), backend_of("torch")(batch))


def test_auto_chooses_only_for_work_enough_and_only_what_is_faster(double, monkeypatch):
    backend = backend_of("auto")
    backend.expect(backends.FEWEST - 1)
    backend.expect(79)  # of 1 s for 8: handing the network over takes as long
    assert backend.name == "torch" and not double.networks
    backend.expect(80)
    assert backend.name.startswith("openvino") and len(double.networks) == 1
    again = backend_of("auto")
    again.expect(backends.FEWEST)  # it is kept
    assert again.name == backend.name and len(double.networks) == 1
    monkeypatch.setattr(backends, "_seconds", seconds_where_runtimes_take(2.0))
    slower = backend_of("auto")
    slower.expect(1000)
    assert slower.name == "torch"
    assert slower.told == f"2.0 times as fast as openvino {VERSION} in fp32 here"


def test_auto_takes_the_fastest_of_those_that_the_work_pays_for(double, monkeypatch):
    other = Double()
    other.handing = 40.0
    monkeypatch.setitem(backends.RUNTIMES, "onnxruntime", other)
    timed = iter([1.0, 1.0, 1.0, 0.5, 1.0, 0.5, 1.0, 0.2, 1.0, 0.2])  # torch alone; torch and each in turn
    monkeypatch.setattr(backends, "_seconds", lambda work, batch: next(timed))
    backend = backend_of("auto")
    backend.expect(320)
    assert backend.name.startswith("onnxruntime") and backend.told.startswith("5.0 times")
    monkeypatch.setattr(backends, "_seconds", seconds_where_runtimes_take(0.1))
    other.networks.clear()
    backend = backend_of("auto", nn.Sequential(Means()))  # which nothing is kept of
    backend.expect(319)
    assert backend.name.startswith("openvino") and not other.networks


def test_what_is_kept_is_of_these_weights_and_made_anew_if_damaged(double, cache):
    backend_of("openvino")
    backend_of("openvino")
    (kept,) = cache.iterdir()
    assert len(double.networks) == 1
    kept.write_bytes(kept.read_bytes()[:-1])
    backend_of("openvino")
    assert len(double.networks) == 2
    other = Means()
    other.weight.data += 1
    backend_of("openvino", other)
    assert len(double.networks) == 3 and len(list(cache.iterdir())) == 2


def test_what_a_runtime_cannot_compute_half_it_computes_in_fp32(double):
    assert backend_of("openvino", precision="bf16_unchecked").name.endswith("in fp32")
    double.precisions = ("fp32", "bf16")
    assert backend_of("openvino", precision="bf16_unchecked").name.endswith("in bf16")


def test_what_cannot_be_is_refused(double, monkeypatch):
    with pytest.raises(ValueError, match=r"no backend 'onnx'; allowed: auto, torch, onnxruntime, openvino"):
        backend_of("onnx")
    double.package = "not_there_at_all"
    with pytest.raises(ImportError, match=r"needs the package not_there_at_all: pip install 'torchreid_xres\[none\]'"):
        backend_of("openvino")
    backend = backend_of("auto")
    backend.expect(10**6)
    assert backend.name == "torch"


def test_networks_that_look_at_a_pictures_own_size_stay_with_torch(run_of, double):
    with pytest.raises(ValueError, match="prpr looks at each picture's own size"):
        Extractor(run_of("prpr"), backend="openvino")
    extractor = Extractor(run_of("prpr"))
    extractor.backend.expect(10**6)
    assert extractor.backend.name == "torch" and not double.networks


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"prpr"}))
def test_pictures_of_every_method_take_their_own_way(run_of, double, name):
    folder = run_of(name)
    plain = Extractor(folder, full_size=(64, 32), backend="torch")
    other = Extractor(folder, full_size=(64, 32), backend="openvino")
    before, found = double.seen, other(PICTURES)
    times = 2 if plain.cfg.test.flip else 1
    # Queries of DGRL are restored from their own size, by torch.
    taken = [p for p in PICTURES if name != "dgrl" or not plain.is_low((p.height, p.width))]
    assert double.seen - before == times * len(taken)
    close = {"rtol": 1e-4, "atol": 1e-4 * found.abs().max().item()}
    torch.testing.assert_close(found, plain(PICTURES), **close)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_the_real_runtimes_agree_at_any_number_of_pictures(name, cache):
    pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "onnxruntime":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model, proof = _small(), Proof("cpu", "fp32")
    backend = Backend(name, model, (32, 16), proof, {})
    plain = Backend("torch", model, (32, 16), proof, {})
    assert backend.name.startswith(name) and len(list(cache.iterdir())) == 1
    for count in (1, 2, 7):
        batch = {"img": torch.randn(count, 3, 32, 16)}
        assert F.cosine_similarity(backend(batch), plain(batch)).min() > 0.9999
    assert Backend(name, model, (32, 16), proof, {}).name == backend.name  # from what is kept


def _small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 16),
    ).eval()  # fmt: skip


def test_half_precision_is_asked_of_openvino_by_its_name():
    options = backends.OpenVINO()._options("bf16")
    assert options["INFERENCE_PRECISION_HINT"] == "bf16"
    assert backends.OpenVINO()._options("fp32")["INFERENCE_PRECISION_HINT"] == "f32"
