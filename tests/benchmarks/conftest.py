import importlib
import sys

import pytest


@pytest.fixture(scope="session")
def benchmark_module(repo):
    """Return a function that imports a script of benchmarks/ by its name."""
    sys.path.insert(0, str(repo / "benchmarks"))  # as for a script that is run: they import what they share
    return importlib.import_module
