"""The rooms: each imports only those below it, in the order of pyproject.toml, and says what it is for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = sorted(path.parent for path in (Path(__file__).parents[1] / "torchreid_xres").glob("*/__init__.py"))


def test_no_import_climbs(repo):
    pytest.importorskip("importlinter")
    # A process of its own: the tool turns off all loggers that are there.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    found = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("room", ROOMS, ids=[room.name for room in ROOMS])
def test_a_room_says_in_its_first_line_what_it_is_for(room):
    said = (room / "__init__.py").read_text(encoding="utf-8")
    assert said.startswith('"""') and len(said.split('"""')[1].splitlines()[0]) > 20
