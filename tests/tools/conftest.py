"""The tool that a test file is named after, as a module, and as a user calls it."""

import importlib.util

import pytest


@pytest.fixture(scope="module")
def tool(request, repo):
    """The module of ``tools/<name>.py``, in ``test_<name>.py``."""
    name = request.path.stem.removeprefix("test_")
    spec = importlib.util.spec_from_file_location(f"{name}_tool", repo / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_tool(tool, capsys):
    """Run the tool's main in this process; returns exit status, standard output and error text."""

    def run(*args):
        try:
            status = tool.main([str(arg) for arg in args])
        except SystemExit as stop:  # argparse
            status = stop.code
        return status, *capsys.readouterr()

    return run
