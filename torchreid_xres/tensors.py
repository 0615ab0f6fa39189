"""Tensors: constants kept on their device, and files, read without running code that they may hold."""

from __future__ import annotations

import os
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # what files of torch.save begin with, since torch 1.6 and before


def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return numbers, also tuples of tuples of them, as a tensor that is made and copied to its device once.

    Example:
        >>> constant((1, 2), torch.float32, torch.device("cpu"))
        tensor([1., 2.])
    """
    if torch.compiler.is_compiling():  # what is made while a graph is recorded belongs to the graph
        return torch.tensor(values, dtype=dtype, device=device)
    return kept_constant(values, dtype, device)


@lru_cache(maxsize=128)
def kept_constant(values: tuple, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the tensor of :func:`constant`, the same at each call."""
    # Later calls may want gradients: an inference tensor could not serve them.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def read_tensors(path: str | os.PathLike, map_location: str | None = "cpu") -> Any:
    """Read a file of ``torch.save`` that holds tensors, numbers, text, and lists and dictionaries of them.

    Args:
        path: a file that may come from anybody.
        map_location: device to put the tensors on; None: the one each was saved from.

    Returns:
        What was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged, or holds, or may hold, more than that.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "state.pth")
        >>> torch.save({"epoch": 3}, path)
        >>> read_tensors(path)
        {'epoch': 3}
    """
    with only_tensors(path):
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except UnicodeDecodeError:
            # Written by Python 2: its byte strings are not UTF-8. torch says that an encoding has no effect with
            # weights_only, but it has.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="pickle_load_args")
                return torch.load(path, map_location=map_location, weights_only=True, encoding="latin1")


@contextmanager
def only_tensors(path: str | os.PathLike) -> Iterator[None]:
    """Refuse a file before a block that reads it by ``torch.load(weights_only=True)``; what torch says becomes a line.

    Refused are files that torch did not write, those of which it would read more than tensors, and those in which a
    part has not the checksum that torch left with it (it does not look at that itself; files of torch before 1.6 have
    none). The check reads the file once more, at some 0.7 GB a second.

    Args:
        path: a file that may come from anybody.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file.
    """
    refuse_code(path)
    try:
        _check_sums(path)
        yield
    except pickle.UnpicklingError as error:
        # torch's own words are ten lines that advise to read the file with weights_only=False.
        held = re.search(r"GLOBAL (?P<name>\S+)|<class '(?P<kind>[^']+)'>", str(error))
        told = f" (it holds {held['name'] or held['kind']})" if held else ""
        raise ValueError(
            f"{path} is no checkpoint, or holds more than tensors, numbers and text; reading that could run code from "
            f"the file, so it is refused{told}. Save model.state_dict(), not the model, where it was made"
        ) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # on damaged files torch raises half a dozen unrelated types
        reason = str(error).partition("\n")[0] if isinstance(error, (RuntimeError, zipfile.BadZipFile)) else ""
        raise ValueError(f"{path} cannot be read; it may be damaged: {reason or type(error).__name__}") from error


def refuse_code(path: str | os.PathLike) -> None:
    """Refuse files that torch did not write, and those of which it reads more than tensors, ``weights_only`` or not.

    torch 2.4 and 2.5 hand a TorchScript archive to ``torch.jit.load``, which runs its code (CVE-2025-32434), and read
    the tar files of torch 0.1, whose members may be links to any file. Later versions refuse both by themselves.

    Args:
        path: a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is one of these.
    """
    with open(path, "rb") as file:
        head = file.read(24)
    if head.startswith(_ZIP):
        try:
            # torch's own reader, as torch.load asks it: another could find other members in a file made for that.
            members = torch._C.PyTorchFileReader(os.fspath(path)).get_all_records()
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be read; it may be damaged: {str(error).partition('. ')[0]}") from error
        if "constants.pkl" in members:
            raise ValueError(
                f"{path} is a TorchScript archive, which holds code that could run; allowed are files of tensors: "
                "torch.save(model.state_dict(), ...)"
            )
    elif tarfile.is_tarfile(path):
        raise ValueError(
            f"{path} is a tar file, as torch 0.1 wrote them; save it anew with a later torch, where it was made"
        )
    elif not head.startswith(_PICKLE):
        raise ValueError(f"{path} is no checkpoint: " + (f"it begins with {head!r}" if head else "it is empty"))


def _check_sums(path: str | os.PathLike) -> None:
    if not zipfile.is_zipfile(path):  # of torch before 1.6
        return
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.CRC:  # 0: written with torch.serialization.set_crc32_options(False)
                with archive.open(part) as content:
                    while content.read(2**20):
                        pass


def misfits(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> str:
    """Say in what tensors do not fit a network; empty if every name and shape does.

    Args:
        own: the network's.
        given: those of a file, under the network's names.

    Example:
        >>> misfits({"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.ones(3), "c": torch.ones(2)})
        'it lacks b; it has besides c; it has in another shape a (3,) for (2,)'
    """
    faults = {
        "lacks": [name for name in own if name not in given],
        "has besides": [name for name in given if name not in own],
        "has in another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    }
    return "; ".join(f"it {kind} {_shortened(names)}" for kind, names in faults.items() if names)


def _shortened(names: list[str], shown: int = 4) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def require_finite(state: Any, source: str | os.PathLike, then: str = "") -> None:
    """Refuse what was read from a file, or learned, if NaN or infinity is in it.

    Args:
        state: see :func:`not_finite`.
        source: the file, or what it is.
        then: what to do about it.

    Raises:
        ValueError: naming the source and the first tensors.
    """
    bad = not_finite(state)
    if bad:
        raise ValueError(f"{source} holds NaN or infinity, in {_shortened(bad)}: its training had failed{then}")


def not_finite(state: Any) -> list[str]:
    """Return the names of the tensors in which NaN or infinity is found.

    Args:
        state: a tensor, or dictionaries and lists that hold some, nested as they may be.

    Example:
        >>> not_finite({"weight": torch.ones(2), "state": [{"exp_avg": torch.tensor([1.0, torch.nan])}]})
        ['state.0.exp_avg']
    """
    return [name for name, tensor in _floating("", state) if not tensor.isfinite().all()]


def _floating(name: str, state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(state, torch.Tensor):
        if state.is_floating_point():
            yield name, state
    elif isinstance(state, (Mapping, list, tuple)):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from _floating(f"{name}.{key}" if name else str(key), value)
