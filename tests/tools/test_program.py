"""What the programs share: flags that are the package's own, endings of files, an end while it loads."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import script

from torchreid_xres.comparison import curves, figures, registries
from torchreid_xres.config import get_config
from torchreid_xres.data import io, prepare
from torchreid_xres.devices import precision
from torchreid_xres.features import fusion
from torchreid_xres.inference import backends, export, published
from torchreid_xres.metrics import distance
from torchreid_xres.pictures import queries, ranks
from torchreid_xres.report import answers
from torchreid_xres.search import engine, filters


def test_flags_are_the_packages_own(repo):
    choices = script(repo / "tools" / "choices.py")
    own = {
        "AGAINST": tuple(curves.AGAINST),
        "BACKENDS": backends.BACKENDS,
        "BOUNDS": export.BOUNDS,
        "DATA_ROOT": get_config().data.root,
        "DEFAULT_WEIGHTS": published.DEFAULT,
        "FIGURES": figures.FORMATS,
        "FORMATS": tuple(prepare.FORMATS),
        "GROUPS": filters.GROUPS,
        "INDEXES": tuple(engine.INDEXES),
        "INPUTS": tuple(export.INPUTS),
        "KINDS": registries.KINDS,
        "LEAST_OPSET": export.LEAST_OPSET,
        "METRICS": distance.METRICS,
        "MOST_QUERIES": queries.MOST,
        "OBJECTIVES": fusion.OBJECTIVES,
        "PICTURES": tuple(io.PICTURES),
        "PRECISIONS": precision.PRECISIONS,
        "QUERIES": tuple(curves.QUERIES),
        "ROLES": export.ROLES,
        "TABLES": answers.TABLES,
        "WHICH_QUERIES": ranks.CHOICES,
    }
    assert {name: value for name, value in vars(choices).items() if name.isupper()} == own


def test_names_end_in_a_format(tool):
    path_of = tool.ending("figures", (".png", ".svg"))
    assert path_of("a.b/c.SVG") == Path("a.b/c.SVG")
    with pytest.raises(argparse.ArgumentTypeError, match=r"plot\.jpg: figures end in \.png, \.svg"):
        path_of("plot.jpg")


@pytest.mark.parametrize(
    "fault, status, said",
    [
        ("KeyboardInterrupt", 130, "stopped; the same command goes on after the last finished epoch\n"),
        ("ImportError('no\\n torch')", 2, "ImportError: no torch\n"),
    ],
)
def test_a_program_that_ends_while_it_loads_says_so_in_a_line(repo, tmp_path, fault, status, said):
    """Torch is what takes the time; a stand-in of the package does what happens in the midst of it."""
    (tmp_path / "torchreid_xres").mkdir()
    (tmp_path / "torchreid_xres" / "__init__.py").write_text(f"raise {fault}\n")
    command, env = [sys.executable, repo / "tools" / "train.py"], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert (done.returncode, done.stderr) == (status, said)
