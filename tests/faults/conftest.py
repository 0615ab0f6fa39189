"""Tiny jobs, and a server that does them in processes of their own, which can be killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_jobs import TINY, configured

KILLED = TINY | {
    "data.transforms": ["random_flip", "random_crop"],
    "train.max_epoch": 3,
    "train.print_freq": 1,
    "test.ranks": [1, 5],
    "test.eval_freq": 1,
}


@pytest.fixture(scope="session")
def tiny(tiny_root):
    """Return a function: folder and overrides (dotted keys) to a configuration."""

    def make(folder, **changes):
        return configured(KILLED, tiny_root, folder, changes)

    return make


@pytest.fixture(scope="session")
def fork():
    """Return a function that does a job of ``forks.py`` in a process of its own and returns the reply."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forks.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert server.stdout.readline() == "ready\n"

    def do(job, *args, watched, signal=signal.SIGKILL, **how):
        request = {"job": job, "args": [str(arg) for arg in args], "watched": str(watched), "signal": signal, **how}
        server.stdin.write(json.dumps(request) + "\n")
        return json.loads(server.stdout.readline())

    yield do
    server.kill()
    server.wait()
