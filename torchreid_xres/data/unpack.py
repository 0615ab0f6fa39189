"""Unpacking archives that may be damaged, or made to do harm."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import math
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from torchreid_xres.files import FULL, require_regular
from torchreid_xres.lock import alone

BLOCK = 2**20
# Of an unpacked archive; the largest set of ours takes less than a tenth of it.
LARGEST = 100 * 2**30
MOST = 5_000_000  # files in it
_HEADERS = 2**17  # bytes before a member of a tar archive
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# What names can bring about that no file can have, or two files cannot have together.
_BY_NAMES = (None, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class ArchiveError(ValueError):
    """An archive is damaged, or unpacks to what it must not."""


def unpack(archive: str | Path, folder: str | Path, limit: int = LARGEST, strip: bool = True) -> None:
    """Unpack a zip or tar archive into a new folder, which appears when it is complete.

    Only plain files and folders are taken: a link, a device, or a name that leads out of the folder makes the whole
    archive unsafe.

    Args:
        archive: .zip, or .tar, bare or compressed.
        folder: must not be there.
        limit: the most bytes it may unpack to.
        strip: where all of the archive is in one folder, ``folder`` becomes that one.

    Raises:
        FileExistsError: if the folder is there.
        ArchiveError: if the archive is unsafe, too large, damaged, or no archive.
        OSError: if the disk has no room for it, or another process unpacks into the folder.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; remove it to unpack {archive.name} anew")
    require_regular(archive)
    with alone(folder, "being unpacked"), _naming(archive):
        scratch = folder.with_name(f".{folder.name}.unpacking")
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        try:
            scratch.mkdir()
            _extract(archive, scratch, min(limit, shutil.disk_usage(folder.parent).free))
            inside = list(scratch.iterdir())
            content = inside[0] if strip and len(inside) == 1 and inside[0].is_dir() else scratch
            os.replace(content, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _extract(archive: Path, folder: Path, limit: int) -> None:
    total = 0
    for number, (name, size, file) in enumerate(_members(archive), start=1):
        target = folder / _safe(archive, name)
        total += size
        if number > MOST or total > limit:
            told = f"to more than {limit:,} bytes" if total > limit else f"to more than {MOST:,} files"
            raise ArchiveError(f"{archive} unpacks {told}, the most that is allowed or free")
        if file is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with file, open(target, "wb") as copy:
            shutil.copyfileobj(file, copy, BLOCK)


@contextmanager
def _naming(archive: Path) -> Iterator[None]:
    """Let what an archive's content brings about, which may be any exception, name the archive."""
    try:
        yield
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno in FULL:
            reason = f"no room to unpack {archive}, what had come of it was removed"
            raise OSError(fault.errno, f"{reason} ({fault.strerror}); make room and start again") from fault
        if isinstance(fault, ArchiveError) or (isinstance(fault, OSError) and fault.errno not in _BY_NAMES):
            raise
        raise ArchiveError(f"{archive} cannot be unpacked: {' '.join(str(fault).split())}") from fault


def _safe(archive: Path, name: str) -> PurePosixPath:
    inside, elsewhere = PurePosixPath(name), PureWindowsPath(name)
    if inside.is_absolute() or elsewhere.drive or elsewhere.root or ".." in (*inside.parts, *elsewhere.parts):
        raise ArchiveError(f"{archive} is unsafe: its member {name!r} leads out of the folder")
    return inside


def _plain(archive: Path, name: str, plain: bool) -> None:
    if not plain:
        raise ArchiveError(f"{archive} is unsafe: its member {name!r} is neither a file nor a folder")


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield each member's name, size and content; None for a folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                _plain(archive, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                yield info.filename, info.file_size, None if info.is_dir() else packed.open(info)
    else:
        with archive.open("rb") as file:
            head = file.read(6)
        unpacked = next((opener for start, opener in _COMPRESSED.items() if head.startswith(start)), open)
        with unpacked(archive, "rb") as file:
            stream = _Stream(file)
            with tarfile.open(fileobj=stream, mode="r:") as packed:
                while member := packed.next():
                    packed.members.clear()  # it would keep them all
                    _plain(archive, member.name, (member.isreg() or member.isdir()) and member.size >= 0)
                    stream.left = math.inf
                    yield member.name, member.size, packed.extractfile(member)
                    stream.left = _HEADERS
            if stream.last.strip(b"\0") or not stream.last:  # tarfile takes what is no header for the end
                raise ArchiveError(f"{archive} is cut, or damaged in the middle")
            # A compressed stream is checked at its end, which lies behind that of the last member.
            while file.read(BLOCK):
                pass


class _Stream:
    """An archive's bytes, of which no more than ``left`` are read: tarfile takes headers of any length into memory.

    ``last`` are those of the last call.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.left, self.last = file, _HEADERS, b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise ValueError(f"a header takes more than {_HEADERS:,} bytes")
        self.last = self._file.read(size)
        return self.last
