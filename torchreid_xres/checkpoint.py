"""Checkpoints that a kill cannot spoil and from which a run goes on bit for bit."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from torchreid_xres.files import whole_file
from torchreid_xres.tensors import read_tensors


def save_atomic(state: Any, path: str | Path) -> None:
    """Write ``state`` with ``torch.save``; whoever looks finds the old file or the new one, never a half.

    Args:
        state: tensors, numbers, text, lists and dictionaries of them.
        path: file to write; its folder is made.

    Raises:
        OSError: naming the file and the room it needs, if the disk is full.
    """
    with whole_file(path, needed=_tensor_bytes(state)) as scratch, open(scratch, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _tensor_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, Mapping):
        state = state.values()
    elif not isinstance(state, (list, tuple)):
        return 0
    return sum(map(_tensor_bytes, state))


def load(path: str | Path) -> dict:
    """Read a checkpoint onto the CPU without running any code that it may hold.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no checkpoint (damaged, other content, or pickled code).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    state = read_tensors(path)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} is no checkpoint: it holds a {type(state).__name__}")
    return state


def random_state() -> dict:
    """Return the state of every generator a run draws from, in types that ``weights_only`` loads."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
    }
    if _has_gpus():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict) -> None:
    """Put back what :func:`random_state` returned."""
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and _has_gpus():
        torch.cuda.set_rng_state_all(state["cuda"])


def _has_gpus() -> bool:
    # A process among several has one GPU, whose generator it seeds in each epoch; the others' are not to be touched.
    return torch.cuda.is_available() and not (dist.is_available() and dist.is_initialized())


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave every generator as it was, whatever the block draws (an evaluation must not change a training)."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
