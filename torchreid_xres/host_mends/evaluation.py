"""Mends of the host's evaluation: distances, CMC and mAP, accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from torchreid_xres.host_mends.table import mend

_use_host = False


def use_host_evaluator(on: bool = True) -> None:
    """Rank and re-rank with the host's own code (slow, ties as ``argsort`` likes) instead of ours; False goes back.

    It still does not crash on small galleries. Meant for comparing figures.

    Args:
        on: True for the host's evaluator, False for ours (the default when nothing was called).
    """
    global _use_host
    _use_host = on


@mend(
    "evaluate-rank",
    "metrics/rank.py:149, engine/engine.py:420: rankings of unequal length (ragged CMC) and ranks past the "
    "gallery crash; rank.py:147: a bare AssertionError when no query has a match; ties fall by chance",
    "metrics.rank:evaluate_rank",
)
def _evaluate_rank(original: Callable) -> Callable:
    ours = import_module("torchreid_xres.metrics.rank").evaluate_rank

    def evaluate_rank(
        distmat: np.ndarray,
        q_pids: np.ndarray,
        g_pids: np.ndarray,
        q_camids: np.ndarray,
        g_camids: np.ndarray,
        max_rank: int = 50,
        use_metric_cuhk03: bool = False,
        use_cython: bool = True,
    ) -> tuple[np.ndarray, float]:
        labels = q_pids, g_pids, q_camids, g_camids
        if not _use_host:
            return ours(distmat, *labels, max_rank, use_metric_cuhk03, use_cython)
        distmat, *labels = _lengthened(distmat, *map(np.asarray, labels), max_rank, use_metric_cuhk03)
        try:
            return original(distmat, *labels, max_rank, use_metric_cuhk03, use_cython)
        except AssertionError as error:
            raise ValueError(
                f"none of the {len(q_pids)} queries has a match among the {len(g_pids)} gallery images, after "
                "the images of the query's own identity under its own camera are removed. The usual cause is one "
                f"camera id for all images; the queries have {len(set(q_camids))}, the gallery {len(set(g_camids))}"
            ) from error

    return evaluate_rank


def _lengthened(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int,
    single_shot: bool,
) -> tuple[np.ndarray, ...]:
    """Lengthen a small gallery by infinitely distant strangers, so that every ranking has ``max_rank`` places.

    No figure changes: strangers come last, are no match, and a CMC past the last match is constant.
    """
    if single_shot:
        shortest = len(np.unique(g_pids))
    else:
        same = Counter(zip(g_pids.tolist(), g_camids.tolist(), strict=True))
        removed = max(same[key] for key in zip(q_pids.tolist(), q_camids.tolist(), strict=True))
        shortest = len(g_pids) - removed
    count = max_rank - shortest
    if count <= 0:
        return distmat, q_pids, g_pids, q_camids, g_camids
    strangers = 1 + max(q_pids.max(), g_pids.max()) + np.arange(count)
    far = np.full((len(distmat), count), np.inf, dtype=np.result_type(distmat, np.float32))
    return (
        np.hstack([distmat, far]),
        q_pids,
        np.append(g_pids, strangers),
        q_camids,
        np.append(g_camids, np.zeros_like(strangers)),
    )


class _NumpyWithBool(ModuleType):
    """NumPy as the host's evaluator knew it."""

    bool = np.bool_

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@mend(
    "numpy-bool",
    "metrics/rank.py:64: np.bool does not exist in NumPy 1.24 to 1.26, so the cuhk03 metric crashes",
    "metrics.rank:np",
)
def _numpy_with_bool(original: ModuleType) -> ModuleType:
    return _NumpyWithBool(original.__name__)


@mend(
    "distance-matrix",
    "engine/engine.py:398: bfloat16 features crash; metrics/rank.py:107: NaN features are ranked in silence",
    "metrics.distance:compute_distance_matrix",
)
def _compute_distance_matrix(original: Callable) -> Callable:
    ours = import_module("torchreid_xres.metrics.distance").distance_matrix

    def compute_distance_matrix(input1: Tensor, input2: Tensor, metric: str = "euclidean") -> Tensor:
        return ours(input1, input2, metric)

    return compute_distance_matrix


@mend(
    "re-ranking",
    "utils/rerank.py:33: six N x N matrices, N = queries + gallery images; a minute for 19,000; ties fall by chance",
    "utils.rerank:re_ranking",
)
def _re_ranking(original: Callable) -> Callable:
    ours = import_module("torchreid_xres.metrics.rerank").re_ranking

    def re_ranking(
        q_g_dist: np.ndarray,
        q_q_dist: np.ndarray,
        g_g_dist: np.ndarray,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
    ) -> np.ndarray:
        return (original if _use_host else ours)(q_g_dist, q_q_dist, g_g_dist, k1, k2, lambda_value)

    return re_ranking


@mend(
    "accuracy",
    "metrics/accuracy.py:33: view() of a transposed tensor crashes for topk=(1, 5)",
    "metrics.accuracy:accuracy",
)
def _accuracy(original: Callable) -> Callable:
    def accuracy(output: Tensor | Sequence[Tensor], target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
        logits = output[0] if isinstance(output, (tuple, list)) else output
        most = min(max(topk), logits.shape[1])
        hits = logits.topk(most, dim=1).indices == target[:, None]
        return [hits[:, :k].any(dim=1).float().mean(dim=0, keepdim=True) * 100 for k in topk]

    return accuracy
