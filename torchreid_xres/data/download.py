"""Fetching published files: a cut connection is taken up where it broke, and what arrives is what was published."""

from __future__ import annotations

import bz2
import errno
import gzip
import http.client
import json
import logging
import lzma
import math
import os
import re
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

import gdown

from torchreid_xres.data.catalogue import SHIPPED, Offer
from torchreid_xres.data.protocol import file_sha256
from torchreid_xres.files import FULL, require_regular, whole_file
from torchreid_xres.lock import locked
from torchreid_xres.terminal import progress

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
BLOCK = 2**20
DRIVE = re.compile(r"https://drive\.google\.com/")
# Of an unpacked archive; the largest set of ours takes less than a tenth of it.
LARGEST = 100 * 2**30
MOST = 5_000_000  # files in it
_HEADERS = 2**17  # bytes before a member of a tar archive
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# What names can bring about that no file can have, or two files cannot have together.
_BY_NAMES = (None, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class DownloadError(RuntimeError):
    """A file could not be fetched, or is not what was published; the message says which and why."""


class ArchiveError(ValueError):
    """An archive is damaged, or unpacks to what it must not."""


@dataclass(frozen=True)
class Fetched:
    """A file that is there and checked.

    Attributes:
        path: the file.
        sha256: its checksum.
        how: ``published`` (the offer states it), ``recorded`` (an earlier fetch noted it) or ``first use`` (noted now).
        new: it was fetched now.
    """

    path: Path
    sha256: str
    how: str
    new: bool


def fetch(offer: Offer, folder: str | Path) -> Fetched:
    """Fetch a file into a folder, unless it is there already; either way check it.

    Where no checksum is published, the first one found is noted in the folder's ``SHA256SUMS`` (the format of
    ``sha256sum -c``), and later fetches are held to it. A download that was cut goes on at the next call if the server
    can say that its file is still the same; one of the wrong content is removed.

    Args:
        offer: what to fetch.
        folder: made if it is not there.

    Raises:
        DownloadError: if the server refuses or cannot be reached, the connection breaks repeatedly, or the content is
            not what was published, or recorded, before.
        OSError: if the disk is full, the folder cannot be written, or another process fetches the file.
    """
    folder = Path(folder).expanduser()
    path = folder / offer.file
    if path.is_file():
        return _checked(offer, path)
    with _alone(path, "being fetched"):
        return _checked(offer, path)


def _checked(offer: Offer, path: Path) -> Fetched:
    folder, part = path.parent, path.with_name(f".{offer.file}.part")
    recorded = _read_sums(folder).get(offer.file, "")
    new = not path.is_file()
    if new:
        with _room_left(part):
            _receiver(offer.url)(offer.url, part)
    sha256 = file_sha256(part if new else path)
    by_record = f"as {folder / SUMS} has it from the first fetch (remove that line to accept another file)"
    for stated, by in ((offer.sha256, "as published"), (recorded, by_record)):
        if not sha256.startswith(stated):
            if new:
                part.unlink()
            done = f"{offer.url} sent a file" if new else f"{path} is a file"
            remedy = "it was removed" if new else "remove it to fetch it again"
            raise DownloadError(f"{done} with the SHA-256 {sha256}, not {stated}, {by}; {remedy}")
    if new:
        os.replace(part, path)
    if not recorded:
        _record(folder, offer.file, sha256)
    return Fetched(path, sha256, "published" if offer.sha256 else "recorded" if recorded else "first use", new)


def _alone(path: Path, what: str) -> AbstractContextManager[None]:
    """Keep other processes from making a file or folder for the length of a block."""
    return locked(path.with_name(f".{path.name}.lock"), f"{path} is {what}", "wait until that has ended")


def fetch_set(offer: Offer, root: str | Path) -> Path:
    """Fetch the archive of a set and unpack it below the root of the sets; the archive stays beside it.

    Args:
        offer: one with a ``folder``.
        root: folder that holds the sets.

    Returns:
        The set's folder; one that is there already is left as it is.

    Raises:
        DownloadError: as :func:`fetch` does.
        ArchiveError: if the archive is damaged or unsafe.
        OSError: if the disk is full, or the folder cannot be written.
    """
    target = Path(root).expanduser() / offer.folder
    if not target.is_dir():
        unpack(fetch(offer, root).path, target)
    return target


# -- receiving -------------------------------------------------------------------------------------------------


@contextmanager
def _room_left(part: Path) -> Iterator[None]:
    """Leave nothing of a file on a disk that has no room for it."""
    try:
        yield
    except OSError as fault:
        if fault.errno in FULL:
            for left in part.parent.glob(f"{part.name}*"):
                left.unlink(missing_ok=True)
            reason = f"no room for {part.name[1:].removesuffix('.part')}, what had come of it was removed"
            raise OSError(fault.errno, f"{reason} ({fault.strerror}); make room and start again") from fault
        raise


def _receiver(url: str) -> Callable[[str, Path], None]:
    if url.startswith(SHIPPED):
        return _copy_shipped
    return _fetch_drive if DRIVE.match(url) else _fetch_http


def _copy_shipped(url: str, part: Path) -> None:
    """Put a file of this package where fetched ones are, so that it is found like these wherever the package goes."""
    shutil.copyfile(Path(__file__).with_name("shipped") / url.removeprefix(SHIPPED), part)


class _CutError(Exception):
    """The connection ended before the file did."""


def _fetch_http(url: str, part: Path, attempts: int = 4, pause: float = 1.0) -> None:
    """Receive a file into ``part``, going on after a cut; what a previous call left is taken up if it still fits."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            return _receive(url, part)
        except _CutError as cut:
            logger.info("%s: %s", url, cut)
            reason = str(cut)
    raise DownloadError(f"{url}: {reason}, {attempts} times; the same command goes on from there")


def _receive(url: str, part: Path) -> None:
    note = part.with_name(f"{part.name}.json")  # whose bytes the part has
    known = _read_note(note, url) if part.is_file() else ""
    start = part.stat().st_size if known else 0
    headers = {"User-Agent": "torchreid_xres", "Accept-Encoding": "identity"}
    if start:
        # If the file has changed since, the server sends the whole of the new one.
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as fault:
        with fault:
            if fault.code == 416 and start and fault.headers.get("Content-Range") == f"bytes */{start}":
                note.unlink()
                return  # it was whole
            if fault.code == 416 and start:
                part.unlink()
                raise _CutError("the server's file is shorter than what had come of it") from fault
            raise DownloadError(f"{url}: the server answers {fault.code} {fault.reason}") from fault
    except urllib.error.URLError as fault:
        raise DownloadError(f"{url} cannot be reached: {fault.reason}") from fault
    except (TimeoutError, ConnectionError, http.client.HTTPException) as fault:
        raise _CutError(f"the connection broke ({fault or type(fault).__name__})") from fault
    with response:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(f"{url} is a web page now, not a file; it may have moved, or ask for a login")
        if response.status == 206:
            span = re.fullmatch(rf"bytes {start}-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if span is None:
                raise DownloadError(f"{url}: the server sends another part of the file than it was asked for")
            total = int(span[1])
        else:
            start, total = 0, response.length
            part.unlink(missing_ok=True)  # or, stopped here, the note would be of other bytes than the part's
            _write_note(note, url, response.headers)
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise OSError(errno.ENOSPC, f"{total - start:,} bytes are to come and {free:,} are free")
        size = _copy(response, part, start, total)
    if total is not None and size != total:
        raise _CutError(f"the connection broke after {size:,} of {total:,} bytes")
    note.unlink(missing_ok=True)


def _copy(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> int:
    bar = progress(
        total=total, initial=start, desc=part.name[1:].removesuffix(".part"), unit="B", unit_scale=True,
        unit_divisor=1024,
    )  # fmt: skip
    with open(part, "ab" if start else "wb") as file, bar:
        size = start
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, http.client.HTTPException) as fault:
                file.write(getattr(fault, "partial", b""))
                reason = str(fault) or type(fault).__name__
                raise _CutError(f"the connection broke after {size:,} bytes ({reason})") from fault
            if not block:
                return size
            file.write(block)
            size += len(block)
            bar.update(len(block))


def _read_note(note: Path, url: str) -> str:
    """Return what names the content that a part was begun with; empty if nothing does."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        return content["validator"] if content["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_note(note: Path, url: str, headers: http.client.HTTPMessage) -> None:
    tag = headers.get("ETag", "")
    # A weak tag does not say that the bytes are the same.
    validator = headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    with whole_file(note) as scratch:
        scratch.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _fetch_drive(url: str, part: Path) -> None:
    """Receive a file of Google Drive, which asks questions before it sends a large one; gdown answers them."""
    try:
        done = gdown.download(url, str(part), quiet=not sys.stderr.isatty(), resume=True)
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno in FULL:
            raise
        reason = " ".join(str(fault).split())
        raise DownloadError(f"{url}: Google Drive does not give the file ({type(fault).__name__}: {reason})") from fault
    if done is None or not part.is_file():  # gdown before version 5 returns nothing instead of raising
        raise DownloadError(f"{url}: Google Drive does not give the file; it may limit how often it is fetched")


# -- checksums -------------------------------------------------------------------------------------------------


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    lines = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in text.splitlines())
    return {line[2]: line[1] for line in lines if line}


def _record(folder: Path, file: str, sha256: str) -> None:
    # Added at the end, so that of two processes neither loses the other's line.
    with open(folder / SUMS, "a+b") as sums:
        cut = sums.tell() and sums.seek(-1, os.SEEK_END) >= 0 and sums.read() != b"\n"
        sums.write(f"{chr(10) * bool(cut)}{sha256}  {file}\n".encode())


# -- archives --------------------------------------------------------------------------------------------------


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
    with _alone(folder, "being unpacked"), _naming(archive):
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
