"""Fetching from a server of our own that cuts, refuses, changes and lies."""

import errno
import hashlib
import os
import re
import signal
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from torchreid_xres.data import DATASETS, datasets  # noqa: F401
from torchreid_xres.data import download as module
from torchreid_xres.data.catalogue import SHIPPED, Offer, catalogue, how_to_get
from torchreid_xres.data.download import DownloadError, fetch, fetch_set
from torchreid_xres.lock import InUseError
from torchreid_xres.sr import FRONT_ENDS

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server:
    """What the server sends, how it fails, and what it was asked."""

    def __init__(self):
        self.data, self.tag, self.kind = DATA, '"one"', "application/octet-stream"
        self.cuts = []  # for each request to come: after how many bytes the connection breaks
        self.status = 0  # instead of the file
        self.asked = []  # the Range of each request
        self.ranges = True


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append(self.headers.get("Range"))
            if state.status:
                return self.send_error(state.status)
            start, match = 0, re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if match and state.ranges and self.headers.get("If-Range") == state.tag:
                start = int(match[1])
                if start >= len(state.data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(state.data)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.data) - 1}/{len(state.data)}")
            self.send_header("Content-Type", state.kind)
            self.send_header("Content-Length", str(len(state.data) - start))
            if state.tag:
                self.send_header("ETag", state.tag)
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else len(state.data)
            self.wfile.write(state.data[start:end])

        def log_message(self, *args):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{running.server_port}/net.pth"
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield state
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


def offer(server, sha256=SHA256, **changes):
    return Offer("net", server.url, "net.pth", "a net", "none", sha256=sha256, **changes)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# -- fetching --------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_and_checked_again(server, tmp_path):
    first = fetch(offer(server), tmp_path / "weights")
    assert (first.path.read_bytes(), first.sha256, first.how, first.new) == (DATA, SHA256, "published", True)
    again = fetch(offer(server), tmp_path / "weights")
    assert not again.new and again.sha256 == SHA256
    assert len(server.asked) == 1
    assert files(tmp_path / "weights") == ["SHA256SUMS", "net.pth"]


def test_a_cut_connection_goes_on_where_it_broke(server, tmp_path):
    server.cuts = [100_000, 50_000]
    assert fetch(offer(server), tmp_path).path.read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_what_a_stopped_call_left_is_taken_up_by_the_next(server, tmp_path):
    server.cuts = [1000] * 4
    with pytest.raises(DownloadError, match=r"after 4,000 of 300,000 bytes, 4 times; the same command goes on"):
        fetch(offer(server), tmp_path)
    assert files(tmp_path) == [".net.pth.part", ".net.pth.part.json"]
    assert fetch(offer(server), tmp_path).path.read_bytes() == DATA
    assert server.asked[-1] == "bytes=4000-"


def test_a_call_stopped_after_the_last_byte_asks_for_nothing_more(server, tmp_path):
    server.cuts = [1000] * 4
    with pytest.raises(DownloadError):
        fetch(offer(server), tmp_path)
    (tmp_path / ".net.pth.part").write_bytes(DATA)
    assert fetch(offer(server), tmp_path).path.read_bytes() == DATA
    assert server.asked[-1] == "bytes=300000-"


@pytest.mark.parametrize("way", ["changed", "no ranges", "no tag", "weak tag", "another address", "longer part"])
def test_a_file_that_may_be_another_is_begun_anew(server, tmp_path, way):
    if way in ("no tag", "weak tag"):
        server.tag = "" if way == "no tag" else 'W/"one"'
    server.cuts = [1000] * 4
    with pytest.raises(DownloadError):
        fetch(offer(server), tmp_path)
    data = DATA
    if way == "changed":
        data = DATA[::-1]
        server.data, server.tag = data, '"two"'
    elif way == "no ranges":
        server.ranges = False
    elif way == "another address":
        server.url += "?other"
    elif way == "longer part":
        (tmp_path / ".net.pth.part").write_bytes(DATA + b"more")
    assert fetch(offer(server, hashlib.sha256(data).hexdigest()), tmp_path).path.read_bytes() == data


