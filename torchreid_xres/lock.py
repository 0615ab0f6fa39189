"""Files that keep other processes out for as long as their process lives."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from torchreid_xres.files import require_writable

try:
    import fcntl
except ImportError:  # Windows: two processes at one thing are the user's to avoid
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_BUSY = (errno.EWOULDBLOCK, errno.EACCES)

_held: set[int] = set()


class InUseError(OSError):
    """Another process has the lock."""


@contextmanager
def locked(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold a lock for the length of a block; :func:`take` says more."""
    file = take(path, what, remedy)
    try:
        yield
    finally:
        give_back(path, file)


def take(path: Path, what: str, remedy: str) -> int:
    """Take a lock, which is a file that says by whom it is held.

    The system gives the lock back when its process ends, by whatever means; what a killed one leaves of the file does
    not count. Where the disk knows no locks, a warning says so.

    Args:
        path: the lock's file; its folder is made.
        what: is done under it, such as ``log is in use``.
        remedy: what to do where another process holds it.

    Returns:
        What :func:`give_back` takes.

    Raises:
        InUseError: if it is held, here or by another process; the message says by which.
        OSError: if the folder cannot be made or written to.
    """
    require_writable(path.parent)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _locked(file, what, remedy) and _is_at(file, path):
            break
        os.close(file)  # the one before removed it in the meantime
    _held.add(file)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
    except OSError as error:
        give_back(path, file)
        raise OSError(error.errno, f"{path.parent} cannot be written to: {error.strerror}") from error
    return file


def _locked(file: int, what: str, remedy: str) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            by = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise InUseError(error.errno, f"{what} by {by}; {remedy}") from None
        logger.warning("%s, and cannot be kept from other processes: %s", what, error.strerror)
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def give_back(path: Path, file: int) -> None:
    """Give a lock back and remove its file."""
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


def alone(path: Path, what: str) -> AbstractContextManager[None]:
    """Keep other processes from making a file or folder for the length of a block."""
    return locked(path.with_name(f".{path.name}.lock"), f"{path} is {what}", "wait until that has ended")
