"""One process, or one group of processes, in a folder at a time."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torchreid_xres.engine import distributed
from torchreid_xres.files import require_writable

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are the user's to avoid
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = "in-use.lock"
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)

_held: set[int] = set()


class InUseError(OSError):
    """Another process works in the folder."""


@contextmanager
def sole_use(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of a folder for the length of a block.

    The system gives the lock back when its process ends, by whatever means; what a killed one leaves of the file does
    not count. Processes that torchrun started share one lock. Where the disk knows no locks, a warning says so.

    Args:
        folder: made if it is not there. While it is in use it holds ``in-use.lock``, which says by whom.

    Raises:
        InUseError: if it is in use, here or by another process; the message says by which.
        OSError: if the folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with sole_use(folder):
        ...     os.listdir(folder)
        ['in-use.lock']
        >>> os.listdir(folder)
        []
    """
    path = Path(folder) / LOCK
    file = distributed.on_main(lambda: _take(path))
    try:
        yield
    finally:
        if distributed.is_main():
            _give_back(path, file)


def _take(path: Path) -> int:
    require_writable(path.parent)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _locked(file, path) and _is_at(file, path):
            break
        os.close(file)  # the one before removed it in the meantime
    _held.add(file)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
    except OSError as error:
        _give_back(path, file)
        raise OSError(error.errno, f"{path.parent} cannot be written to: {error.strerror}") from error
    return file


def _locked(file: int, path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            by = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise InUseError(
                error.errno, f"{path.parent} is in use by {by}; wait until that has ended, or name another folder"
            ) from None
        logger.warning("%s cannot be kept from other processes: %s", path.parent, error.strerror)
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _give_back(path: Path, file: int) -> None:
    _held.discard(file)
    if fcntl is None:
        os.close(file)  # Windows removes no open file, and another process may have it open
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        return
    if _is_at(file, path):
        path.unlink(missing_ok=True)  # before the lock goes: whoever comes next makes a new one
    os.close(file)


def _forget() -> None:
    """Let go of the locks in a forked child, a loader's worker, which may outlive the process that has them."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
