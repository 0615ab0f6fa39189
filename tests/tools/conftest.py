"""The tool that a test file is named after, as a module, and as a user calls it."""

import pytest
from scripts import script


@pytest.fixture(scope="module")
def tool(request, repo):
    """The module of ``tools/<name>.py``, in ``test_<name>.py``."""
    return script(repo / "tools" / f"{request.path.stem.removeprefix('test_')}.py")


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
