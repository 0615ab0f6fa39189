"""Features of one part of a data set under one model, with what says of which images and which model they are."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.data.base import ROLES
from torchreid_xres.data.validation import PARTS
from torchreid_xres.features.record import by_size, scores, versions
from torchreid_xres.files import whole_file
from torchreid_xres.metrics import RankResult, rank_distances, rank_features
from torchreid_xres.metrics.rerank import reranked_distances

# Goes up when a file of before could no longer be read as what it is.
FORMAT = 1
_PER_IMAGE = {"pid": np.int64, "camid": np.int64, "rate": np.float64, "low": np.bool_, "size": np.int64}
_TEXTS = ("role", "dataset", "model", "weights_sha256", "manifest_sha256", "part")
# Kinds of numpy's types that a file may have; casting others would change what they say.
_KINDS = {"features": "f", "names": "U", "pid": "iu", "camid": "iu", "rate": "fiu", "low": "b", "size": "iu"}
_INFLATED = 100  # the most that a file's content may be larger than the file


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of the training images, the queries or the gallery of a data set, by one model.

    Args:
        features: (N, D), finite; kept as float32 on the CPU.
        pid: (N,) identities.
        camid: (N,) cameras.
        rate: (N,) down-sampling rates, 1 = as captured (also where the gap is in the pictures themselves).
        low: (N,) bool, low resolution by the protocol.
        size: (N, 2) native height and width in pixels, of what the camera saw.
        names: (N,) paths relative to the set's folder, with forward slashes.
        role: ``train``, ``query`` or ``gallery``.
        dataset: registered name of the data set.
        model: how the model is called in tables.
        weights_sha256: of the model's weights.
        manifest_sha256: of the set's protocol manifest; empty for a set of the host, which has none.
        part: what queries and gallery are of, ``test`` or ``validation``.

    Raises:
        ValueError: for shapes that do not fit, features that are not finite, or an unknown role.
    """

    features: Tensor
    pid: np.ndarray
    camid: np.ndarray
    rate: np.ndarray
    low: np.ndarray
    size: np.ndarray
    names: Sequence[str]
    role: str
    dataset: str
    model: str
    weights_sha256: str
    manifest_sha256: str = ""
    part: str = "test"

    def __post_init__(self) -> None:
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        keep("features", torch.as_tensor(self.features).detach().to("cpu", torch.float32))
        keep("names", tuple(map(str, self.names)))
        where = f"the {self.role} features of {self.dataset} by {self.model}"
        for name, dtype in _PER_IMAGE.items():
            given = np.asarray(getattr(self, name))
            if given.dtype.kind == "u" and dtype is np.int64 and (given > np.iinfo(dtype).max).any():
                raise ValueError(f"{where}: {name} holds {given.max()}, above the largest number, 2^63 - 1")
            keep(name, given.astype(dtype, copy=False))
        if self.role not in ROLES:
            raise ValueError(f"{where}: the role must be one of {', '.join(ROLES)}")
        if self.part not in PARTS:
            raise ValueError(f"{where}: the part must be one of {', '.join(PARTS)}, not {self.part!r}")
        if self.features.ndim != 2 or not len(self.features):
            raise ValueError(f"{where} must be (N, D) with N >= 1, not {tuple(self.features.shape)}")
        for name in ("names", *_PER_IMAGE):
            shape = np.shape(getattr(self, name))
            expected = (len(self), 2) if name == "size" else (len(self),)
            if shape != expected:
                raise ValueError(f"{where}: {len(self)} images need {name} of the shape {expected}, not {shape}")
        broken = (~torch.isfinite(self.features)).any(dim=1).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"{where}: {len(broken)} of {len(self)} hold NaN or infinity, the first is {self.names[broken[0]]}"
            )

    def __len__(self) -> int:
        return len(self.features)

    def save(self, path: str | Path) -> None:
        """Write everything as one uncompressed ``.npz``, whole or not at all."""
        arrays = {name: getattr(self, name) for name in _PER_IMAGE}
        arrays |= {"features": self.features.numpy(), "names": np.array(self.names, dtype=np.str_)}
        about = {name: getattr(self, name) for name in _TEXTS} | {"format": FORMAT}
        with whole_file(path) as scratch, open(scratch, "wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> FeatureSet:
        """Read what :meth:`save` wrote; nothing in the file is run.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, of another kind, or of a later version of this package.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no features at {path}")
        try:
            with zipfile.ZipFile(path) as file:
                content = sum(info.file_size for info in file.infolist())
            if content > _INFLATED * path.stat().st_size:
                raise ValueError(f"it unpacks to {content:,} bytes")
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].item())
                found = {name: file[name] for name in _KINDS}
            if about.pop("format") != FORMAT:
                raise ValueError(f"written by another version of this package, this one reads format {FORMAT}")
            wrong = [name for name, kinds in _KINDS.items() if found[name].dtype.kind not in kinds]
            wrong += [name for name in about if not isinstance(about[name], str)]
            if wrong:
                raise ValueError(f"{', '.join(wrong)} of another type than it is written with")
            if not (np.isfinite(found["rate"]) & (found["rate"] > 0)).all() or not (found["size"] > 0).all():
                raise ValueError("rates and sizes are above 0")
            return cls(**found, **about)
        except Exception as error:  # a file that was made up may bring about any
            told = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{path} is not a readable feature file: {told}; remove it, and what made it makes it anew"
            ) from error


def check_same_images(sets: Sequence[FeatureSet]) -> None:
    """Refuse features that are not of the same images in the same order.

    Rates and sizes may differ: a branch may have seen the images enlarged.

    Args:
        sets: of several models; each is compared with the first.

    Raises:
        ValueError: names the two models, and what differs first: the data set, the role, the number of images, an
            image's name, identity or camera, or the protocol's manifest.
    """
    first = sets[0]
    for other in sets[1:]:
        pair = f"the features by {first.model} and by {other.model} are not of the same images"
        for what in ("dataset", "role", "part"):
            if getattr(first, what) != getattr(other, what):
                raise ValueError(
                    f"{pair}: the {what} is {getattr(first, what)} in one, {getattr(other, what)} in the other"
                )
        where = f"{pair} ({first.dataset}, {first.role})"
        if len(first) != len(other):
            raise ValueError(f"{where}: {len(first)} images in one, {len(other)} in the other")
        for what, ours, theirs in (
            ("name", first.names, other.names),
            ("identity", first.pid, other.pid),
            ("camera", first.camid, other.camid),
        ):
            differing = np.flatnonzero(np.asarray(ours) != np.asarray(theirs))
            if len(differing):
                i = differing[0]
                raise ValueError(
                    f"{where}: {len(differing)} of {len(first)} images differ in their {what}, the first is image {i}, "
                    f"{ours[i]} in one ({first.names[i]}), {theirs[i]} in the other ({other.names[i]})"
                )
        if first.manifest_sha256 != other.manifest_sha256:
            raise ValueError(
                f"{where}: the protocol's manifest is {first.manifest_sha256[:12] or 'missing'} in one, "
                f"{other.manifest_sha256[:12] or 'missing'} in the other; rates, kernel or files differ"
            )


def evaluate_features(
    query: FeatureSet,
    gallery: FeatureSet,
    *,
    metric: str = "cosine",
    normalize: bool = False,
    rerank: bool = False,
    protocol: str = "market",
    draws: int = 10,
    seed: int = 0,
    ranks: Sequence[int] = (1, 5, 10),
) -> dict:
    """Rank saved features and return the record.

    Args:
        query: the queries.
        gallery: what they are searched in, by the same model.
        metric: ``cosine`` or ``euclidean``.
        normalize: bring the features to length 1 before.
        rerank: re-rank the lists (k-reciprocal).
        protocol: ``market`` or ``single_shot``.
        draws: gallery draws of a single-shot evaluation.
        seed: of these draws.
        ranks: CMC ranks to name.

    Returns:
        A dictionary that JSON can hold; figures in per cent, also by the queries' rate.

    Raises:
        ValueError: if queries and gallery are not of one data set and model, or none of the queries has a match.
    """
    how = {"protocol": protocol, "draws": draws, "seed": seed}
    how |= {"distance": metric, "normalize": normalize, "rerank": rerank}
    return features_record(query, rank_saved(query, gallery, how).result, how, ranks)


class SavedRanking(NamedTuple):
    """Saved features ranked.

    Attributes:
        query: (Q, D) features as they were compared.
        gallery: (G, D) likewise.
        distances: (Q, G) re-ranked; None without re-ranking, where no full matrix is needed.
        result: the ranking.
    """

    query: Tensor
    gallery: Tensor
    distances: np.ndarray | None
    result: RankResult


def rank_saved(query: FeatureSet, gallery: FeatureSet, how: Mapping[str, Any]) -> SavedRanking:
    """Rank saved features.

    Args:
        query: the queries.
        gallery: what they are searched in, by the same model.
        how: as a record holds it: ``protocol``, ``draws``, ``seed``, ``distance``, ``normalize`` and ``rerank``.

    Raises:
        ValueError: if queries and gallery are not of one data set and model, or none of the queries has a match.
    """
    for what in ("dataset", "part", "model", "weights_sha256", "manifest_sha256"):
        ours, theirs = getattr(query, what), getattr(gallery, what)
        if ours != theirs:
            raise ValueError(f"queries and gallery do not belong together: the {what} is {ours} here, {theirs} there")
    labels = (query.pid, gallery.pid, query.camid, gallery.camid)
    drawn = {key: how[key] for key in ("protocol", "draws", "seed")}
    features = [F.normalize(part.features) if how["normalize"] else part.features for part in (query, gallery)]
    if how["rerank"]:
        distances = reranked_distances(*features, how["distance"])
        return SavedRanking(*features, distances, rank_distances(distances, *labels, **drawn))
    return SavedRanking(*features, None, rank_features(*features, *labels, metric=how["distance"], **drawn))


def features_record(query: FeatureSet, result: RankResult, how: Mapping[str, Any], ranks: Sequence[int]) -> dict:
    """Return the record of a ranking of saved features.

    Args:
        query: the queries.
        result: their ranking.
        how: the protocol and its settings.
        ranks: CMC ranks to name.
    """
    quarters = by_size(result, query.rate, query.size, ranks)
    return {
        "dataset": query.dataset,
        "manifest": query.manifest_sha256 or None,
        "protocol": dict(how),
        **({"part": query.part} if query.part != "test" else {}),
        "model": query.model,
        "weights_sha256": query.weights_sha256,
        "versions": versions(),
        **scores(result, ranks),
        "by_rate": {
            f"{rate:g}": {"queries": len(part.valid), **scores(part, ranks)}
            for rate, part in result.by(query.rate).items()
            if part.valid.any()
        },
        **({"by_size": quarters} if quarters else {}),
    }
