"""A folder is one job's at a time; the lock of a dead process does not count."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from torchreid_xres import lock
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.lock import LOCK, InUseError, sole_use
from torchreid_xres.search import Gallery

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="this system has no flock")


def test_a_second_one_is_refused_and_told_by_whom(tmp_path):
    with sole_use(tmp_path / "run"):
        told = rf"run is in use by process {os.getpid()} on \S+ since 20\d\d-"
        with pytest.raises(InUseError, match=told), sole_use(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / LOCK).is_file()
        with sole_use(tmp_path / "other"):
            pass
    with sole_use(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), sole_use(tmp_path):
        1 / 0  # noqa: B018
    with sole_use(tmp_path):
        pass


def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    files = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        told = f"{tmp_path} cannot be written to: No space left on device"
        with pytest.raises(OSError, match=told) as caught, sole_use(tmp_path):
            pass
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir()) and len(os.listdir("/dev/fd")) == files
    with sole_use(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_a_dead_process_does_not_count_but_a_living_one_does(tmp_path):
    code = f"""
import fcntl, os, sys, time
file = os.open({str(tmp_path / LOCK)!r}, os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.write(file, b"process 1 on mars")
print("held", flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(InUseError, match="in use by process 1 on mars"), sole_use(tmp_path):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert (tmp_path / LOCK).read_text() == "process 1 on mars"
    with sole_use(tmp_path):
        assert re.match(rf"process {os.getpid()} on ", (tmp_path / LOCK).read_text())


@pytest.mark.parametrize("pid", [1, os.getpid(), os.getppid()], ids=["first", "own", "parent"])
def test_a_process_that_has_the_number_of_a_dead_one_holds_nothing(tmp_path, pid):
    (tmp_path / LOCK).write_text(f"process {pid} on {socket.gethostname()} since 2020-01-01 00:00:00")
    with sole_use(tmp_path):
        assert re.match(rf"process {os.getpid()} on .* since (?!2020-01-01)", (tmp_path / LOCK).read_text())


def test_a_loaders_worker_that_outlives_its_process_holds_nothing(tmp_path):
    """A killed process takes its lock along, but not its workers: they end when they notice, seconds later."""
    told, tell = os.pipe()
    process = os.fork()
    if not process:
        with sole_use(tmp_path):
            if not os.fork():  # the worker
                os.close(told)
                os.write(tell, b".")
                time.sleep(5)
                os._exit(0)
            os.read(told, 1)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert (tmp_path / LOCK).is_file()
    with sole_use(tmp_path):
        pass


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with sole_use(tmp_path):
        assert f"{tmp_path} is in use, and cannot be kept from other processes: Operation not supported" in caplog.text


def test_jobs_are_refused_and_nothing_of_the_other_is_touched(tiny, tmp_path):
    cfg = tiny(tmp_path / "run")
    with sole_use(tmp_path / "run"):
        with pytest.raises(InUseError, match="name another folder"):
            run_job(cfg)
        (tmp_path / "run" / "stages.json").write_text("{}")
        with pytest.raises(InUseError):
            run_job(cfg, fresh=True)
        assert sorted(os.listdir(tmp_path / "run")) == [LOCK, "stages.json"]


def test_a_shared_stage_is_one_jobs_at_a_time(tiny, tmp_path):
    stages = {"first": {}, "second": {}}
    cfg = tiny(tmp_path / "run", stages=stages)
    home = own_runs(cfg, 0, tmp_path / "run", tmp_path / "shared")[0].folder
    with sole_use(home), pytest.raises(InUseError, match=r"shared/split0-first-\w+ is in use"):
        run_job(cfg, shared=tmp_path / "shared")
    assert json.loads((tmp_path / "run" / "stages.json").read_text())["done"] == {}


def test_two_builds_of_a_gallery(tiny_root, tmp_path):
    extractor = SimpleNamespace(about={}, weights=tmp_path, query_encoder=None)
    with sole_use(tmp_path / "gallery"), pytest.raises(InUseError, match="gallery is in use by process"):
        Gallery(tmp_path / "gallery", extractor).update(tiny_root / "query")
