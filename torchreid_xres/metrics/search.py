"""k-nearest search in large galleries through FAISS (``pip install torchreid_xres[search]``): exact, or by lists.

An exact index compares a query with every image. An inverted file ("IVF") sorts the gallery into lists around learned
centres and looks only into those nearest to the query: faster by the share of lists it looks into, and not always
right. Both hold all features as float32.

A gallery that does not fit one machine is cut into shards, one index each; every machine answers the same queries, and
:func:`merge_shards` makes one answer of theirs, the same as of one index.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchreid_xres.files import whole_file
from torchreid_xres.metrics.distance import METRICS

_FORMAT = 1
_CHUNK = 1 << 15  # images converted at once
_BLOCK = 1 << 20  # bytes read at once
_KMEANS_ROUNDS = 10
_PER_LIST = 64  # images that a list's centre is learned from


class GalleryIndex:
    """An index of gallery features, in the order in which they are added.

    Args:
        dimension: D of the features.
        metric: ``"cosine"`` or ``"euclidean"`` (squared), see :func:`torchreid_xres.metrics.distance_matrix`.
        lists: 0 for exact search; else the lists of an inverted file, commonly 1 to 4 times the root of the gallery's
            size. It is to be trained before images are added.
        seed: of the training.

    Raises:
        ValueError: for an unknown metric, or numbers out of range.
        ImportError: without FAISS.

    Example:
        >>> index = GalleryIndex(2, "euclidean")
        >>> index.add(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
        >>> distances, places = index.search(torch.tensor([[0.0, 0.1]]), k=2)
        >>> places.tolist(), distances.round(2).tolist()
        ([[0, 2]], [[0.009999999776482582, 0.8100000023841858]])
    """

    def __init__(self, dimension: int, metric: str = "cosine", lists: int = 0, seed: int = 0) -> None:
        if metric not in METRICS:
            raise ValueError(f"unknown distance metric {metric!r}; there are: {', '.join(METRICS)}")
        if dimension < 1 or lists < 0:
            raise ValueError(f"dimension is {dimension}, lists is {lists}; an index needs 1 or more, and 0 or more")
        faiss = _faiss()
        self.dimension, self.metric, self.lists = dimension, metric, lists
        # Squared Euclidean for both: between unit vectors it is twice the cosine distance.
        self._index = faiss.IndexFlatL2(dimension)
        if lists:
            self._index = faiss.IndexIVFFlat(self._index, dimension, lists)
            self._index.cp.niter = _KMEANS_ROUNDS
            self._index.cp.max_points_per_centroid = _PER_LIST
            self._index.cp.min_points_per_centroid = 1
            self._index.cp.seed = seed
        self._cameras: list[np.ndarray] = []

    def __len__(self) -> int:
        return self._index.ntotal

    def train(self, features: Tensor | np.ndarray) -> None:
        """Learn the lists' centres by k-means; an exact index has none.

        Args:
            features: (N, D), a sample of the gallery: N at least the number of lists, of which 64 for each are used.

        Raises:
            ValueError: for features that do not fit, or too few.
        """
        if not self.lists:
            return
        if len(features) < self.lists:
            raise ValueError(f"{self.lists} lists cannot be learned from {len(features)} images")
        self._index.train(np.concatenate(list(self._chunks(features))))

    def add(self, features: Tensor | np.ndarray, cameras: Sequence[int] | np.ndarray | None = None) -> None:
        """Append gallery images.

        Args:
            features: (N, D); a large gallery may come in several calls.
            cameras: (N,) of the images, for :meth:`search` to leave out a query's own; for all images or for none.

        Raises:
            ValueError: for features that do not fit or are not finite, cameras for some images only, or an index that
                is not trained.
        """
        if not self._index.is_trained:
            raise ValueError(f"the {self.lists} lists are not learned yet; call train first")
        if cameras is not None and len(cameras) != len(features):
            raise ValueError(f"there are {len(cameras)} cameras for {len(features)} images")
        if len(self) and (cameras is None) != (not self._cameras):
            raise ValueError("cameras must be given for all images of an index or for none")
        start = len(self)
        try:
            for chunk in self._chunks(features):
                self._index.add(chunk)
        except ValueError:
            # All or nothing: the images before the broken one go again.
            self._index.remove_ids(np.arange(start, len(self)))
            raise
        if cameras is not None:
            self._cameras.append(np.asarray(cameras, dtype=np.int64))

    def search(
        self,
        queries: Tensor | np.ndarray,
        k: int,
        probes: int = 8,
        cameras: Sequence[int] | np.ndarray | None = None,
        own: Sequence[int] | np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest gallery images.

        Args:
            queries: (Q, D) features.
            k: images wanted.
            probes: lists to look into; of no effect on an exact index.
            cameras: (Q,) the queries' cameras; gallery images under a query's own camera are left out. Slower: one
                search for each camera, image by image.
            own: (Q,) the place of each query's own image in the gallery, which is left out; -1 if it is not there.

        Returns:
            Distances (Q, k) float32 ascending, and places in the gallery (Q, k) int64; infinity and -1 where there are
            fewer than k (in the lists looked into).

        Raises:
            ValueError: for features that do not fit, an empty index, numbers out of range, or cameras of queries when
                the gallery has none.
        """
        if k < 1 or probes < 1:
            raise ValueError(f"k is {k}, probes is {probes}; both must be at least 1")
        if not len(self):
            raise ValueError("the index is empty; add gallery features first")
        for what, values in (("cameras", cameras), ("own images", own)):
            if values is not None and len(values) != len(queries):
                raise ValueError(f"there are {len(values)} {what} for {len(queries)} queries")
        wanted = k if own is None else k + 1
        if cameras is None:
            parts = [self._search(queries, wanted, probes, None)]
            order = np.arange(len(queries))
        else:
            if not self._cameras:
                raise ValueError("the gallery was added without cameras, so none can be left out")
            gallery, asked = np.concatenate(self._cameras), np.asarray(cameras)
            groups = [np.flatnonzero(asked == camera) for camera in np.unique(asked)]
            parts = [self._search(queries[g], wanted, probes, gallery != asked[g[0]]) for g in groups]
            order = np.argsort(np.concatenate(groups))
        distances, places = (np.concatenate(part)[order] for part in zip(*parts, strict=True))
        if own is not None:
            own = np.asarray(own)[:, None]
            rest = (places != own) | (own < 0)
            rest[:, -1] &= ~rest.all(axis=1)  # its own image is not among them: the last is one too many
            distances, places = (values[rest].reshape(len(values), k) for values in (distances, places))
        return distances, places

    def _search(
        self, queries: Tensor | np.ndarray, k: int, probes: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = _faiss()
        # The parameters do not keep the selector alive, nor the selector its bits.
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        how = {} if selector is None else {"sel": selector}
        if self.lists:
            parameters = faiss.SearchParametersIVF(nprobe=min(probes, self.lists), **how)
        else:
            parameters = faiss.SearchParameters(**how) if how else None
        found = [self._index.search(chunk, k, params=parameters) for chunk in self._chunks(queries)]
        distances, places = map(np.concatenate, zip(*found, strict=True))
        distances[places < 0] = np.inf
        return distances / 2 if self.metric == "cosine" else distances, places

    def _chunks(self, features: Tensor | np.ndarray) -> Iterator[np.ndarray]:
        features = torch.as_tensor(features)
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise ValueError(f"this index takes features (N, {self.dimension}), not {tuple(features.shape)}")
        for chunk in features.split(_CHUNK):
            chunk = chunk.detach().cpu().float()
            if not torch.isfinite(chunk).all():
                raise ValueError("features hold NaN or infinity, which no search can place")
            if self.metric == "cosine":
                chunk = F.normalize(chunk, dim=1)
            yield np.ascontiguousarray(chunk.numpy())

    def save(self, folder: str | PathLike) -> None:
        """Write a folder: ``index.faiss``, ``about.json`` and, where there are cameras, ``cameras.npy``."""
        folder = Path(folder)
        with whole_file(folder / "index.faiss") as scratch:
            _faiss().write_index(self._index, str(scratch))
        if self._cameras:
            with whole_file(folder / "cameras.npy") as scratch, open(scratch, "wb") as file:
                np.save(file, np.concatenate(self._cameras), allow_pickle=False)
        checksums = {name: _checksum(folder / name) for name in ("index.faiss", *["cameras.npy"] * bool(self._cameras))}
        with whole_file(folder / "about.json") as scratch:
            scratch.write_text(json.dumps(self._about() | {"crc32": checksums}, indent=1), encoding="utf-8")

    def _about(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "dimension": self.dimension,
            "metric": self.metric,
            "lists": self.lists,
            "images": len(self),
            "cameras": bool(self._cameras),
        }

    @classmethod
    def load(cls, folder: str | PathLike) -> GalleryIndex:
        """Read what :meth:`save` wrote; nothing in it can run code.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is damaged, they do not belong together, or are of another format.
        """
        folder = Path(folder)
        faiss = _faiss()
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            if about["format"] != _FORMAT:
                raise ValueError(f"it has format {about['format']!r}; this version reads {_FORMAT}")
            if not (folder / "index.faiss").is_file():
                raise FileNotFoundError(f"{folder / 'index.faiss'} is missing")
            stated = about.get("crc32", {})  # indexes of before have none
            for name in ("index.faiss", "cameras.npy"):
                if name in stated and stated[name] != _checksum(folder / name):
                    raise ValueError(f"{name} is not what was written")
            index = cls(about["dimension"], about["metric"], about["lists"])
            read = faiss.read_index(str(folder / "index.faiss"))
            if about["cameras"]:
                index._cameras = [np.load(folder / "cameras.npy", allow_pickle=False)]
                if index._cameras[0].dtype != np.int64 or index._cameras[0].ndim != 1:
                    raise ValueError("cameras.npy holds no list of whole numbers")
            found = {
                "kind": type(read).__name__,
                "dimension": read.d,
                "metric": read.metric_type,
                "lists": getattr(read, "nlist", 0),
                "images": read.ntotal,
                "cameras": len(index._cameras[0]) if about["cameras"] else 0,
            }
            said = {
                "kind": type(index._index).__name__,
                "dimension": about["dimension"],
                "metric": faiss.METRIC_L2,
                "lists": about["lists"],
                "images": about["images"],
                "cameras": about["images"] if about["cameras"] else 0,
            }
            if found != said:
                raise ValueError(f"the index does not fit its about.json: {found} in one, {said} in the other")
        except FileNotFoundError:
            raise
        except Exception as error:  # FAISS and numpy raise any
            told = " ".join(str(error).split())
            raise ValueError(f"{folder} is not a readable index: {told}; make it anew") from error
        index._index = read
        return index


def merge_shards(
    answers: Sequence[tuple[np.ndarray, np.ndarray]], sizes: Sequence[int], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make one answer of those of several indexes that hold one gallery in consecutive pieces.

    It is the answer of one index over the whole gallery, if each shard was asked for at least k images.

    Args:
        answers: of each shard what :meth:`GalleryIndex.search` returned to the same queries.
        sizes: images of each shard.
        k: images wanted.

    Returns:
        Distances (Q, k), and places (Q, k) in the whole gallery; infinity and -1 where there are fewer.

    Raises:
        ValueError: if sizes and answers do not match, or the shards were asked for fewer than k images.

    Example:
        >>> one = np.array([[0.1, 0.4]], dtype=np.float32), np.array([[7, 2]])
        >>> two = np.array([[0.2, 0.3]], dtype=np.float32), np.array([[0, 5]])
        >>> merge_shards([one, two], sizes=[10, 20], k=2)[1].tolist()
        [[7, 10]]
    """
    if len(answers) != len(sizes) or not len(answers):
        raise ValueError(f"there are {len(answers)} answers and the sizes of {len(sizes)} shards")
    fewest = min(places.shape[1] for _, places in answers)
    if k < 1 or fewest < k:
        raise ValueError(f"{k} images are wanted, and a shard was asked for {fewest}")
    offsets = np.cumsum([0, *sizes[:-1]])
    distances = np.concatenate([part for part, _ in answers], axis=1)
    places = np.concatenate(
        [np.where(part < 0, -1, part + offset) for (_, part), offset in zip(answers, offsets, strict=True)], axis=1
    )
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, nearest, axis=1), np.take_along_axis(places, nearest, axis=1)


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("the search needs FAISS: pip install torchreid_xres[search]") from error
    return faiss
