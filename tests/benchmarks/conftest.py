import importlib.util
import sys

import pytest


@pytest.fixture(scope="session")
def benchmark_module(repo):
    """Return a function that imports a script of benchmarks/ by its name."""

    sys.path.insert(0, str(repo / "benchmarks"))  # as for a script that is run: they import what they share

    def load(name):
        spec = importlib.util.spec_from_file_location(name, repo / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load
