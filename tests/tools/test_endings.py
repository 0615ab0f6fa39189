"""However a program is ended, by the user, a mistake or a lack of memory: one line and an exit status."""

import pytest
from scripts import script

OUT = ("--out", "out")
# Of each program what begins its work, and a command line that leads there.
WORK = {
    "complexity": ("config.load_config", ("--model", "resnet50")),
    "download": ("data.download.fetch", ("get", "rcan_x4")),
    "export": ("inference.network.find_run", ("run", "--out", "a.onnx")),
    "fuse": ("devices.memory.keep_freed_memory", ("a", "b")),
    "list": ("comparison.registries.inventory", ()),
    "prepare": ("data.prepare.write_set", ("write", "synth_person", *OUT)),
    "report": ("features.records.read_record", ("run", "--out", "a.html")),
    "search": ("search.Gallery", ("query", "a.jpg", "--gallery", "g")),
    "train": ("jobs.command.load_config", ("--config-file", "a.yaml")),
    "train_keypoints": ("jobs.command.load_config", ("--config-file", "a.yaml")),
    "visualize": ("jobs.extraction.trained_engine", ("ranks", "run", "--out", "a.png")),
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
        monkeypatch.setattr(f"torchreid_xres.{begins}", fail)
        status = program.main(list(args))
        return status, capsys.readouterr().err

    return run


def test_every_program_is_here(repo):
    scripts = (repo / "tools").glob("*.py")
    assert {path.stem for path in scripts if '__name__ == "__main__"' in path.read_text()} - {"xres"} == set(WORK)


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
