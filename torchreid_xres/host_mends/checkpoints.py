"""Mends of the host's checkpoints: written whole, read without running code, the best one kept."""

from __future__ import annotations

import codecs
import inspect
import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from torchreid_xres import host
from torchreid_xres.checkpoint import save_atomic
from torchreid_xres.host_mends.table import mend
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.tensors import misfits, read_tensors, require_finite

logger = logging.getLogger(__name__)


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    """Rebuild a NumPy scalar as NumPy's own function does, but numbers only, never an object."""
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"a NumPy scalar of type {dtype} is no number")
    return np.frombuffer(data, dtype)[0]


def _scalar_under(module: str) -> Callable:
    # torch 2.4 allows a function only under its own name, so each name needs a function that bears it.
    named = FunctionType(_scalar.__code__, globals(), "scalar")
    named.__module__, named.__qualname__ = module, "scalar"
    return named


# What the pickle of a NumPy number names: the function as NumPy 1 and as NumPy 2 call it, its types, and how
# bytes are spelt (which torch allows by itself from 2.5 on).
_NUMPY_NUMBERS = [
    _scalar_under("numpy.core.multiarray"),
    _scalar_under("numpy._core.multiarray"),
    codecs.encode,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")},
]


@contextmanager
def _numpy_numbers_allowed() -> Iterator[None]:
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(_NUMPY_NUMBERS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@mend(
    "load-checkpoint",
    "utils/torchtools.py:85: on torch >= 2.6 no checkpoint of Engine.run can be read (rank1 is a NumPy scalar), "
    "and before 2.6 reading runs any code the file holds",
    "utils.torchtools:load_checkpoint",
)
def _load_checkpoint(original: Callable) -> Callable:
    def load_checkpoint(fpath: str | os.PathLike) -> Any:
        if fpath is None:
            raise ValueError("the path of the checkpoint is None")
        path = Path(fpath).expanduser().absolute()
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint at {path}")
        device = None if torch.cuda.is_available() else "cpu"
        with _numpy_numbers_allowed():
            state = read_tensors(path, device)
        if not isinstance(state, Mapping):
            raise ValueError(f"{path} is no checkpoint: it holds a {type(state).__name__}")
        return state

    return load_checkpoint


def _load(path: str | os.PathLike) -> Any:
    return host.module("utils.torchtools").load_checkpoint(path)


def _plain(name: str) -> str:
    """A parameter's name without what DataParallel and torch.compile put into it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[0] == "module" else parts)


def named_for(model: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Name ``weights`` as ``model`` does, whichever of the two is wrapped or compiled."""
    names = {_plain(name): name for name in model.state_dict()}
    return {names.get(_plain(name), name): value for name, value in weights.items()}


# What tells optimisers apart, and settings of them and of schedules: name in their states -> key that sets it.
_KINDS = ("betas", "momentum", "alpha", "amsgrad")
_OPTIMISER = {
    "initial_lr": "train.lr", "weight_decay": "train.weight_decay", "betas": "adam.beta1 and adam.beta2",
    "momentum": "sgd.momentum", "dampening": "sgd.dampening", "nesterov": "sgd.nesterov",
    "alpha": "rmsprop.alpha", "amsgrad": "train.optim amsgrad",
}  # fmt: skip
_SCHEDULE = {
    "step_size": "train.stepsize", "milestones": "train.stepsize", "gamma": "train.gamma", "T_max": "train.max_epoch",
    "total_iters": "train.warmup_epochs", "factor": "train.warmup_factor", "start_factor": "train.warmup_factor",
}  # fmt: skip


def require_training_state(
    path: str | os.PathLike, kept: Mapping[str, Any], model: nn.Module, optimizer: Any = None, scheduler: Any = None
) -> list[str]:
    """Refuse a state from which a training cannot go on.

    Args:
        path: where it was read.
        kept: ``state_dict``, and what there is of ``optimizer`` and ``scheduler``.
        model: the network that is to go on.
        optimizer, scheduler: its own.

    Returns:
        In which of the optimiser's and the schedule's settings the state differs.

    Raises:
        ValueError: if the weights do not fit or are not finite, or the optimiser is of another kind.
    """
    told = misfits(model.state_dict(), named_for(model, kept["state_dict"]))
    if told:
        raise ValueError(f"{path} does not fit {type(unwrap(model)).__name__}: {told}")
    require_finite({key: kept.get(key) for key in ("state_dict", "optimizer")}, path, "; remove it to start over")
    if optimizer is None or kept.get("optimizer") is None:
        return []
    ours, theirs = (part["param_groups"] for part in (optimizer.state_dict(), kept["optimizer"]))
    kinds = [{key for key in _KINDS if key in groups[0]} for groups in (ours, theirs)]
    if kinds[0] != kinds[1]:
        has = [", ".join(sorted(kind)) or "none" for kind in kinds]
        raise ValueError(f"{path} is of another optimiser (train.optim): its settings are {has[1]}, here {has[0]}")
    if [len(group["params"]) for group in ours] != [len(group["params"]) for group in theirs]:
        raise ValueError(f"{path} is of an optimiser of other groups of parameters (train.staged_lr, frozen parts)")
    both = ({key: [group.get(key) for group in groups] for key in _OPTIMISER} for groups in (ours, theirs))
    differs = _differing(_OPTIMISER, *both)
    if scheduler is not None and kept.get("scheduler") is not None:
        differs += _differing(_SCHEDULE, _settings(scheduler.state_dict()), _settings(kept["scheduler"]))
    return differs


def _settings(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the state of a schedule, and of those it is chained of."""
    found = {key: schedule[key] for key in _SCHEDULE if key in schedule}
    for part in schedule.get("_schedulers", ()):
        found |= _settings(part)
    return {key: sorted(value) if isinstance(value, Mapping) else value for key, value in found.items()}


def _differing(names: Mapping[str, str], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    def plain(value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    return [
        f"{name} {plain(theirs.get(key))} (here {plain(ours.get(key))})"
        for key, name in names.items()
        if ours.get(key) != theirs.get(key)
    ]


@mend(
    "resume",
    "utils/torchtools.py:122: a DataParallel, DDP or compiled model's checkpoint does not fit the bare model, "
    "nor the other way round; a scheduler stored as None crashes; another optimiser's state fits",
    "utils.torchtools:resume_from_checkpoint",
)
def _resume_from_checkpoint(original: Callable) -> Callable:
    def resume_from_checkpoint(
        fpath: str | os.PathLike, model: nn.Module, optimizer: Any = None, scheduler: Any = None
    ) -> int:
        checkpoint = _load(fpath)
        lacking = [key for key in ("state_dict", "epoch") if key not in checkpoint]
        if lacking:
            raise ValueError(
                f"{fpath} holds no state of a training: it has no {' and no '.join(lacking)}, but "
                f"{', '.join(map(str, list(checkpoint)[:3]))}"
            )
        differs = require_training_state(fpath, checkpoint, model, optimizer, scheduler)
        if differs:
            logger.warning("going on as %s was trained: %s", fpath, ", ".join(differs))
        model.load_state_dict(named_for(model, checkpoint["state_dict"]))
        for key, part in (("optimizer", optimizer), ("scheduler", scheduler)):
            if part is None:
                continue
            if checkpoint.get(key) is None:
                logger.warning("%s holds no %s; it starts afresh", fpath, key)
            else:
                part.load_state_dict(checkpoint[key])
        logger.info("going on after epoch %d of %s", checkpoint["epoch"], fpath)
        return checkpoint["epoch"]

    return resume_from_checkpoint


@mend(
    "pretrained-weights",
    "utils/torchtools.py:285: the names of a compiled model's file, or of a wrapped model, fit nothing, and "
    "training goes on from random weights with a warning",
    "utils.torchtools:load_pretrained_weights",
)
def _load_pretrained_weights(original: Callable) -> Callable:
    def load_pretrained_weights(model: nn.Module, weight_path: str | os.PathLike) -> None:
        checkpoint = _load(weight_path)
        given = named_for(model, checkpoint.get("state_dict", checkpoint))
        own = model.state_dict()
        fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
        if not fitting:
            warnings.warn(f"nothing in {weight_path} fits the model; its weights stay as they are", stacklevel=2)
            return
        model.load_state_dict({**own, **fitting})
        left = sorted(given.keys() - fitting.keys())
        logger.info("loaded %d tensors from %s; left out: %s", len(fitting), weight_path, left or "none")

    return load_pretrained_weights


@mend(
    "save-checkpoint",
    "utils/torchtools.py:55: a kill while writing leaves half a file under the checkpoint's name; the caller's "
    "state is changed; NumPy scalars are written, which torch >= 2.6 does not read",
    "utils.torchtools:save_checkpoint",
)
def _save_checkpoint(original: Callable) -> Callable:
    def save_checkpoint(
        state: Mapping[str, Any],
        save_dir: str | os.PathLike,
        is_best: bool = False,
        remove_module_from_keys: bool = False,
    ) -> None:
        state = {k: v.item() if isinstance(v, np.generic) else v for k, v in state.items()}
        if remove_module_from_keys:
            state["state_dict"] = {k.removeprefix("module."): v for k, v in state["state_dict"].items()}
        if is_best:
            # Before the numbered file: a run stopped in between repeats the epoch and finds it again.
            save_atomic(state, Path(save_dir, "model-best.pth.tar"))
        path = Path(save_dir, f"model.pth.tar-{state['epoch']}")
        save_atomic(state, path)
        logger.info("checkpoint saved to %s", path)

    return save_checkpoint


@mend(
    "save-model",
    "engine/engine.py:85: crashes without a scheduler, after the training; never says that an epoch was the "
    "best; writes names a bare model does not have; under DDP all processes write the same file",
    "engine.engine:Engine.save_model",
)
def _save_model(original: Callable) -> Callable:
    def save_model(self: Any, epoch: int, rank1: float, save_dir: str, is_best: bool = False) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        rank1 = float(rank1)
        for name in self.get_model_names():
            folder = Path(save_dir, name)
            best = _best_rank1(self, folder, resumed=getattr(self, "start_epoch", epoch) > 0)
            state = {"state_dict": unwrap(self._models[name]).state_dict(), "epoch": epoch + 1, "rank1": rank1}
            for key, part in (("optimizer", self._optims[name]), ("scheduler", self._scheds[name])):
                if part is not None:
                    state[key] = part.state_dict()
            better = is_best or rank1 > best
            host.module("engine.engine").save_checkpoint(state, str(folder), is_best=better)
            if better:
                self._best_rank1[folder] = rank1

    return save_model


def _best_rank1(engine: Any, folder: Path, resumed: bool) -> float:
    """Return the best rank-1 of the run so far; a resumed run looks into its folder once."""
    known = vars(engine).setdefault("_best_rank1", {})
    if folder not in known:
        known[folder] = float("-inf")
        path = folder / "model-best.pth.tar"
        if resumed and path.is_file():
            try:
                known[folder] = float(_load(path)["rank1"])
            except (OSError, ValueError, KeyError) as error:
                logger.warning("%s cannot be compared with and will be replaced: %s", path, error)
    return known[folder]


@mend(
    "run",
    "engine/engine.py:222: a finished run that is resumed writes model.pth.tar-1 anew; rerank is ignored in "
    "training without a word",
    "engine.engine:Engine.run",
)
def _run(original: Callable) -> Callable:
    signature = inspect.signature(original)

    def run(self: Any, *args: Any, **kwargs: Any) -> None:
        call = signature.bind(self, *args, **kwargs)
        call.apply_defaults()
        asked = call.arguments
        training = not asked["test_only"] and not asked["visrank"]  # both at once: the host refuses
        self._best_rank1 = {}
        if training and asked["rerank"]:
            logger.warning("rerank has no effect while training; run again with test_only=True")
        if training and 0 < asked["max_epoch"] <= asked["start_epoch"]:
            logger.warning("all %d epochs are done (start_epoch is %d): the model is tested, nothing is saved",
                           asked["max_epoch"], asked["start_epoch"])  # fmt: skip
            asked.update(test_only=True, rerank=False)
        original(*call.args, **call.kwargs)

    return run
