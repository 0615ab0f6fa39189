"""Archives that become a folder, and those that must not."""

import bz2
import copy
import errno
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest

from torchreid_xres.data import unpack as module
from torchreid_xres.data.unpack import ArchiveError, unpack
from torchreid_xres.lock import InUseError


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tgz", "set.tar.xz"])
def test_an_archive_becomes_a_folder(tmp_path, name):
    members = {"VIPeR/cam_a/000_45.bmp": b"one", "VIPeR/cam_b/000_90.bmp": b"two"}
    modes = {"set.tar": "w", "set.tgz": "w:gz", "set.tar.xz": "w:xz"}
    path = tmp_path / name
    zipped(path, members) if name.endswith("zip") else tarred(path, members, modes[name])
    unpack(path, tmp_path / "sets" / "viper")
    assert (tmp_path / "sets" / "viper" / "cam_b" / "000_90.bmp").read_bytes() == b"two"
    assert files(tmp_path / "sets") == ["viper"]
    with pytest.raises(FileExistsError, match="is there already"):
        unpack(path, tmp_path / "sets" / "viper")


def test_an_archive_without_a_folder_of_its_own_gets_one(tmp_path):
    unpack(zipped(tmp_path / "set.zip", {"a.txt": b"1", "b/c.txt": b"2"}), tmp_path / "set")
    assert files(tmp_path / "set") == ["a.txt", "b"]


