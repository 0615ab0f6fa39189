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
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
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
# Seconds of torch's work that handing a network to a runtime takes about as long as, and loading what is kept of it.
HANDING, LOADING = 10.0, 1.0

# Normalised images (N, 3, H, W) -> descriptors (N, D).
Described = Callable[[Tensor], Tensor]
# A loader's batch -> descriptors (N, D).
Features = Callable[[Mapping[str, Any]], Tensor]


class WrongFeaturesError(ArithmeticError):
    """A runtime's features are not the network's."""


class Runtime(ABC):
    """One that can be installed beside torch."""

    package: str
    extra: str
    precisions: tuple[str, ...] = ("fp32",)

    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None

    def require(self) -> None:
        """Make sure that it is installed.

        Raises:
            ImportError: if it is not; the message says how to get it.
        """
        if not self.is_installed():
            need = f"pip install 'torchreid_xres[{self.extra}]'"
            raise ImportError(f"the backend {self.package} is not installed: {need}")

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

    package, extra, precisions = "openvino", "cpu", ("fp32", "bf16")

    def handed(self, network: nn.Module, image: Tensor, precision: str) -> bytes:
        import openvino

        with torch.no_grad():
            followed = torch.jit.trace(network, image, check_trace=False)
        graph = openvino.convert_model(followed, input=[-1, *image.shape[1:]])
        compiled = openvino.Core().compile_model(graph, "CPU", self._options(precision))
        return compiled.export_model().getvalue()

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

    package, extra = "onnxruntime", "export"

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
FIRST = "openvino"  # which auto looks at: of all sizes and networks measured it was the faster
BACKENDS = ("auto", TORCH, *RUNTIMES)


class Backend:
    """What computes the features of a network: torch, or another runtime where it gives the same and is faster.

    Images whose way depends on their own size (queries of DGRL, all of PRPR) stay with torch.

    Args:
        wanted: one of :data:`BACKENDS`; ``auto`` looks for another runtime once there is work enough for it.
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
        self._routes: dict[str, Described] = {}
        self._seconds: float | None = None  # torch's, of the drawn batch
        on_cpu = next(model.parameters(), torch.empty(0)).device.type == "cpu"
        if wanted in RUNTIMES:
            RUNTIMES[wanted].require()
            if not on_cpu:
                raise ValueError(f"the backend {wanted} computes on the CPU; on a GPU the backend is {TORCH}")
            if not general_ways(model):
                told = f"{about.get('model', type(model).__name__)} looks at each picture's own size"
                raise ValueError(f"{told}, which the backend {wanted} cannot: leave it to {TORCH}")
            self._use(wanted)
        self._open = wanted == "auto" and on_cpu and RUNTIMES[FIRST].is_installed()

    def expect(self, count: int) -> None:
        """Let ``auto`` choose, if the features of so many pictures are work enough for it."""
        if not self._open or count < FEWEST:
            return
        roles = general_ways(self._model)
        if self._seconds is None:
            self._seconds = min(_seconds(self._half, self._drawn(DRAWN)) for _ in range(2)) if roles else 0.0
        kept = all(self._place(FIRST, role).is_file() for role in roles)
        if count * self._seconds / DRAWN < (LOADING if kept else HANDING):
            return
        self._open = False
        try:
            self._use(FIRST, unless_slower=True)
        except (ArithmeticError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            # Whatever its passes raise: torch can do the work.
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            logger.warning("the features are computed by %s, not by %s: %s", TORCH, FIRST, reason)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the features (N, D), float32, of a loader's batch.

        Raises:
            ValueError: if the network gives no feature for an image.
        """
        if not self._routes:
            return self._by_torch(batch)
        if "" in self._routes:
            return self._routes[""](batch["img"])
        return by_role(sent_to(self._model, batch), lambda role, rows: self._of_role(role, _picked(batch, rows)))

    def _of_role(self, role: str, batch: Mapping[str, Any]) -> Tensor:
        return self._routes[role](batch["img"]) if role in self._routes else self._by_torch(batch)

    def _by_torch(self, batch: Mapping[str, Any]) -> Tensor:
        proved = partial(self._proof.run, partial(self._half, batch), self._model, batch["img"].shape, "eval")
        return THREADS.timed(proved, "describe")

    def _half(self, batch: Mapping[str, Any]) -> Tensor:
        with self._proof.autocast():
            return self._features(batch)

    @torch.no_grad()
    def _features(self, batch: Mapping[str, Any]) -> Tensor:
        found = self._model.extract(batch) if hasattr(self._model, "extract") else self._model(batch["img"])
        if not isinstance(found, Tensor) or found.ndim != 2:
            name = self._about.get("model", type(self._model).__name__)
            raise ValueError(f"{name} describes no identities: it gives no feature for a picture")
        return found.float()

    def _use(self, name: str, unless_slower: bool = False) -> None:
        """Take a runtime if its features are torch's."""
        THREADS.choose()  # the runtime stays with their number
        precision = self._proof.precision if self._proof.precision in RUNTIMES[name].precisions else "fp32"
        self._routes = self._loaded(name, precision)
        try:
            cosine = self._compared(name, precision)
            batch = self._drawn(DRAWN)
            theirs, ours = (min(_seconds(work, batch) for _ in range(2)) for work in (self._half, self))
        except Exception:
            self._routes = {}
            raise
        told = f"{name} {version(RUNTIMES[name].package)} in {precision}"
        if unless_slower and ours >= theirs:
            self._routes, self.told = {}, f"{ours / theirs:.1f} times as fast as {told} here"
            return
        self.name, self.told = told, f"{theirs / ours:.1f} times as fast as torch here, cosine {cosine:.6f}"

    def _loaded(self, name: str, precision: str) -> dict[str, Described]:
        runtime, copied, found = RUNTIMES[name], None, {}
        for role in general_ways(self._model):
            place = self._place(name, role)
            kept = _read(place)
            if kept is None:
                copied = copied or exportable(self._model)
                kept = runtime.handed(_Network(copied, general_ways(copied)[role]), self._drawn(2)["img"], precision)
                with suppress(OSError):  # where nothing can be kept, the next run makes it again
                    _write(kept, place)
            found[role] = runtime.loaded(kept, precision)
        return found

    def _compared(self, name: str, precision: str) -> float:
        """Return the least cosine to torch's features in single precision, of batches of two sizes.

        Raises:
            WrongFeaturesError: if a feature is farther from torch's than a cosine at the bound is.
        """
        bound, least = BOUNDS[precision], 1.0
        for count in (DRAWN, 3):
            batch = self._drawn(count)
            wanted = self._features(batch)
            with perturbed_memory():
                got = self(batch)
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
