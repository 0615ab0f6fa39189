"""Fetching published files: a cut connection is taken up where it broke, and what arrives is what was published."""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gdown

from torchreid_xres.data.catalogue import SHIPPED, Offer
from torchreid_xres.data.protocol import file_sha256
from torchreid_xres.data.unpack import BLOCK, unpack
from torchreid_xres.files import FULL, whole_file
from torchreid_xres.lock import alone
from torchreid_xres.terminal import progress

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
DRIVE = re.compile(r"https://drive\.google\.com/")


class DownloadError(RuntimeError):
    """A file could not be fetched, or is not what was published; the message says which and why."""


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
    with alone(path, "being fetched"):
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
