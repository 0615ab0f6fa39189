"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SCRATCH = re.compile(r"\..+\.\d+")


@contextmanager
def whole_file(path: str | os.PathLike, needed: int = 0) -> Iterator[Path]:
    """Give a scratch path beside ``path`` that takes its place when the block ends well, and is removed when not.

    Args:
        path: file to write; its folder is made.
        needed: bytes that it will have, at least; told if the disk is too full for it.

    Raises:
        OSError: naming the file, if the disk is full; what was there before is as it was.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        os.replace(scratch, path)
    except Exception as error:
        full = _full_disk(error)
        if full is None:
            raise
        need = f"; it needs {_mebibytes(needed)}" if needed else ""
        raise OSError(
            full.errno,
            f"{path} cannot be written: {full.strerror} ({_mebibytes(_free(path))} free there{need}). "
            "What it held before is as it was; make room and start again",
        ) from error
    finally:
        with suppress(OSError):  # a folder that cannot be written to: the reason is on its way
            scratch.unlink(missing_ok=True)


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write UTF-8 text, whole or not at all; the folder is made. What is no text (parts of some names) is escaped."""
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def require_other_file(path: Path, read: Iterable[str | os.PathLike], flag: str) -> None:
    """Make sure that a file to be written takes the place of none that is read.

    Args:
        path: to be written.
        read: files, and folders with all that is in and below them.
        flag: by which the user named the path.

    Raises:
        ValueError: naming both.
    """
    if not path.exists():
        return
    real = path.resolve()
    for given in map(Path, read):
        if given.resolve() in (real, *real.parents):
            where = f"lies in {given}, from which files are read" if given.is_dir() else "is read"
            raise ValueError(f"{flag} {path} is there already and {where}: name another file")


def write_json(content: Any, path: str | os.PathLike) -> None:
    """Write JSON so that a kill leaves the old file or the new one; the folder is made."""
    write_text(json.dumps(content, indent=1), path)


def require_writable(folder: Path) -> None:
    """Make a folder, if it is not there, and make sure that files can be written into it.

    Raises:
        OSError: naming the folder and the reason, if not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"{folder} cannot be written to: {error.strerror}") from error


def require_regular(path: str | os.PathLike) -> None:
    """Refuse a path under which there is something, but no file with a content: reading a pipe may wait for ever.

    Raises:
        OSError: naming the path, if it is a folder, a pipe, a device, or a link to nothing.

    Example:
        >>> require_regular(os.devnull)
        Traceback (most recent call last):
            ...
        OSError: /dev/null is a device, not a file
    """
    if not os.path.lexists(path):
        return
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(path)} is a link to nothing, not a file") from None
    if not stat.S_ISREG(mode):
        kind = next((kind for is_such, kind in kinds.items() if is_such(mode)), "device")
        raise OSError(f"{os.fspath(path)} is a {kind}, not a file")


def require_place(file: Path) -> None:
    """Make sure that a file can be written at a path, before the work that makes it; its folder is made.

    Raises:
        OSError: naming the path and the reason, if not.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{file} is a folder; name a file")
    require_writable(file.parent)


def remove_scratch(folder: Path) -> None:
    """Remove what killed processes left of :func:`whole_file` in a folder that is in nobody's use."""
    for path in [path for path in folder.rglob(".*") if _SCRATCH.fullmatch(path.name) and path.is_file()]:
        path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder, perhaps yet to be made, for what can be found out again; ``XDG_CACHE_HOME`` says where."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "torchreid_xres"


def _full_disk(error: BaseException | None) -> OSError | None:
    """Return the full disk behind an error: torch, for one, turns it into a RuntimeError that does not mention it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def _free(path: Path) -> int:
    there = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    return shutil.disk_usage(there).free


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def shown_path(path: str | Path) -> str:
    """Return a path as it is shown to others: below the working folder from there on, below the user's own from ``~``.

    Example:
        >>> shown_path("log/run"), shown_path(Path.cwd() / "log" / "run"), shown_path(Path.home() / "kept")
        ('log/run', 'log/run', '~/kept')
    """
    path = Path(path)
    for base, sign in ((Path.cwd(), ""), (Path.home(), "~")):
        if path.is_relative_to(base):
            return Path(sign, path.relative_to(base)).as_posix()
    return str(path)
