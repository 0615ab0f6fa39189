"""Features of any pictures by a trained network, each by the way that its own size asks for."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, Resize
from torchvision.transforms.functional import to_pil_image
from yacs.config import CfgNode

from torchreid_xres import checkpoint
from torchreid_xres.data.batches import mirrored
from torchreid_xres.data.degrade import check_rate
from torchreid_xres.data.io import BITS
from torchreid_xres.data.manager import ToNormalized
from torchreid_xres.data.native import check_full_size, low_by_size, native_rate
from torchreid_xres.devices.proof import Proof
from torchreid_xres.features.record import weights_hash
from torchreid_xres.inference.backends import Backend, described_by
from torchreid_xres.inference.light import Prepared
from torchreid_xres.inference.network import drawn_sources, find_run, host_config, load_network
from torchreid_xres.inference.pictures import Picture, as_image, several
from torchreid_xres.inference.query_encoder import QueryEncoder
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.restored import restored_view
from torchreid_xres.models.statistics import BATCH, measure_statistics


class Extractor:
    """A trained network that turns pictures into features.

    Which way a picture takes (front end or none, which branch) is decided by its own size. It is low resolution if its
    side, by its area, is at least 1.41 times smaller than that of ``full_size``. For the network it then is what a low
    image is in a data set: where ``full_size`` was given, one that was down-sampled by that factor; else one that is
    low by nature, as captured (rate 1), which the methods judge by its size themselves. ``rates`` and ``role`` of a
    call say it instead, and give the features that the run's own evaluation gives.

    Args:
        weights: folder of a trained run, a checkpoint in one (``model-best.pth.tar``), or with ``config`` any
            checkpoint of ours or of the host. For networks of the host without a configuration: :meth:`of_host`.
        config: a configuration, or its file, that says what network the weights are of.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto``: the GPU if there is one.
        precision: ``fp32``, ``bf16``, ``bf16_unchecked``, ``fp16`` (GPU); ``auto``: the run's own (on the CPU not
            ``fp16``). On a CPU ``bf16`` is proved on the first batch (:class:`~torchreid_xres.devices.proof.Proof`).
        batch_size: pictures that pass the network at once.
        full_size: height and width of a picture of full resolution, for data that is smaller than the network's input
            even so (Market-1501: 128, 64); None for the network's input.
        query_encoder: folder of one that was learned for a gallery of this network
            (:func:`~torchreid_xres.search.adapt.adapt`): it answers pictures that the network enlarges enough.
        backend: what computes on a CPU: ``torch``, ``openvino`` (extra ``cpu``) or ``onnxruntime`` (extra ``export``),
            each held beside torch first; ``auto``: OpenVINO where it is installed, is faster, and there is much to do.

    Attributes:
        cfg: the configuration of the network.
        weights: the checkpoint's path.
        about: what the features depend on, as JSON can hold it: model, hash of the weights, size of the input and more.
        query_encoder: what is known of the query encoder; None without one.
        backend: what computes the features now (:class:`~torchreid_xres.inference.backends.Backend`).

    Raises:
        FileNotFoundError: if nothing was trained there, or nobody says of what network the checkpoint is.
        ValueError: if the checkpoint is of another network, the query encoder follows another, or device, precision or
            sizes cannot be, or the backend cannot compute this network.
        ImportError: if the backend is not installed.
        WrongFeaturesError: if it gives other features than torch.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torchreid_xres import host
        >>> osnet = host.build_model("osnet_x0_25", num_classes=5, pretrained=False)
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(osnet.state_dict(), f"{folder}/osnet.pth")
        ...     extractor = Extractor.of_host("osnet_x0_25", f"{folder}/osnet.pth", size=(64, 32))
        >>> extractor([PIL.Image.new("RGB", (20, 50)), torch.zeros(3, 128, 64)]).shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        config: str | Path | CfgNode | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 64,
        full_size: Sequence[int] | None = None,
        query_encoder: str | Path | None = None,
        backend: str = "auto",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; at least 1 picture passes the network at once")
        self._full_size = None if full_size is None else check_full_size(full_size)
        self.batch_size = batch_size
        self._how = {"device": device, "precision": precision, "batch_size": batch_size, "full_size": full_size,
                     "backend": backend}  # fmt: skip
        self.device = _device(device)
        run, self.weights = find_run(weights, config)
        self.cfg = run.cfg
        self.cfg.model.name = run.model_name  # the run may be of another model that its configuration compares
        self._proof = self._proof_of(precision)
        model, options = load_network(run, self.weights)
        data, test = self.cfg.data, self.cfg.test
        self.size = (data.height, data.width)
        self._resize = Resize(self.size, InterpolationMode(data.interpolation))
        self._normalised = ToNormalized(data.norm_mean, data.norm_std)
        facts = {
            "model": run.label,
            "weights_sha256": weights_hash(model),
            "input": list(self.size),
            "full_size": self._full_size,
            "metric": test.dist_metric,
            "interpolation": data.interpolation,
            "norm_mean": data.norm_mean,
            "norm_std": data.norm_std,
            "flip": test.flip,
            "normalize": test.normalize_feature,
            "options": options,
        }
        if data.grey_bits != BITS:
            facts["grey_bits"] = data.grey_bits
        self.about: dict[str, Any] = json.loads(json.dumps(facts))  # tuples are lists there
        self.query_encoder = None if query_encoder is None else QueryEncoder.read(query_encoder)
        if self.query_encoder is not None:
            model = self.query_encoder.beside(model, self.size)
        layout = torch.channels_last if self.cfg.train.channels_last else torch.preserve_format
        self.model = model.to(self.device, memory_format=layout)
        self._takes_native = any(getattr(part, "takes_native", False) for part in self.model.modules())
        self._undo = Normalization(data.norm_mean, data.norm_std).to(self.device)
        self.backend = Backend(backend, self.model, self.size, self._proof, self.about)

    @classmethod
    def of_host(cls, name: str, weights: str | Path, size: tuple[int, int] = (256, 128), **kwargs: Any) -> Extractor:
        """Return the extractor of a checkpoint of the host's zoo.

        Args:
            name: the network's, such as ``osnet_x1_0``.
            weights: a checkpoint of the host, or a bare state dictionary.
            size: height and width of the network's input.
            **kwargs: ``device``, ``precision``, ``batch_size``, ``full_size``, ``query_encoder``, ``backend``.
        """
        return cls(weights, config=host_config(name, size), **kwargs)

    def with_weights(self, weights: str | Path) -> Extractor:
        """Return an extractor that is like this one, of another checkpoint of the same network."""
        return Extractor(weights, config=self.cfg, **self._how)

    def with_own_statistics(self, pictures: Iterable[Picture | Prepared], weights: str | Path) -> Extractor:
        """Return one whose batch normalisations go by one's own pictures (AdaBN, see ``models/statistics.py``).

        Where the network has learned from other cameras than yours it finds more so, without a label; its features can
        be compared with each other alone, not with those of the network as it was.

        Args:
            pictures: like those to be compared, in no order, at best 200 or more; see a call. Or prepared ones.
            weights: file to keep the network in; where it is, the same :class:`Extractor` is had again by it.

        Raises:
            ValueError: if the network has no batch normalisation, there is a query encoder, or no picture.

        Example:
            Measured once, on some of the pictures that are to be searched::

                extractor = Extractor("log/sr_reid/split0/sr_reid")
                own = extractor.with_own_statistics(paths[:500], "log/own.pth.tar")
        """
        if self.query_encoder is not None:
            raise ValueError("a query encoder follows the network as it is: measure before it learns")
        model, wanted = copy.deepcopy(self.model), several(pictures)
        parts = [wanted[i : i + BATCH] for i in range(0, len(wanted), BATCH)]
        whole = [part for part in parts if len(part) == BATCH] or parts
        prepared = ([one if isinstance(one, Prepared) else self.prepare(one) for one in part] for part in whole)
        batches = (self._batch(part, None, "") for part in prepared)
        measure_statistics(model, partial(described_by, model), batches)
        checkpoint.save_atomic({"models": {"model": model.cpu().state_dict()}}, weights)
        return self.with_weights(weights)

    def _proof_of(self, wanted: str) -> Proof:
        cpu = self.device.type == "cpu"
        if wanted == "fp16" and cpu:
            raise ValueError("precision fp16 needs a GPU; on the CPU use bf16 or fp32")
        own = self.cfg.train.precision if wanted == "auto" else wanted
        return Proof(self.device, "fp32" if cpu and own == "fp16" else own)

    @property
    def precision(self) -> str:
        """What the network computes in: ``fp32``, ``bf16`` or ``fp16``."""
        return self._proof.precision

    @property
    def drawn_sources(self) -> list[str]:
        """The sets that the network has learned from, if they are drawn ones alone; else nothing."""
        return drawn_sources(self.cfg)

    @property
    def full_size(self) -> tuple[int, int]:
        """Height and width of a picture that lacks nothing."""
        return self._full_size or self.size

    def is_low(self, size: Sequence[int]) -> bool:
        """Return whether a picture of this height and width is low resolution."""
        return low_by_size(size, self.full_size)

    def by_query_encoder(self, prepared: Sequence[Prepared], role: str = "") -> Tensor:
        """Return which of prepared pictures a query encoder describes, (N,) bool; none where there is none."""
        if isinstance(self.model, Asymmetric):
            return self.model.for_query(self._batch(prepared, None, role))
        return torch.zeros(len(prepared), dtype=torch.bool)

    def __call__(
        self, pictures: Picture | Iterable[Picture], *, rates: float | Sequence[float] | None = None, role: str = ""
    ) -> Tensor:
        """Return the features of one picture or many, of any sizes, in their order.

        Args:
            pictures: paths, PIL images, arrays (H, W, 3) uint8 RGB, tensors (3, H, W) uint8 or float in [0, 1], mixed
                as you like, or a stack of arrays or tensors; see :func:`~torchreid_xres.inference.pictures.as_image`.
            rates: of all pictures, or of each: what it was down-sampled by, 1 for not at all; None: by its size.
            role: ``query`` or ``gallery``, for networks that treat them differently (KGNet's ``route: role``); empty:
                the picture's resolution decides.

        Returns:
            (N, D), float32, on the CPU, without a graph.

        Raises:
            OSError: for a file that cannot be read; the message names it.
            TypeError, ValueError: for anything that is no picture, or rates that do not fit.
        """
        wanted = several(pictures)
        if not wanted:
            raise ValueError("there are no pictures")
        if rates is not None:
            rates = [rates] * len(wanted) if isinstance(rates, (int, float)) else list(rates)
            if len(rates) != len(wanted):
                raise ValueError(f"there are {len(rates)} rates for {len(wanted)} pictures")
        self.backend.expect(len(wanted))
        parts = []
        for start in range(0, len(wanted), self.batch_size):
            rows = slice(start, start + self.batch_size)
            prepared = [self.prepare(picture) for picture in wanted[rows]]
            parts.append(self.describe(prepared, None if rates is None else rates[rows], role))
        return torch.cat(parts)

    def prepare(self, picture: Picture) -> Prepared:
        """Read a picture and bring it to the network's size, as the loader of an evaluation does."""
        img = self.image(picture)
        native = np.asarray(img) if self._takes_native else None
        return Prepared(self._normalised(self._resize(img)), (img.height, img.width), native)

    def image(self, picture: Picture) -> PIL.Image.Image:
        """Return a picture as the network's data sets read it, 8-bit RGB, at its own size."""
        return as_image(picture, self.cfg.data.grey_bits)

    @torch.no_grad()
    def describe(
        self, prepared: Sequence[Prepared], rates: Sequence[float] | None = None, role: str = ""
    ) -> Tensor:
        """Return the features (N, D) of prepared pictures, all in one batch; the rest is as in a call."""
        batch = self._batch(prepared, rates, role)
        found = self.backend(batch)
        if self.cfg.test.flip:
            found = found + self.backend(mirrored(batch))
        return F.normalize(found, dim=1).cpu() if self.cfg.test.normalize_feature else found.cpu()

    def restored(self, prepared: Prepared) -> PIL.Image.Image | None:
        """Return what the network's re-ID part sees of a low-resolution picture; None without a front end."""
        with self._proof.autocast():
            seen = restored_view(self.model, self._batch([prepared], None, ""), self._undo)
        return None if seen is None else to_pil_image(seen[0].cpu())

    def _batch(self, prepared: Sequence[Prepared], rates: Sequence[float] | None, role: str) -> dict[str, Any]:
        sizes = [one.size for one in prepared]
        if rates is None:
            low = [self.is_low(size) for size in sizes]
            # Without a full size nothing is known of a rate: the picture is as captured.
            known = self._full_size is not None
            rates = [
                native_rate(size, self.full_size) if known and small else 1.0
                for size, small in zip(sizes, low, strict=True)
            ]
        else:
            rates = [check_rate(rate) for rate in rates]
            low = [rate != 1 for rate in rates]
        known = all(one.native is not None for one in prepared)
        native = {"native": [one.native for one in prepared]} if known else {}
        return native | {
            "img": torch.stack([one.pixels for one in prepared]).to(self.device),
            "rate": torch.tensor(rates, dtype=torch.float64),
            "low": torch.tensor(low),
            "size": torch.tensor(sizes),
            "role": [role] * len(prepared),
        }


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
