"""Tiny jobs, and a server that does them in processes of their own, which can be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchreid_xres.config import load_config

TINY = {
    "model.name": "sr_reid",
    "model.pretrained": False,
    "model.reid": "osnet_x0_25",
    "data.sources": ["folder"],
    "data.targets": ["folder"],
    "data.height": 32,
    "data.width": 16,
    "data.workers": 0,
    "data.pairs": True,
    "data.transforms": ["random_flip", "random_crop"],
    "data.options.folder": {"synthetic": True, "lr_camera": "1"},
    "sr.name": "vdsr",
    "sr.options": {"depth": 3, "features": 4, "channels": 3},
    "train.max_epoch": 3,
    "train.batch_size": 16,
    "train.precision": "fp32",
    "train.print_freq": 1,
    "test.ranks": [1, 5],
    "test.eval_freq": 1,
    "use_gpu": False,
}


@pytest.fixture(scope="session")
def tiny(tiny_root):
    """Return a function: folder and overrides (dotted keys) to a configuration."""

    def make(folder, **changes):
        keys = TINY | {"data.root": str(tiny_root), "data.save_dir": str(folder)}
        keys |= {key.replace("__", "."): value for key, value in changes.items()}
        return load_config(None, [part for pair in keys.items() for part in pair])

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

    def do(job, *args, watched, **how):
        request = {"job": job, "args": [str(arg) for arg in args], "watched": str(watched), **how}
        server.stdin.write(json.dumps(request) + "\n")
        return json.loads(server.stdout.readline())

    yield do
    server.kill()
    server.wait()