NAMES = ["../out.txt", "/out.txt", "a/../../out.txt", "C:/out.txt", "..\\out.txt", "\\out.txt"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_that_lead_out_are_refused(tmp_path, pack, name):
    path = pack(tmp_path / "archive", {"fine.txt": b"1", name: b"2"})
    with pytest.raises(ValueError, match="leads out of the folder"):
        unpack(path, tmp_path / "in" / "set")
    assert files(tmp_path / "in") == []
    assert files(tmp_path) == ["archive", "in"]


@pytest.mark.parametrize(
    "member",
    [
        link("etc", "/etc"),
        link("up", "../.."),
        link("passwd", "/etc/passwd", tarfile.LNKTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
        link("disk", "", tarfile.BLKTYPE),
    ],
    ids=lambda member: member.name,
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, member):
    path = tarred(tmp_path / "set.tar.gz", {"fine.txt": b"1", member.name: member})
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        unpack(path, tmp_path / "in" / "set")
    assert files(tmp_path / "in") == []


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        unpack(tmp_path / "set.zip", tmp_path / "set")
    assert files(tmp_path) == ["set.zip"]


def header(kind, size, name="x", more=b""):
    """A tar header as no writer makes it, and what follows."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT) + more


def pax(**values):
    """A header that changes what the next one says."""
    lines = b""
    for key, value in values.items():
        body = f" {key}={value}\n".encode()
        length = len(body) + 1
        length = len(str(length + len(str(length)) - 1)) + len(body)
        lines += str(length).encode() + body
    return header(tarfile.XHDTYPE, len(lines), more=lines.ljust(512, b"\0"))


END = bytes(1024)
FILE = header(tarfile.REGTYPE, 3, "a.txt", b"abc".ljust(512, b"\0"))
HUGE = 5 * 2**30
RAW = {
    "pax header of 5 GB": header(tarfile.XHDTYPE, HUGE),
    "global pax header of 5 GB": header(tarfile.XGLTYPE, HUGE),
    "long name of 5 GB": header(tarfile.GNUTYPE_LONGNAME, HUGE),
    "long link of 5 GB": header(tarfile.GNUTYPE_LONGLINK, HUGE),
    "behind a file": FILE + header(tarfile.XHDTYPE, HUGE),
    "many pax headers": pax(comment="x" * 100) * 1500 + FILE + END,
    "file of 5 GB that is not there": header(tarfile.REGTYPE, 2**32, "a.txt"),
    "negative size": header(tarfile.REGTYPE, -512, "a.txt") + FILE + END,
    "negative size in pax": pax(size=-1024) + FILE + END,
    "size that is no number": pax(size="many") + FILE + END,
    "sparse map of any length": pax(**{"GNU.sparse.major": 1, "GNU.sparse.minor": 0}) + header(
        tarfile.REGTYPE, 2**18, "a.txt", b"90000\n" + b"0\n" * 2**17) + END,
    "sparse map that is cut": pax(**{"GNU.sparse.major": 1, "GNU.sparse.minor": 0}) + FILE + END,
    "name out of the folder in pax": pax(path="../a.txt") + FILE + END,
    "absolute name in pax": pax(path="/a.txt") + FILE + END,
    "name with a zero": pax(path="a\0b") + FILE + END,
    "name too long": pax(path="a" * 300) + FILE + END,
    "file below a file": FILE + header(tarfile.REGTYPE, 0, "a.txt/b") + END,
    "folder in a file's place": FILE + header(tarfile.DIRTYPE, 0, "a.txt") + END,
    "no name": header(tarfile.REGTYPE, 0, "") + END,
    "cut header": FILE + header(tarfile.REGTYPE, 0)[:300],
    "wrong checksum": FILE + header(tarfile.REGTYPE, 0).replace(b"x", b"y", 1),
    "nothing": b"",
    "text": b"hello" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["tar", "gz", "bz2", "xz"])
@pytest.mark.parametrize("kind", RAW)
def test_hostile_tars_are_refused_in_one_line_before_they_take_memory(tmp_path, kind, packed):
    path = tmp_path / "set.tar"
    path.write_bytes(packed(RAW[kind]))
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArchiveError) as caught:
        unpack(path, tmp_path / "in" / "set", limit=2**31)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert files(tmp_path / "in") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("spoil", ["flip", "cut", "fill"])
def test_any_damage_is_refused_in_one_line_or_was_of_no_account(tmp_path, pack, spoil):
    members = {f"{i}.bin": np.random.default_rng(i).bytes(300) for i in range(3)}
    whole, rng = pack(tmp_path / "set", members).read_bytes(), np.random.default_rng(1)
    for place in rng.integers(0, len(whole), 40):
        data = bytearray(whole)
        if spoil == "flip":
            data[place] ^= 1 << rng.integers(8)
        elif spoil == "cut":
            del data[place:]
        else:
            data[place : place + 8] = b"\xff" * 8
        (tmp_path / "set").write_bytes(data)
        try:
            unpack(tmp_path / "set", tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
        except ValueError as fault:
            assert str(tmp_path / "set") in str(fault) and "\n" not in str(fault)
        assert files(tmp_path) == ["set"]


def test_any_number_of_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 5)
    for pack in (zipped, tarred):
        path = pack(tmp_path / "set", {f"{i}.bin": b"" for i in range(6)})
        with pytest.raises(ArchiveError, match="more than 5 files"):
            unpack(path, tmp_path / "out")
    unpack(zipped(tmp_path / "set", {f"{i}.bin": b"" for i in range(5)}), tmp_path / "out")


def test_a_zip_of_one_content_many_times_is_refused(tmp_path):
    """All entries of the table point at one member."""
    with zipfile.ZipFile(zipped(tmp_path / "set.zip", {"0.bin": bytes(10_000_000)}), "a") as archive:
        for number in range(1, 100):
            info = copy.copy(archive.infolist()[0])
            info.filename = f"{number}.bin"
            archive.filelist.append(info)
        archive._didModify = True
    with pytest.raises(ArchiveError, match=r"more than 100,000,000 bytes|cannot be unpacked"):
        unpack(tmp_path / "set.zip", tmp_path / "out", limit=100_000_000)
    assert files(tmp_path) == ["set.zip"]


def test_a_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "set.tar")
    with pytest.raises(OSError, match=r"set\.tar is a pipe, not a file"):
        unpack(tmp_path / "set.tar", tmp_path / "out")


def test_unpacking_on_a_full_disk_leaves_nothing_and_is_told(tmp_path, monkeypatch):
    def full(source, target, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = zipped(tmp_path / "set.zip", {"a.bin": b"1"})
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match=r"no room to unpack .*set\.zip, .*; make room and start again") as caught:
            unpack(path, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC and files(tmp_path) == ["set.zip"]
    unpack(path, tmp_path / "out")


def test_what_a_killed_one_unpacked_goes_when_it_is_unpacked_again(tmp_path):
    path = zipped(tmp_path / "set.zip", {"a.bin": b"1"})
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "half.bin").touch()
    (tmp_path / ".out.lock").write_text("process 1")
    unpack(path, tmp_path / "out")
    assert files(tmp_path) == ["out", "set.zip"] and files(tmp_path / "out") == ["a.bin"]


def test_an_archive_is_unpacked_by_one_process_at_a_time(tmp_path, monkeypatch):
    path, extract, told = zipped(tmp_path / "set.zip", {"a.bin": b"1"}), module._extract, []

    def meanwhile(*args):
        with pytest.raises(InUseError, match="out is being unpacked by process") as caught:
            unpack(path, tmp_path / "out")
        told.append(caught.value)
        extract(*args)

    monkeypatch.setattr(module, "_extract", meanwhile)
    unpack(path, tmp_path / "out")
    assert told and files(tmp_path / "out") == ["a.bin"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_that_grows_too_large_is_refused(tmp_path, pack):
    path = pack(tmp_path / "bomb", {f"{i}.bin": bytes(1_000_000) for i in range(5)})
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="more than 3,000,000 bytes"):
        unpack(path, tmp_path / "set", limit=3_000_000)
    assert files(tmp_path) == ["bomb"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_damaged_archive_leaves_nothing(tmp_path, pack):
    path = pack(tmp_path / "set", {f"{i}.bin": np.random.default_rng(i).bytes(30_000) for i in range(4)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(path, tmp_path / "out" / "set")
    assert files(tmp_path / "out") == []
    path.write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(path, tmp_path / "out" / "set")
