"""Freed memory stays with the process: the pages of the next batch are there already."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from torchreid_xres.engine.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
def batch():
    return torch.ones(64 << 20, dtype=torch.uint8).sum()
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    found = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    if found.returncode == 3:
        pytest.skip("this C library cannot keep freed memory")
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only of glibc")
def test_a_second_batch_touches_no_new_pages():
    assert faults("keep") < faults("give back") / 10
