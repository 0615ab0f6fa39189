"""Runtimes that compute a network's features on a processor faster than torch, held beside torch before they serve.

A network's way from a normalised image to its descriptor is handed to the runtime once, and what the runtime makes of
it is kept in the user's cache folder. Each time it is loaded, its features of a drawn batch are compared with torch's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import tempfile
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.devices.memory import perturbed_memory
from torchreid_xres.devices.proof import Proof, processor
from torchreid_xres.devices.threads import THREADS
from torchreid_xres.features.record import weights_hash
from torchreid_xres.files import cache_folder, whole_file
from torchreid_xres.inference.branches import Way, by_role, general_ways, sent_to
from torchreid_xres.inference.export import LEAST_OPSET, exportable, needs_onnx, write_graph
from torchreid_xres.models.layers import Normalization
from torchreid_xres.version import __version__

logger = logging.getLogger(__name__)

TORCH = "torch"
# The least cosine to torch's feature in single precision that a picture may have.
BOUNDS = {"fp32": 0.9999, "bf16": 0.999}
DRAWN = 8  # pictures that are compared and timed
FEWEST = 4 * DRAWN  # for fewer no other runtime is looked for
LOADING = 1.0  # seconds of torch's work that loading takes about as long as

# Normalised images (N, 3, H, W) -> descriptors (N, D).
Described = Callable[[Tensor], Tensor]
# A loader's batch -> descriptors (N, D).
Features = Callable[[Mapping[str, Any]], Tensor]


class WrongFeaturesError(ArithmeticError):
    """A runtime's features are not the network's."""


class Runtime(ABC):
    """One that can be installed beside torch.

    Attributes:
        package: its own.
        others: packages that it needs to take a network over.
        extra: of this package, which installs all.
        precisions: that it can compute in.
        handing: seconds of torch's work that taking a network over takes about as long as.
    """

    package: str
    others: tuple[str, ...] = ()
    extra: str
    precisions: tuple[str, ...] = ("fp32",)
    handing: float

    def is_installed(self) -> bool:
        """Return whether all that it takes can be imported."""
        return not self._lacking()

    def require(self) -> None:
        """Make sure that it is installed.

        Raises:
            ImportError: if it is not; the message says how to get it.
        """
        for package in self._lacking():
            need = f"pip install 'torchreid_xres[{self.extra}]'"
            raise ImportError(f"the backend {self.package} needs the package {package}: {need}")

    def _lacking(self) -> list[str]:
        return [package for package in (self.package, *self.others) if importlib.util.find_spec(package) is None]

    @abstractmethod
    def handed(self, network: nn.Module, image: Tensor, precision: str) -> bytes:
        """Return what is kept of a network.

        Args:
            network: from normalised images (N, 3, H, W) to descriptors (N, D), with its weights in ``model``.
            image: a batch to follow it with.
            precision: what it computes in.
        """

    @abstractmethod
    def loaded(self, kept: bytes, precision: str) -> Described:
        """Return the network from what is kept of it, with as many threads as torch has now."""


class OpenVINO(Runtime):
    """Compiled by OpenVINO; bf16 where the processor has instructions for it."""

    package, extra, precisions, handing = "openvino", "cpu", ("fp32", "bf16"), 10.0

    def handed(self, network: nn.Module, image: Tensor, precision: str) -> bytes:
        import openvino

        graph, _decoder = self.converted(network, image)
        return openvino.Core().compile_model(graph, "CPU", self._options(precision)).export_model().getvalue()

    def converted(self, network: nn.Module, image: Tensor) -> tuple[Any, Any]:
        """Return a network as OpenVINO's graph for any number of such images, and what has to be held beside it."""
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that shapes are followed as they are, and that there is a newer way
            followed = torch.jit.trace(network, image, check_trace=False).eval()
        # Not by openvino.convert_model, which tells its makers over the network that it was used.
        reader = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(followed)  # the reader does not hold it
        graph = reader.convert(reader.load(decoder))
        graph.reshape([-1, *image.shape[1:]])
        return graph, decoder

    def loaded(self, kept: bytes, precision: str) -> Described:
        import openvino

        compiled = openvino.Core().import_model(kept, "CPU", self._options(precision))
        one = threading.Lock()  # a compiled network has one memory for what lies between its layers

        def described(img: Tensor) -> Tensor:
            with one:
                return torch.from_numpy(compiled([img.contiguous().numpy()], share_inputs=True)[0].copy())

        return described

    def _options(self, precision: str) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }


