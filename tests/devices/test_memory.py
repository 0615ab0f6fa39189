"""Freed memory stays with the process: the pages of the next batch are there already."""

import sys

import pytest
from forked import python

FAULTS = """
import resource, sys
import torch
from torchreid_xres.devices.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
def batches(count):
    for _ in range(count):
        torch.ones(8 << 20, dtype=torch.uint8).sum()  # 8 MB, and 64 MB on the way to the sum
batches(4)  # until the pieces have found their places
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batches(16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, folder):
    found = python("-c", FAULTS, how, cwd=folder)
    if found.returncode == 3:
        pytest.skip("this C library cannot keep freed memory")
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only of glibc")
def test_later_batches_touch_hardly_any_new_pages(tmp_path):
    assert faults("keep", tmp_path) < faults("give back", tmp_path) / 4
