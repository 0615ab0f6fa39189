"""What a search does not need is not loaded: torch's compiler, timm, and what torchreid downloads with."""

import subprocess
import sys

import pytest

BEGIN = """
import sys
sys.path[:0] = sys.argv[1:]
from lazily import load_late
load_late()
load_late()
"""


def run(repo, code):
    command = [sys.executable, "-c", BEGIN + code, str(repo / "tools"), str(repo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_query_loads_neither_compiler_nor_timm(repo):
    run(repo, """
import torchreid_xres.jobs.command, torchreid_xres.search.checks
late = {name for name in sys.modules if name.partition(".")[0] in ("timm", "sympy", "bs4", "requests")}
assert not late and "torch._dynamo" not in sys.modules, sorted(late)[:5]
""")  # fmt: skip


@pytest.mark.slow
def test_what_is_late_comes_when_it_is_asked_for(repo):
    run(repo, """
import torchvision
import inspect
inspect.getmodule(inspect.currentframe())  # looks at all modules
assert "torchvision.models.resnet" not in sys.modules
from torchvision.ops import box_iou
assert torchvision.models.resnet18().fc.out_features == 1000
""")  # fmt: skip
