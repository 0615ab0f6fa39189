"""One record per evaluation: everything needed to compare it with another, and to repeat it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import nn

from torchreid_xres import __version__
from torchreid_xres.metrics import Roc

PACKAGES = ("torch", "torchvision", "torchreid", "timm", "numpy", "Pillow", "opencv-python-headless")


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over names, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
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
    """Return CMC at some ranks, mAP and mINP of a ranking in per cent, over the queries of ``mask``."""
    cmc = result.cmc(max(ranks), mask=mask)
    figures = {f"rank{r}": 100 * float(cmc[r - 1]) for r in ranks}
    return figures | {"mAP": 100 * float(result.mAP(mask)), "mINP": 100 * float(result.mINP(mask))}


def make_record(
    *,
    dataset: str,
    manifest: Any,
    result: Any,
    ranks: Sequence[int],
    rates: np.ndarray,
    cameras: np.ndarray,
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
        roc: what the ranking has shown its distances to, in groups by rate.
        model: the evaluated network.
        protocol: metric and its settings.
        run: what the caller knows of the run (model name, seeds, configuration hash, epoch, sizes, seconds).

    Returns:
        A dictionary that JSON can hold; figures in per cent.
    """

    def by(labels: np.ndarray) -> dict:
        masks = {f"{label:g}": labels == label for label in sorted(set(labels.tolist()))}
        return {
            label: {"queries": int(mask.sum()), **scores(result, ranks, mask)}
            for label, mask in masks.items()
            if result.valid[mask].any()
        }

    by_rate = by(rates)
    for rate, found in roc.by().items():
        if f"{rate:g}" in by_rate:
            by_rate[f"{rate:g}"]["tpr"] = _per_cent(found)
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
        "tpr": _per_cent(roc.tpr()),
        "by_rate": by_rate,
        "by_camera": by(cameras),
    }


def _per_cent(tpr: Mapping[float, float]) -> dict[str, float]:
    return {f"fpr{rate:g}": 100 * value for rate, value in tpr.items()}
