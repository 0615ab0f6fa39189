"""However a program is ended, by the user, a mistake or a lack of memory: one line and an exit status."""

import pytest
from scripts import script

from torchreid_xres.jobs import command

OUT = ("--out", "out")
# Of each program the name of what begins its work, and a command line that leads there.
WORK = {
    "download": ("fetch", ("get", "rcan_x4")),
    "export": ("find_run", ("run", "--out", "a.onnx")),
    "fuse": ("fuse", ("a", "b")),
    "list": ("inventory", ()),
    "prepare": ("write_set", ("write", "synth_person", *OUT)),
    "profile": ("load_config", ("--model", "resnet50")),
    "report": ("read", ("run", *OUT)),
    "search": ("Gallery", ("query", "a.jpg", "--gallery", "g")),
    "train": ("load_config", ("--config-file", "a.yaml")),
    "train_keypoints": ("load_config", ("--config-file", "a.yaml")),
    "visualize": ("trained_engine", ("ranks", "run", "--out", "a.png")),
}


@pytest.fixture
def ending(repo, tmp_path, monkeypatch, capsys):
    """Return a function: a program's name and what its work raises to its exit status and what it says."""

    def run(name, error):
        def fail(*_, **__):
            raise error

        monkeypatch.chdir(tmp_path)
        program = script(repo / "tools" / f"{name}.py")
        begins, args = WORK[name]
        monkeypatch.setattr(program if hasattr(program, begins) else command, begins, fail)
        status = program.main(list(args))
        return status, capsys.readouterr().err

    return run


def test_every_program_is_here(repo):
    assert {path.stem for path in (repo / "tools").glob("*.py")} == set(WORK)


@pytest.mark.parametrize("name", WORK)
def test_an_interrupted_program_says_so_in_a_line(ending, name):
    status, said = ending(name, KeyboardInterrupt())
    assert status == 130 and said.startswith("stopped; ") and said.count("\n") == 1


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("error", [MemoryError("no room"), AssertionError(), OSError("two\nlines"), KeyError("a key")])
def test_a_mistake_or_a_lack_ends_in_a_line(ending, name, error):
    status, said = ending(name, error)
    assert status == 2 and said.count("\n") == 1 and said.startswith(f"{type(error).__name__}: ")
    assert len(said.split()) > 1
