"""The one command: it finds the programs, runs them as scripts, and its help needs no torch."""

import re
import subprocess
import sys

import pytest
from forked import python

from torchreid_xres import __version__

NAMES = (
    *("train", "train-keypoints", "search", "report", "visualize", "fuse", "export"),
    *("prepare", "download", "list", "complexity", "bench"),
)


@pytest.fixture
def xres(repo, tmp_path):
    """Run the command from another folder, and return what became of it."""

    def run(*args, options=()):
        command = [sys.executable, *options, repo / "tools" / "xres.py", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    return run


def test_every_program_has_its_command(tool, repo):
    assert tuple(tool.COMMANDS) == NAMES and all(path.is_file() for path in tool.COMMANDS.values())
    scripts = (repo / "tools").glob("*.py")
    programs = {path.stem for path in scripts if '__name__ == "__main__"' in path.read_text()} - {"xres"}
    assert {path.stem for path in tool.COMMANDS.values()} == programs | {"accuracy"}


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("train", "--version"), *((n, "--help") for n in NAMES)])
def test_help_and_version_load_no_torch(xres, args):
    done = xres(*args, options=("-X", "importtime"))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "argparse" in loaded
    assert not loaded & {"torch", "torchvision", "torchreid", "torchreid_xres", "numpy", "PIL", "yaml", "yacs"}
    if args[-1] == "--version":
        assert done.stdout == f"torchreid_xres {__version__}\n"
    elif len(args) > 1:
        assert done.stdout.startswith(f"usage: xres {args[0]} ")
        assert f"    xres {args[0]} " in done.stdout or args[0] == "download"
    done.stdout.encode("cp1252")


def test_the_help_lists_the_commands(tool, capsys):
    for argv in ([], ["--help"]):
        with pytest.raises(SystemExit) as end:
            tool.main(argv)
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert re.search(r"^  train +Train and evaluate what a configuration says$", shown, re.MULTILINE)
        assert all(f"\n  {name} " in shown for name in NAMES)


def test_a_command_that_is_none_is_told_with_the_nearest(tool, capsys):
    with pytest.raises(SystemExit) as end:
        tool.main(["serch", "--top", "3"])
    assert end.value.code == 2


@pytest.mark.slow
def test_a_command_is_the_script(repo, tmp_path):
    done = python(repo / "tools" / "xres.py", "train", "train.epoch", "3", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("ConfigError: without --config-file the data sets are")
    done = python(repo / "tools" / "xres.py", "bench", "--suite", "nine", cwd=tmp_path)
    assert done.returncode == 2 and "there is no suite 'nine'" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_the_commands(tool, capsys, monkeypatch, shell):
    pytest.importorskip("shtab")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert tool.main(["--print-completion", shell]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*NAMES, "--config-file", "--gallery", "bf16_unchecked"))
    assert tool.main(["--print-completion", "dos"]) == 2
    assert capsys.readouterr().err.startswith("ValueError: --print-completion dos: there are bash, ")


def test_without_the_library_of_completion_its_extra_is_named(tool, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert tool.main(["--print-completion", "bash"]) == 2
    assert "pip install 'torchreid_xres[completion]'" in capsys.readouterr().err