def test_a_wrong_file_is_removed_and_its_checksum_told(server, tmp_path):
    server.data = DATA[:-1] + b"?"
    with pytest.raises(DownloadError, match=f"sent a file with the SHA-256 .*, not {SHA256}, as published"):
        fetch(offer(server), tmp_path)
    assert files(tmp_path) == []


def test_the_first_digits_of_a_checksum_are_held_to(server, tmp_path):
    assert fetch(offer(server, SHA256[:8]), tmp_path / "right").how == "published"
    with pytest.raises(DownloadError, match="not 01234567, as published"):
        fetch(offer(server, "01234567"), tmp_path / "wrong")


def test_an_unknown_checksum_is_recorded_on_first_use(server, tmp_path):
    assert fetch(offer(server, ""), tmp_path).how == "first use"
    assert (tmp_path / "SHA256SUMS").read_text() == f"{SHA256}  net.pth\n"
    assert fetch(offer(server, ""), tmp_path).how == "recorded"
    (tmp_path / "net.pth").unlink()
    server.data = DATA[::-1]
    with pytest.raises(DownloadError, match="from the first fetch"):
        fetch(offer(server, ""), tmp_path)
    assert files(tmp_path) == ["SHA256SUMS"]


def test_a_spoilt_file_is_named_and_left(server, tmp_path):
    fetch(offer(server), tmp_path)
    (tmp_path / "net.pth").write_bytes(b"spoilt")
    with pytest.raises(DownloadError, match=r"net\.pth is a file with the SHA-256 .* remove it to fetch it again"):
        fetch(offer(server), tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == b"spoilt"


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_the_servers_refusal_is_told(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=rf"{server.url}: the server answers {status} \w+"):
        fetch(offer(server), tmp_path)
    assert files(tmp_path) == []
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch(Offer("net", "http://127.0.0.1:1/net.pth", "net.pth", "", ""), tmp_path)


def test_a_web_page_is_no_file(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="is a web page now"):
        fetch(offer(server, ""), tmp_path)
    assert "net.pth" not in files(tmp_path)


def test_a_disk_without_room_is_told_before_anything_comes(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(OSError, match="300,000 bytes are to come and 1,000 are free") as caught:
        fetch(offer(server), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == []


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_in_a_line_and_the_next_call_fetches_it_whole(server, tmp_path, monkeypatch, fault):
    def full(response, part, start, total):
        part.write_bytes(response.read(1000))
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_copy", full)
        told = r"no room for net\.pth, what had come of it was removed \(.*\); make room and start again"
        with pytest.raises(OSError, match=told) as caught:
            fetch(offer(server), tmp_path)
    assert caught.value.errno == fault and files(tmp_path) == []
    assert fetch(offer(server), tmp_path).path.read_bytes() == DATA


def forked(work):
    """Do something in a process of its own; return by which signal it ended, 0 for none."""
    process = os.fork()
    if not process:
        try:
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(process, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_file_that_may_not_grow_is_a_full_disk(server, tmp_path):
    """By the system's own limit."""
    resource = pytest.importorskip("resource")

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            fetch(offer(server), tmp_path / "weights")
        except OSError as fault:
            (tmp_path / "told").write_text(str(fault))

    assert forked(work) == 0
    assert "no room for net.pth, what had come of it was removed" in (tmp_path / "told").read_text()
    assert files(tmp_path / "weights") == []


# -- two at once, and killed ones ------------------------------------------------------------------------------


def test_a_file_is_fetched_by_one_process_at_a_time(server, tmp_path, monkeypatch):
    """Two that write one part both say that all is well, and one of them has damaged what the other checked."""
    refused, receive = [], module._receive

    def meanwhile(url, part):
        with pytest.raises(InUseError, match=r"net\.pth is being fetched by process \d+ .* wait until") as caught:
            fetch(offer(server), tmp_path)
        refused.append(caught.value)
        receive(url, part)

    monkeypatch.setattr(module, "_receive", meanwhile)
    server.cuts = [1000]
    assert fetch(offer(server), tmp_path).path.read_bytes() == DATA
    assert len(refused) == 2 and files(tmp_path) == ["SHA256SUMS", "net.pth"]
    assert not fetch(offer(server), tmp_path).new


def test_other_files_are_fetched_at_the_same_time_and_both_are_recorded(server, tmp_path, monkeypatch):
    receive = module._receive

    def meanwhile(url, part):
        monkeypatch.setattr(module, "_receive", receive)
        fetch(Offer("other", server.url, "other.pth", "", ""), tmp_path)
        receive(url, part)

    monkeypatch.setattr(module, "_receive", meanwhile)
    assert fetch(offer(server, ""), tmp_path).how == "first use"
    assert sorted((tmp_path / "SHA256SUMS").read_text().splitlines()) == [f"{SHA256}  net.pth", f"{SHA256}  other.pth"]


def test_a_line_of_checksums_that_was_cut_spoils_no_other(server, tmp_path):
    (tmp_path / "SHA256SUMS").write_text(f"{SHA256}  other.pth\n{SHA256[:20]}")
    fetch(offer(server, ""), tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text().splitlines()[::2] == [f"{SHA256}  other.pth", f"{SHA256}  net.pth"]
    assert fetch(offer(server, ""), tmp_path).how == "recorded"


def test_a_call_killed_before_the_first_byte_of_another_file_mixes_nothing(server, tmp_path, monkeypatch):
    server.cuts = [1000] * 4
    with pytest.raises(DownloadError):
        fetch(offer(server, ""), tmp_path)
    server.data, server.tag = DATA[::-1], '"two"'

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_copy", killed)
        fetch(offer(server, ""), tmp_path)
    assert fetch(offer(server, ""), tmp_path).path.read_bytes() == DATA[::-1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_download_goes_on(server, tmp_path, monkeypatch):
    """Kill -9 in the middle: its lock does not count, its bytes do."""

    def killed(response, part, start, total):
        part.write_bytes(response.read(5000))
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_copy", killed)
        assert forked(lambda: fetch(offer(server), tmp_path)) == signal.SIGKILL
    assert files(tmp_path) == [".net.pth.lock", ".net.pth.part", ".net.pth.part.json"]
    assert fetch(offer(server), tmp_path).path.read_bytes() == DATA
    assert server.asked[-1] == "bytes=5000-" and files(tmp_path) == ["SHA256SUMS", "net.pth"]


# -- Google Drive ----------------------------------------------------------------------------------------------


@pytest.fixture
def drive(monkeypatch):
    """Return a function that puts another in the place of gdown's."""

    def answer(function):
        monkeypatch.setattr(module.gdown, "download", function)
        return Offer("net", "https://drive.google.com/uc?id=abc", "net.pth", "", "", sha256=SHA256)

    return answer


def test_drive_goes_through_gdown(drive, tmp_path):
    def download(url, output, *, quiet, resume):
        assert url == "https://drive.google.com/uc?id=abc" and resume
        with open(output, "wb") as file:
            file.write(DATA)
        return output

    assert fetch(drive(download), tmp_path).path.read_bytes() == DATA
    assert files(tmp_path) == ["SHA256SUMS", "net.pth"]


def test_gdowns_refusals_are_told(drive, tmp_path):
    def raises(url, output, *, quiet, resume):
        raise RuntimeError("Failed to retrieve file url:\n\n\tCannot retrieve the public link")

    with pytest.raises(DownloadError, match="RuntimeError: Failed to retrieve file url: Cannot retrieve"):
        fetch(drive(raises), tmp_path)
    with pytest.raises(DownloadError, match="may limit how often"):
        fetch(drive(lambda *args, **kwargs: None), tmp_path)


def test_gdowns_rest_is_removed_from_a_full_disk(drive, tmp_path):
    def full(url, output, *, quiet, resume):
        with open(f"{output}abcdefgh.part", "wb") as file:
            file.write(b"begun")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="no room"):
        fetch(drive(full), tmp_path)
    assert files(tmp_path) == []


def test_gdown_takes_what_it_is_given():
    import inspect

    import gdown

    inspect.signature(gdown.download).bind("address", "file", quiet=True, resume=True)


def test_a_set_is_fetched_and_unpacked_once(server, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("cam_a", "cam_b"):
            archive.writestr(f"VIPeR/{name}/1.bmp", b"1")
    server.data = (tmp_path / "a.zip").read_bytes()
    root = tmp_path / "data"
    made = offer(server, "", folder="VIPeR")
    assert fetch_set(made, root) == root / "VIPeR"
    assert files(root / "VIPeR") == ["cam_a", "cam_b"]
    fetch_set(made, root)
    assert len(server.asked) == 1


# -- the catalogue ---------------------------------------------------------------------------------------------


def test_offers_are_well_formed():
    offers = catalogue()
    assert len({offer.file for offer in offers.values()}) == len(offers)
    assert len({offer.url for offer in offers.values()}) == len(offers)
    for name, entry in offers.items():
        assert entry.name == name and entry.terms and entry.what
        assert re.fullmatch(r"https?://\S+", entry.url) or entry.url.startswith(SHIPPED)
        assert re.fullmatch(r"|[0-9a-f]{8,64}", entry.sha256)
        assert bool(entry.use) != bool(entry.folder)
        assert "/" not in entry.file and not entry.file.startswith(".")


def test_what_is_shipped_is_put_beside_what_is_fetched(tmp_path):
    shipped = [entry for entry in catalogue().values() if entry.url.startswith(SHIPPED)]
    assert [entry.name for entry in shipped] == ["osnet_x0_25_vehicles"]
    for entry in shipped:
        found = fetch(entry, tmp_path)
        assert found.path == tmp_path / entry.file and found.sha256 == entry.sha256 and found.new
        assert found.path.stat().st_size < 2e6 and not fetch(entry, tmp_path).new


def test_torchvisions_file_names_carry_the_checksum():
    for depth in (18, 34, 50, 101, 152):
        entry = catalogue()[f"resnet{depth}_imagenet"]
        assert len(entry.sha256) == 8 and entry.sha256 in entry.url


def test_front_end_weights_are_of_scales_that_exist():
    names = [entry.name for entry in catalogue().values() if entry.use == "sr.weights"]
    named = [re.fullmatch(r"(.+)_x(\d)", name).groups() for name in names]
    for front_end, scale in named:
        if front_end != "swinir":  # a trunk of PRPR's restorer
            assert int(scale) in FRONT_ENDS[front_end].meta["info"].scales
    assert {"rcan", "edsr", "fsrcnn", "swinir"} <= {front_end for front_end, _ in named}


def test_known_checksums_are_those_of_the_files(shared_data):
    from torchreid_xres.data.protocol import file_sha256

    held = {path.stem: path for path in (shared_data / "weights").rglob("*.pth")}
    checked = [name for name, entry in catalogue().items() if name in held and len(entry.sha256) == 64]
    assert len(checked) == 5
    for name in checked:
        assert file_sha256(held[name]) == catalogue()[name].sha256


def test_withdrawn_sets_are_never_offered():
    for name in DATASETS:
        if "withdrawn" in DATASETS[name].meta["terms"]:
            assert name not in catalogue()
            assert "never downloaded" in how_to_get(name)
    assert not any("duke" in f"{entry.name}{entry.url}".lower() for entry in catalogue().values())


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_set_says_how_to_get_it(name):
    text = how_to_get(name)
    assert name in text
    if not name.startswith("synth"):
        assert "Folders:" in text or "Layouts:" in text or "A tree:" in text
        assert DATASETS[name].meta["terms"] in text
        assert DATASETS[name].meta["page"] in text
