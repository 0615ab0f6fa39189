"""The features of queries without torch: by files that lie beside a gallery, in onnxruntime, from Pillow's pixels.

Torch takes seconds to load, and a query that is asked alone needs a network once. So a build keeps the network of its
gallery as ONNX, too (:mod:`torchreid_xres.inference.light_files`), and an adaptation its query encoder. What this way
cannot do, the whole extractor does.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image

from torchreid_xres.data.io import BITS, as_rgb
from torchreid_xres.data.native import low_by_size
from torchreid_xres.files import require_regular

if TYPE_CHECKING:
    from torch import Tensor

LIGHT, LIGHT_ABOUT, LIGHT_IMAGES = "light", "about.json", "images.npy"  # folder in the gallery's, or a query encoder's
FORMAT = 1
# What a query encoder is kept in: its folder in the gallery's, and files there.
FOLDER, WEIGHTS, ABOUT, TRAINING = "query_encoder", "weights.pth.tar", "about.json", "training.pth.tar"
_LEAST = 1e-12  # length that features are divided by, as in torch's normalize

# Normalised images (N, 3, H, W), float32 -> descriptors (N, D).
Way = Callable[[np.ndarray], np.ndarray]


class Prepared(NamedTuple):
    """A picture as the network takes it.

    Attributes:
        pixels: (3, H, W), at the network's size, normalised.
        size: its own height and width.
        native: (h, w, 3), uint8, its own pixels, for a network that asks for them.
    """

    pixels: Tensor | np.ndarray
    size: tuple[int, int]
    native: np.ndarray | None = None


@dataclass(frozen=True)
class LightEncoder:
    """What is known of a query encoder, as of a :class:`~torchreid_xres.inference.query_encoder.QueryEncoder`."""

    folder: Path
    about: dict[str, Any]
    images: np.ndarray

    def share_of_others(self, features: np.ndarray) -> float:
        """Return which share of a gallery's images, by their features (N, D), it did not hold when this was learned."""
        return share_of_others(features, self.images)


class LightExtractor:
    """What an :class:`~torchreid_xres.inference.extractor.Extractor` is to queries, on the CPU, in single precision.

    Args:
        told: what is said of the files.
        ways: what describes normalised images (N, 3, H, W), by the role of these; one of all has an empty role.
        query_encoder: of the gallery; None without one.

    Attributes:
        about, size, full_size, batch_size, query_encoder, drawn_sources: as of an extractor.
        has_front_end: whether it restores queries, which can then not be shown here.
    """

    batch_size = 64

    def __init__(
        self, told: Mapping[str, Any], ways: Mapping[str, Way], query_encoder: LightEncoder | None = None
    ) -> None:
        self.about, self._ways, self.query_encoder = told["about"], ways, query_encoder
        self.size: tuple[int, int] = tuple(self.about["input"])
        self.full_size: tuple[int, int] = tuple(self.about["full_size"] or self.size)
        self.drawn_sources, self.has_front_end = told["drawn_sources"], told["has_front_end"]
        self._threshold = told["threshold"]
        self._resampling = PIL.Image.Resampling[self.about["interpolation"].upper()]
        self._mean, self._std = (
            np.array(self.about[key], np.float32)[:, None, None] for key in ("norm_mean", "norm_std")
        )

    @classmethod
    def of(cls, folder: Path, about: Mapping[str, Any], weights: Path, adapted: bool) -> LightExtractor | None:
        """Return the one whose files lie in a gallery's folder; None if they cannot answer for the whole extractor.

        Args:
            folder: the gallery's.
            about: what it says of its model.
            weights: the file that the whole extractor would be made of.
            adapted: whether a query encoder that is there is to answer, too.
        """
        try:
            told = read_light(folder / LIGHT)
            if told["about"] != about or told["weights"] != checksum_of(weights):
                return None
            ways, encoder = light_ways(folder / LIGHT, told["files"]), None
            learned = folder / FOLDER
            if adapted and any((learned / name).exists() for name in (ABOUT, TRAINING)):
                more = read_light(learned / LIGHT)
                require_regular(learned / ABOUT)
                known = json.loads((learned / ABOUT).read_text(encoding="utf-8"))
                of = [known["weights_sha256"], about["weights_sha256"]]
                if more["query_encoder"] != of or known["gallery_sha256"] != of[1] or not (learned / WEIGHTS).is_file():
                    return None
                encoder = LightEncoder(learned, known, np.load(learned / LIGHT / LIGHT_IMAGES, allow_pickle=False))
                told = told | {"threshold": more["threshold"]}
                ways = {"gallery": ways[""], **light_ways(learned / LIGHT, more["files"])}
            return cls(told, ways, encoder)
        except Exception:  # whatever is wrong with it, the whole extractor answers, or says what is wrong
            return None

    def image(self, picture: str | PathLike | PIL.Image.Image) -> PIL.Image.Image:
        """Return a picture as the network's data sets read it, 8-bit RGB, at its own size."""
        return as_rgb(picture, self.about.get("grey_bits", BITS))

    def prepare(self, picture: str | PathLike | PIL.Image.Image) -> Prepared:
        """Read a picture and bring it to the network's size, as the loader of an evaluation does, to the same bits."""
        img = self.image(picture)
        planes = np.asarray(img.resize(self.size[::-1], self._resampling)).transpose(2, 0, 1)
        return Prepared((planes.astype(np.float32) / np.float32(255) - self._mean) / self._std, (img.height, img.width))

    def is_low(self, size: Sequence[int]) -> bool:
        """Return whether a picture of this height and width is low resolution."""
        return low_by_size(size, self.full_size)

    def by_query_encoder(self, prepared: Sequence[Prepared]) -> np.ndarray:
        """Return which of prepared pictures a query encoder describes, (N,) bool; none where there is none."""
        if self._threshold is None:
            return np.zeros(len(prepared), bool)
        return np.array([self.size[0] / one.size[0] >= self._threshold for one in prepared])

    def describe(self, prepared: Sequence[Prepared]) -> np.ndarray:
        """Return the features (N, D), float32, of prepared pictures, each by the way that its size asks for."""
        if "" in self._ways:
            roles = [""] * len(prepared)
        else:
            low = [self.is_low(one.size) for one in prepared]
            asked = low if self._threshold is None else self.by_query_encoder(prepared)
            roles = ["query" if flag else "gallery" for flag in asked]
        pixels = np.stack([one.pixels for one in prepared])
        parts = {role: [i for i, own in enumerate(roles) if own == role] for role in dict.fromkeys(roles)}
        found = np.concatenate([self._described(role, pixels[rows]) for role, rows in parts.items()])
        return found[np.argsort([i for rows in parts.values() for i in rows])]

    def _described(self, role: str, img: np.ndarray) -> np.ndarray:
        found = self._ways[role](img)
        if self.about["flip"]:
            found = found + self._ways[role](np.ascontiguousarray(img[..., ::-1]))
        if self.about["normalize"]:
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _LEAST)
        return found

    def restored(self, prepared: Prepared) -> None:
        """Return what the network's re-ID part sees of a picture: not known here, or what it is given."""


