"""Several processes with one task: ``torchrun --nproc_per_node=N tools/train.py ...``, a process for each device.

Who writes, who waits for whom, and what each draws for itself; how they share a batch is in ``parallel.py``.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Timer
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed as dist

from torchreid_xres.checkpoint import random_state, random_state_kept, set_random_state

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What torchrun tells each of its processes.
ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# A process may wait for hours while the first one restores a data set. One that dies is torchrun's to notice.
PATIENCE = timedelta(days=2)
TELL_AFTER = 5  # seconds of waiting for the other processes at the start

_alone = False  # in a block of on_main
_own_state: dict | None = None  # of the generators for what each process draws for itself


# -- processes -------------------------------------------------------------------------------------------------


@contextmanager
def processes(use_gpu: bool) -> Iterator[None]:
    """Join the processes that torchrun started for the length of a block; without torchrun do nothing.

    Args:
        use_gpu: each process takes the GPU of its number on its machine.

    Raises:
        ValueError: if a machine has fewer GPUs than processes, or what torchrun sets is there in part only.
    """
    if not _is_launched():
        yield
        return
    if use_gpu:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun started a process {local} on {socket.gethostname()}, whose GPUs are {_gpus()}; lower "
                "--nproc_per_node, or set use_gpu False"
            )
        torch.cuda.set_device(local)
    # Objects and sizes go through gloo, what is on a GPU through NCCL.
    told = Timer(TELL_AFTER, logger.warning, (_waiting(),))
    told.daemon = True
    told.start()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout=PATIENCE)
    finally:
        told.cancel()
    yield
    # After an error the others may wait for this process; it is to end, not to wait for them.
    dist.destroy_process_group()


def _is_launched() -> bool:
    """Return whether the environment is one that torchrun made.

    Raises:
        ValueError: if a part of it is there, as a shell or a scheduler may leave it.
    """
    given = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    alone = given.get("WORLD_SIZE", "1") == "1"
    if len(given) < len(ENVIRONMENT) and alone:
        return False
    missing = [name for name in ENVIRONMENT if name not in given]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {given['WORLD_SIZE']} in the environment, but {', '.join(missing)} not set: torchrun sets "
            "them all; to run one process, unset WORLD_SIZE"
        )
    numbers = {name: given[name] for name in ENVIRONMENT if name != "MASTER_ADDR"}
    if not all(number.isdecimal() for number in numbers.values()) or int(given["RANK"]) >= int(given["WORLD_SIZE"]):
        told = ", ".join(f"{name} {value!r}" for name, value in numbers.items())
        raise ValueError(f"the environment has {told}, which torchrun never sets: unset them, or start with torchrun")
    return True


def _waiting() -> str:
    others, rank = int(os.environ["WORLD_SIZE"]) - 1, os.environ["RANK"]
    return (
        f"process {rank} waits for the {others} other(s) of WORLD_SIZE {others + 1} at {os.environ['MASTER_ADDR']}:"
        f"{os.environ['MASTER_PORT']}; if torchrun did not start this one, unset WORLD_SIZE, RANK and MASTER_ADDR"
    )


def _gpus() -> str:
    return f"0 to {torch.cuda.device_count() - 1}" if torch.cuda.device_count() else "none"


def launched() -> bool:
    """Return whether this process is one of several that torchrun started (or its only one)."""
    return dist.is_available() and dist.is_initialized()


def active() -> bool:
    """Return whether all processes do this together; False in a block of :func:`on_main`."""
    return launched() and not _alone


def is_main() -> bool:
    """Return whether this is the process that writes: the first, or the only one."""
    return process() == 0


def world() -> int:
    """Return the number of processes that work together."""
    return dist.get_world_size() if active() else 1


def process() -> int:
    """Return this process's number, 0 if it is the only one."""
    return dist.get_rank() if launched() else 0


def label() -> str:
    """Return what a message of this process begins with: nothing if it is the first."""
    return f"process {process()} on {socket.gethostname()}: " if process() else ""


def on_main(work: Callable[[], T]) -> T:
    """Let the first process work while the others wait, and return its result, or raise its error, in all.

    Example:
        >>> on_main(lambda: 1 + 1)
        2
    """
    global _alone
    if not active():
        return work()
    box: list[Any] = [None, ""]
    failure = None
    if is_main():
        _alone = True
        try:
            box[0] = work()
        except Exception as error:
            failure, box[1] = error, f"{type(error).__name__}: {error}"
        finally:
            _alone = False
    dist.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    if box[1]:
        raise RuntimeError(f"the first process failed with {box[1]}")
    return box[0]


def wait() -> None:
    """Wait until all processes are here."""
    if active():
        dist.all_reduce(torch.zeros(()))  # through gloo: NCCL's barrier would use a GPU


def told_by_all(text: str) -> list[str]:
    """Return what each process says, the first one's first; all processes must ask.

    Example:
        >>> told_by_all("well")
        ['well']
    """
    if not active():
        return [text]
    box = [""] * dist.get_world_size()
    dist.all_gather_object(box, text)
    return box


@contextmanager
def in_turn() -> Iterator[None]:
    """Do a block in the first process, then in the first of each other machine, then in the rest.

    What one makes on disk (a drawn or unpacked data set, downloaded weights) the later ones find.
    """
    if not active():
        yield
        return
    turn = 0 if is_main() else 1 if os.environ["LOCAL_RANK"] == "0" else 2
    for now in range(3):
        if now == turn:
            yield
        wait()


def require_seen(path: Path, what: str = "data.save_dir") -> None:
    """Make sure that this process sees a file of the first one.

    Args:
        path: the file.
        what: the folder it is in, for the message.

    Raises:
        FileNotFoundError: if it does not.
    """
    if active() and not path.exists():
        raise FileNotFoundError(
            f"{socket.gethostname()} does not see {path}: {what} must be on a disk that all machines share"
        )


class Silent:
    """Takes any call and does nothing: the event writer of all processes but the first."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


# -- random numbers --------------------------------------------------------------------------------------------


@contextmanager
def own_draws() -> Iterator[None]:
    """Draw from this process's own generators in a block; outside of it all processes draw the same.

    A GPU's generator is always the process's own.
    """
    global _own_state
    if not active() or _own_state is None:
        yield
        return
    common = random_state()
    set_random_state(_own_state)
    try:
        yield
    finally:
        _own_state = random_state()
        set_random_state(common)


def seed_own_draws(seed: int) -> None:
    """Start the generators of :func:`own_draws` from a seed, which differs between processes."""
    global _own_state
    with random_state_kept():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)  # the GPUs' too
        _own_state = random_state()
