"""What a search does not need is not loaded: torch's compiler, timm, and what fetches files."""

import subprocess
import sys


def test_a_query_loads_neither_compiler_nor_timm(repo):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from lazily import LATE, load_late; load_late(); load_late()\n"
        "import torchreid_xres.jobs.command, torchreid_xres.inference.checks\n"
        "late = {name for name in sys.modules if name.partition('.')[0] in ('timm', 'gdown', 'sympy')}\n"
        "assert not late and 'torch._dynamo' not in sys.modules, sorted(late)[:5]\n"
        "import torchvision\n"
        "assert torchvision.ops.box_iou and torchvision.models.resnet18().fc.out_features == 1000\n"
    )
    run = [sys.executable, "-c", code, str(repo / "tools"), str(repo)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
