"""One process, or one group of processes, in a folder at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchreid_xres.devices import distributed
from torchreid_xres.lock import InUseError, give_back, take

__all__ = ["LOCK", "InUseError", "sole_use"]

LOCK = "in-use.lock"


@contextmanager
def sole_use(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of a folder for the length of a block; those that torchrun started share one lock.

    Args:
        folder: made if it is not there. While it is in use it holds ``in-use.lock``, which says by whom.

    Raises:
        InUseError: if it is in use, here or by another process; the message says by which.
        OSError: if the folder cannot be made or written to.

    Example:
        >>> import os, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with sole_use(folder):
        ...     os.listdir(folder)
        ['in-use.lock']
        >>> os.listdir(folder)
        []
    """
    path, remedy = Path(folder) / LOCK, "wait until that has ended, or name another folder"
    file = distributed.on_main(lambda: take(path, f"{path.parent} is in use", remedy))
    try:
        yield
    finally:
        if distributed.is_main():
            give_back(path, file)
