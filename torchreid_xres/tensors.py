"""Files of tensors, read without running code that they may hold."""

from __future__ import annotations

import os
import pickle
import tarfile
from typing import Any

import torch


def read_tensors(path: str | os.PathLike, map_location: str | None = "cpu", **pickle_options: str) -> Any:
    """Read a file of ``torch.save`` that holds tensors, numbers, text, and lists and dictionaries of them.

    Args:
        path: a file that may come from anybody.
        map_location: device to put the tensors on; None: the one each was saved from.
        pickle_options: such as ``encoding``, as ``torch.load`` takes them.

    Returns:
        What was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        pickle.UnpicklingError: if it holds, or may hold, more than that.
        Exception: of half a dozen unrelated types, torch's own, if the file is damaged.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "state.pth")
        >>> torch.save({"epoch": 3}, path)
        >>> read_tensors(path)
        {'epoch': 3}
    """
    refuse_code(path)
    return torch.load(path, map_location=map_location, weights_only=True, **pickle_options)


def refuse_code(path: str | os.PathLike) -> None:
    """Refuse the files of which ``torch.load(weights_only=True)`` reads more than tensors.

    torch 2.4 and 2.5 hand a TorchScript archive to ``torch.jit.load``, which runs its code (CVE-2025-32434), and read
    the tar files of torch 0.1, whose members may be links to any file. Later versions refuse both by themselves.

    Args:
        path: a file.

    Raises:
        FileNotFoundError: if there is no such file.
        pickle.UnpicklingError: naming the file, if it is one of these.
        RuntimeError: if it begins like a zip file and is none.
    """
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    # torch's own reader, as torch.load asks it: another could find other members in a file that is made for that.
    if zipped and "constants.pkl" in torch._C.PyTorchFileReader(os.fspath(path)).get_all_records():
        raise pickle.UnpicklingError(
            f"{path} is a TorchScript archive, which holds code that could run; allowed are files of tensors: "
            "torch.save(model.state_dict(), ...)"
        )
    if not zipped and tarfile.is_tarfile(path):
        raise pickle.UnpicklingError(
            f"{path} is a tar file, as torch 0.1 wrote them; save it anew with a later torch, where it was made"
        )
