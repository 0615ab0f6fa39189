"""One record per evaluation: everything needed to compare it with another, and to repeat it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchreid_xres.metrics import Roc
from torchreid_xres.version import __version__

PACKAGES = ("torch", "torchvision", "torchreid", "timm", "numpy", "Pillow", "opencv-python-headless")


def weights_hash(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes and values of all parameters and buffers.

    Args:
        weights: a network, or its state dictionary.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # Through bytes: bfloat16 has no NumPy type.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the libraries a result depends on."""
    found = {"torchreid_xres": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Return what a speed depends on: the processor, the threads torch uses, and the GPU."""
    return {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def scores(result: Any, ranks: Sequence[int], mask: np.ndarray | None = None) -> dict:
    """Return CMC at rank 1 and some ranks, mAP and mINP of a ranking in per cent, over the queries of ``mask``."""
    cmc = result.cmc(max(ranks), mask=mask)
    figures = {f"rank{r}": 100 * float(cmc[r - 1]) for r in sorted({1, *ranks})}
    return figures | {"mAP": 100 * float(result.mAP(mask)), "mINP": 100 * float(result.mINP(mask))}


def magnified(height: int, sizes: np.ndarray) -> np.ndarray:
    """Return by how much a network enlarges what a camera saw, 1 = it sees all there is, below 1 = it sees less.

    Args:
        height: of the network's input, pixels.
        sizes: height and width of each image after the protocol's down-sampling, pixels, (N, 2).

    Example:
        >>> magnified(128, np.array([[64, 32], [256, 128]]))
        array([2. , 0.5])
    """
    return height / np.asarray(sizes, dtype=np.float64)[:, 0]


def magnification(height: int, sizes: np.ndarray, low: np.ndarray) -> dict[str, float | None]:
    """Return the median magnification of all queries and of the low ones, as a record holds it; None without such.

    Args:
        height: of the network's input, pixels.
        sizes: height and width of each query, pixels, (Q, 2).
        low: which are low resolution, (Q,).

    Example:
        >>> magnification(128, np.array([[64, 32], [256, 128]]), np.array([True, False]))
        {'all': 1.25, 'low': 2.0}
    """
    found = magnified(height, sizes)
    parts = {"all": found, "low": found[np.asarray(low, dtype=bool)]}
    return {name: round(float(np.median(part)), 3) if len(part) else None for name, part in parts.items()}


def by_size(result: Any, rates: np.ndarray, sizes: np.ndarray, ranks: Sequence[int]) -> list[dict]:
    """Return the figures by quarters of the queries, the smallest quarter first, where all are as captured.

    Args:
        result: the ranking.
        rates: down-sampling rate of each query, (Q,).
        sizes: height and width of each query in pixels, (Q, 2).
        ranks: CMC ranks to name.

    Returns:
        Of each quarter its number ``quarter``, the smallest, median and largest side in it, ``from``, ``median`` and
        ``to`` (the root of height times width, pixels), ``queries`` and their figures in per cent. Queries of one size
        stay together, so quarters may be of unequal numbers; those without a query that has a match are left out.
        Empty if queries were down-sampled, or all are of one size.
    """
    sides = np.sqrt(np.asarray(sizes, dtype=np.float64).prod(axis=1))
    if (np.asarray(rates) != 1).any() or (sides == sides[0]).all():
        return []
    quarters = 1 + np.searchsorted(np.quantile(sides, (0.25, 0.5, 0.75)), sides)
    found = []
    for quarter, part in result.by(quarters).items():
        if part.valid.any():
            own = sides[quarters == quarter]
            span = {"from": own.min(), "median": np.median(own), "to": own.max()}
            about = {"quarter": quarter, **{key: round(float(side), 1) for key, side in span.items()}}
            found.append({**about, "queries": len(own), **scores(part, ranks)})
    return found


def make_record(
    *,
    dataset: str,
    manifest: Any,
    result: Any,
    ranks: Sequence[int],
    rates: np.ndarray,
    cameras: np.ndarray,
    sizes: np.ndarray | None,
    low: np.ndarray,
    height: int,
    roc: Roc,
    model: nn.Module,
    protocol: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict:
    """Assemble the record of one evaluation.

    Args:
        dataset: registered name.
        manifest: the set's protocol manifest, or None for a set of the host.
        result: the ranking (:class:`torchreid_xres.metrics.rank.RankResult`).
        ranks: CMC ranks to name.
        rates: down-sampling rate of each query, shape (Q,).
        cameras: of each query, (Q,).
        sizes: height and width of each query in pixels, (Q, 2); None for a set of the host.
        low: which queries are low resolution, (Q,).
        height: of the network's input, pixels.
        roc: what the ranking has shown its distances to, in groups by rate.
        model: the evaluated network.
        protocol: metric and its settings.
        run: what the caller knows of the run (model name, seeds, configuration hash, epoch, sizes, seconds).

    Returns:
        A dictionary that JSON can hold; figures in per cent, but for ``accept``: the largest distance that is accepted
        at each false positive rate, in the unit of the ranking's distances (re-ranked ones, where it was re-ranked),
        and ``wrong_pairs``: how many pairs of different identities that was measured on.
        ``by_size`` is in it where :func:`by_size` finds parts.
    """

    def by(labels: np.ndarray) -> dict:
        masks = {f"{label:g}": labels == label for label in sorted(set(labels.tolist()))}
        return {
            label: {"queries": int(mask.sum()), **scores(result, ranks, mask)}
            for label, mask in masks.items()
            if result.valid[mask].any()
        }

    quarters = [] if sizes is None else by_size(result, rates, sizes, ranks)
    by_rate = by(rates)
    tpr, accept = roc.by(), roc.distance_by()
    for rate in tpr:
        if f"{rate:g}" in by_rate:
            by_rate[f"{rate:g}"] |= {"tpr": _by_fpr(_per_cent(tpr[rate])), "accept": _by_fpr(accept[rate])}
    return {
        "dataset": dataset,
        "manifest": manifest.sha256 if manifest is not None else None,
        "protocol": dict(protocol),
        **run,
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_sha256": weights_hash(model),
        "versions": versions(),
        "machine": machine(),
        **scores(result, ranks),
        "cmc": [round(100 * float(c), 4) for c in result.cmc(50)],
        "tpr": _by_fpr(_per_cent(roc.tpr())),
        "accept": _by_fpr(roc.distance()),
        "wrong_pairs": roc.wrong_pairs,
        "by_rate": by_rate,
        "by_camera": by(cameras),
        **({"by_size": quarters} if quarters else {}),
        **({} if sizes is None else {"magnification": magnification(height, sizes, low)}),
    }


def _per_cent(tpr: Mapping[float, float]) -> dict[float, float]:
    return {rate: 100 * value for rate, value in tpr.items()}


def _by_fpr(values: Mapping[float, float | None]) -> dict[str, float | None]:
    return {f"fpr{rate:g}": value for rate, value in values.items()}
