"""The rooms: each imports those below it, in the order that pyproject.toml gives, and is small enough to look through."""

from pathlib import Path

import pytest

ROOMS = sorted(path.parent for path in (Path(__file__).parents[1] / "torchreid_xres").glob("*/__init__.py"))


def test_no_import_climbs(repo, monkeypatch, capsys):
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(repo)
    assert cli.lint_imports(no_cache=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("room", ROOMS, ids=[room.name for room in ROOMS])
def test_a_room_says_in_its_first_line_what_it_is_for(room):
    said = (room / "__init__.py").read_text(encoding="utf-8")
    assert said.startswith('"""') and len(said.split('"""')[1].splitlines()[0]) > 20