def session_of(kept: bytes) -> Way:
    """Return what computes a network that is kept as ONNX, with an input ``image``.

    Raises:
        ImportError: if onnxruntime is not installed.
        Exception: its own, if it cannot compute this.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0  # 0: a thread for each core
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(kept, options, providers=["CPUExecutionProvider"])
    return lambda img: session.run(None, {"image": img})[0]


def checksum_of(path: Path) -> int:
    """Return the CRC-32 of a file."""
    require_regular(path)
    return zlib.crc32(path.read_bytes())


def checksums(features: np.ndarray) -> np.ndarray:
    """Return the CRC-32 of each feature (N, D), float32, as (N,), int64.

    Example:
        >>> checksums(np.zeros((1, 2), np.float32)).tolist()
        [1696784233]
    """
    return np.array([zlib.crc32(row.tobytes()) for row in features], np.int64)


def share_of_others(features: np.ndarray, known: np.ndarray) -> float:
    """Return which share of features (N, D) has none of some known :func:`checksums`."""
    return 1 - float(np.isin(checksums(features), known).mean())


def read_light(folder: Path) -> dict[str, Any]:
    """Return what is said of the files in a folder.

    Raises:
        OSError, ValueError, LookupError: if it is not there, damaged, or of another version.
    """
    require_regular(folder / LIGHT_ABOUT)
    told = json.loads((folder / LIGHT_ABOUT).read_text(encoding="utf-8"))
    if told["format"] != FORMAT:
        raise ValueError(f"{folder} has another format")
    return told


def light_ways(folder: Path, files: Mapping[str, Sequence[Any]]) -> dict[str, Way]:
    """Return what describes images of each role.

    Args:
        folder: that the files are in.
        files: from role to name and CRC-32 of the file.

    Raises:
        ValueError: if one is damaged.
        OSError: if one is not there.
        Exception: as of :func:`session_of`.
    """
    found = {}
    for role, (name, checksum) in files.items():
        path = folder / Path(name).name
        if checksum_of(path) != checksum:
            raise ValueError(f"{path} is damaged")
        found[role] = session_of(path.read_bytes())
    return found
