"""The additions that CONTRIBUTING.md shows, made in a copy of the project and tested there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# A paragraph that ends in a file's name, then one block or several for that file.
STEP = re.compile(
    r"`([\w./]+\.(?:py|yaml|md))`[^`]*:\n((?:\n```(?:python|yaml|markdown|diff)\n.*?\n```\n)+)", re.DOTALL
)
BLOCK = re.compile(r"```(\w+)\n(.*?\n)```", re.DOTALL)
ADDITIONS = ("data set", "front end", "method")  # of a few files of the package each
BENCHMARK = "method to the benchmark"


def steps(text: str) -> list[tuple[str, str, str]]:
    """Return file, kind of block and content of every block that belongs to a file."""
    return [(path, *block) for path, blocks in STEP.findall(text) for block in BLOCK.findall(blocks)]


def chapters(repo: Path) -> dict[str, list[tuple[str, str, str]]]:
    parts = re.split(r"^## Add a (.*)\n", (repo / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: steps(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def changed(content: str, diff: str) -> str:
    """Apply one hunk; what it expects must be there once."""
    lines = diff.splitlines(keepends=True)
    assert all(line[0] in " +" for line in lines), diff
    before = "".join(line[1:] for line in lines if line[0] == " ")
    after = "".join(line[1:] for line in lines)
    assert content.count(before) == 1, f"{content.count(before)} places for\n{diff}"
    return content.replace(before, after)


def add(project: Path, files: list[tuple[str, str, str]]) -> None:
    for name, kind, content in files:
        path = project / name
        if kind == "diff":
            content = changed(path.read_text(encoding="utf-8"), content)
        else:
            assert not path.exists(), f"{name} is there already"
        path.write_text(content, encoding="utf-8")


def test_every_block_belongs_to_a_file_and_each_addition_is_small(repo):
    text = (repo / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = [(kind, content) for kind, content in BLOCK.findall(text) if kind != "bash"]
    assert blocks == [(kind, content) for _, kind, content in steps(text)]
    found = chapters(repo)
    assert tuple(found) == (*ADDITIONS, BENCHMARK)
    for title in ADDITIONS:
        files = {name for name, *_ in found[title]}
        assert sum(name.startswith("torchreid_xres/") for name in files) <= 3, title
        assert sum(name.startswith("tests/") for name in files) == 1, title
        assert sum(name.startswith("configs/") for name in files) == 1, title
    assert not any(name.startswith("torchreid_xres/") for name, *_ in found[BENCHMARK])


def test_a_hunk_that_fits_nowhere_is_noticed():
    assert changed("a\nc\n", " a\n+b\n c\n") == "a\nb\nc\n"
    with pytest.raises(AssertionError, match="0 places"):
        changed("a\nd\n", " a\n+b\n c\n")


@pytest.mark.slow
def test_the_additions_work_in_a_copy_of_the_project(repo, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "results")
    for part in ("torchreid_xres", "configs", "tests", "benchmarks", "docs"):
        shutil.copytree(repo / part, tmp_path / part, ignore=ignore)
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(repo / file, tmp_path)
    for files in chapters(repo).values():
        add(tmp_path, files)
    code = sorted({name for files in chapters(repo).values() for name, *_ in files if name.endswith(".py")})
    assert subprocess.run([sys.executable, "-m", "ruff", "check", *code], cwd=tmp_path).returncode == 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k"),
            "mlr_prid2011 or espcn or pulled_reid or covers_the_registry or has_a_tree or every_config or page "
            "or every_row_is_a_configuration or one_budget or quoted_figures",
            *("tests/data/datasets/test_any_set.py", "tests/sr/test_front_ends.py", "tests/test_config.py"),
            *("tests/engine/test_pulled_reid.py", "tests/test_method_pages.py"),
            *("tests/benchmarks/test_accuracy.py", "tests/benchmarks/test_ablation.py"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 80, done.stdout