class OnnxRuntime(Runtime):
    """The network as ONNX."""

    package, others, extra, handing = "onnxruntime", ("onnx", "onnxscript"), "export", 40.0

    def handed(self, network: nn.Module, image: Tensor, precision: str) -> bytes:
        needs_onnx()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            write_graph(network, path, image, LEAST_OPSET, axes=("n", "", "", ""))
            return path.read_bytes()

    def loaded(self, kept: bytes, precision: str) -> Described:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(kept, options, providers=["CPUExecutionProvider"])
        return lambda img: torch.from_numpy(session.run(None, {"image": img.contiguous().numpy()})[0])


RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntime(), "openvino": OpenVINO()}
BACKENDS = ("auto", TORCH, *RUNTIMES)


@dataclass(frozen=True)
class _Tried:
    """A runtime that gives torch's features.

    Attributes:
        name: with version and precision.
        routes: from a way of the network to what computes it.
        times: as fast as torch.
        cosine: the least to torch's features.
    """

    name: str
    routes: Mapping[str, Described]
    times: float
    cosine: float


class Backend:
    """What computes the features of a network: torch, or another runtime where it gives the same and is faster.

    Images whose way depends on their own size (queries of DGRL, all of PRPR) stay with torch.

    Args:
        wanted: one of :data:`BACKENDS`; ``auto`` tries those that are installed once there is work enough for it,
            and takes the fastest.
        model: the network, in evaluation mode, on its device.
        size: height and width of its input.
        proof: what the network computes in.
        about: what the features depend on beside the network, as JSON can hold it.

    Attributes:
        name: ``torch``, or the runtime's with its version and precision.
        told: in words, how it compares with torch; empty if it was not compared.

    Raises:
        ImportError: if the runtime that is wanted is not installed.
        ValueError: for another name, a GPU, or a network that only torch can compute.
        WrongFeaturesError: if it gives other features.
    """

    def __init__(
        self, wanted: str, model: nn.Module, size: tuple[int, int], proof: Proof, about: Mapping[str, Any]
    ) -> None:
        if wanted not in BACKENDS:
            raise ValueError(f"there is no backend {wanted!r}; allowed: {', '.join(BACKENDS)}")
        self.name, self.told = TORCH, ""
        self._model, self._size, self._proof, self._about = model, size, proof, about
        self._routes: Mapping[str, Described] = {}
        self._seconds: float | None = None  # torch's, of the drawn batch
        on_cpu = next(model.parameters(), torch.empty(0)).device.type == "cpu"
        if wanted in RUNTIMES:
            RUNTIMES[wanted].require()
            if not on_cpu:
                raise ValueError(f"the backend {wanted} computes on the CPU; on a GPU the backend is {TORCH}")
            if not general_ways(model):
                told = f"{about.get('model', type(model).__name__)} looks at each picture's own size"
                raise ValueError(f"{told}, which the backend {wanted} cannot: leave it to {TORCH}")
            self._take(self._tried(wanted))
        self._open = wanted == "auto" and on_cpu

    def expect(self, count: int) -> None:
        """Let ``auto`` choose, if the features of so many pictures are work enough for it."""
        if not self._open or count < FEWEST:
            return
        installed = [name for name, runtime in RUNTIMES.items() if runtime.is_installed()]
        if not installed or not general_ways(self._model):
            self._open = False
            return
        if self._seconds is None:
            self._seconds = min(_seconds(self._half, self._drawn(DRAWN)) for _ in range(2))
        affordable = [name for name in installed if count * self._seconds / DRAWN >= self._costs(name)]
        self._open = not affordable
        found = []
        for name in affordable:
            try:
                found.append(self._tried(name))
            except (ArithmeticError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
                # Whatever its passes raise: torch can do the work.
                reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
                logger.warning("features are not computed by %s: %s", name, reason)
        fastest = max(found, key=lambda one: one.times, default=None)
        if fastest is not None and fastest.times > 1:
            self._take(fastest)
        elif fastest is not None:
            self.told = f"{1 / fastest.times:.1f} times as fast as {fastest.name} here"

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the features (N, D), float32, of a loader's batch.

        Raises:
            ValueError: if the network gives no feature for an image.
        """
        return self._through(self._routes, batch) if self._routes else self._by_torch(batch)

    def _through(self, routes: Mapping[str, Described], batch: Mapping[str, Any]) -> Tensor:
        if "" in routes:
            return routes[""](batch["img"])

        def described(role: str, rows: list[int]) -> Tensor:
            picked = _picked(batch, rows)
            return routes[role](picked["img"]) if role in routes else self._by_torch(picked)

        return by_role(sent_to(self._model, batch), described)

    def _by_torch(self, batch: Mapping[str, Any]) -> Tensor:
        proved = partial(self._proof.run, partial(self._half, batch), self._model, batch["img"].shape, "eval")
        return THREADS.timed(proved, "describe")

    def _half(self, batch: Mapping[str, Any]) -> Tensor:
        with self._proof.autocast():
            return self._features(batch)

    @torch.no_grad()
    def _features(self, batch: Mapping[str, Any]) -> Tensor:
        found = described_by(self._model, batch)
        if not isinstance(found, Tensor) or found.ndim != 2:
            name = self._about.get("model", type(self._model).__name__)
            raise ValueError(f"{name} describes no identities: it gives no feature for a picture")
        return found.float()

    def _take(self, tried: _Tried) -> None:
        self.name, self._routes = tried.name, tried.routes
        self.told = f"{tried.times:.1f} times as fast as torch here, cosine {tried.cosine:.6f}"

    @torch.no_grad()
    def _tried(self, name: str) -> _Tried:
        THREADS.choose()  # the runtime stays with their number
        precision = self._proof.precision if self._proof.precision in RUNTIMES[name].precisions else "fp32"
        routes = self._loaded(name, precision)
        cosine = self._compared(name, routes, precision)
        sides, batch = (self._half, partial(self._through, routes)), self._drawn(DRAWN)
        turns = [[_seconds(side, batch) for side in sides] for _ in range(2)]
        theirs, ours = map(min, zip(*turns, strict=True))
        return _Tried(f"{name} {version(RUNTIMES[name].package)} in {precision}", routes, theirs / ours, cosine)

    def proved(self, name: str, roles: Iterable[str]) -> dict[str, bytes]:
        """Return what a runtime keeps of some of the network's ways, once its features are found to be torch's.

        Raises:
            WrongFeaturesError: if they are others.
        """
        kept = self._kept(name, "fp32", roles)
        self._compared(name, {role: RUNTIMES[name].loaded(one, "fp32") for role, one in kept.items()}, "fp32")
        return kept

    def _costs(self, name: str) -> float:
        """Return the seconds of torch's work that getting the network into a runtime takes about as long as."""
        kept = all(self._place(name, role).is_file() for role in general_ways(self._model))
        return LOADING if kept else RUNTIMES[name].handing

    def _loaded(self, name: str, precision: str) -> dict[str, Described]:
        found = self._kept(name, precision, general_ways(self._model))
        return {role: RUNTIMES[name].loaded(kept, precision) for role, kept in found.items()}

    def _kept(self, name: str, precision: str, roles: Iterable[str]) -> dict[str, bytes]:
        runtime, copied, found = RUNTIMES[name], None, {}
        for role in roles:
            place = self._place(name, role)
            kept = _read(place)
            if kept is None:
                copied = copied or exportable(self._model)
                kept = runtime.handed(_Network(copied, general_ways(copied)[role]), self._drawn(2)["img"], precision)
                with suppress(OSError):  # where nothing can be kept, the next run makes it again
                    _write(kept, place)
            found[role] = kept
        return found

    def _compared(self, name: str, routes: Mapping[str, Described], precision: str) -> float:
        """Return the least cosine to torch's features in single precision, of batches of two sizes.

        Raises:
            WrongFeaturesError: if a feature is farther from torch's than a cosine at the bound is.
        """
        bound, least = BOUNDS[precision], 1.0
        for count in (DRAWN, 3):
            batch = self._drawn(count)
            wanted = self._features(batch)
            with perturbed_memory():
                got = self._through(routes, batch)
            if got.shape != wanted.shape:
                raise WrongFeaturesError(f"{name} gives features {tuple(got.shape)}, torch {tuple(wanted.shape)}")
            length = wanted.norm(dim=1)
            cosines = F.cosine_similarity(got.double(), wanted.double())[length > 0].tolist()
            # A cosine does not see another length, and of two that are 0 there is none. Written so that NaN fails.
            if not ((got - wanted).norm(dim=1) <= math.sqrt(2 * (1 - bound)) * length).all():
                raise WrongFeaturesError(
                    f"{name} gives other features than torch: the least cosine of {count} pictures is "
                    f"{min(cosines, default=math.nan):.6f}, and {bound:g} at the same length is asked for"
                )
            least = min([least, *cosines])
        return least

    def _drawn(self, count: int) -> dict[str, Any]:
        """Return a batch of drawn pictures, every other one of low resolution, the same each time."""
        generator = torch.Generator().manual_seed(count)
        coarse = torch.rand(count, 3, 9, 5, generator=generator)
        img = F.interpolate(coarse, self._size, mode="bicubic", align_corners=False).clamp(0, 1)
        low = torch.arange(count) % 2 == 0
        rates = torch.where(low, 2.0 + torch.arange(count) % 3, 1.0).double()
        return {
            "img": Normalization()(img),
            "low": low,
            "rate": rates,
            "size": (torch.tensor(self._size) / rates[:, None]).round().long(),
            "role": ["query" if one else "gallery" for one in low.tolist()],
        }

    @cached_property
    def _depends(self) -> dict[str, Any]:
        return {
            "about": self._about,
            "weights": weights_hash(self._model),
            "layers": str(self._model),
            "size": list(self._size),
            "precision": self._proof.precision,
            "processor": processor(),
        }

    def _place(self, name: str, role: str) -> Path:
        versions = [__version__, torch.__version__, name, version(RUNTIMES[name].package)]
        facts = {**self._depends, "role": role, "versions": versions}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "compiled" / key


class _Network(nn.Module):
    """One way of a model as a module that has the model's weights."""

    def __init__(self, model: nn.Module, way: Way) -> None:
        super().__init__()
        self.model = model
        self._way = [way]  # in a list: the model, or parts of it, are in it a second time

    def forward(self, img: Tensor) -> Tensor:
        return self._way[0](img).float()


def described_by(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    """Return what a network says of a batch: one of ours sees role and rate, the host's only images."""
    return model.extract(batch) if hasattr(model, "extract") else model(batch["img"])


def _picked(batch: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    return {
        key: value[torch.tensor(rows)] if isinstance(value, Tensor) else [value[i] for i in rows]
        for key, value in batch.items()
    }


def _seconds(work: Features, batch: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    work(batch)
    return time.perf_counter() - start


def _read(path: Path) -> bytes | None:
    """Return what is kept in a file behind its hash; None if it is not there or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


def _write(kept: bytes, path: Path) -> None:
    with whole_file(path) as scratch:
        scratch.write_bytes(hashlib.sha256(kept).digest() + kept)
