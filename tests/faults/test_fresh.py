"""Starting over is killed at every step: the old job is whole, or the new one has something of its own."""

import pytest

from torchreid_xres.files import write_text
from torchreid_xres.jobs.fresh import ASIDE, done_names, require_jobs_own, set_aside, settle

STATES = ("split0/old/last.pth.tar", "split0/both/last.pth.tar")
OLD = dict.fromkeys(("config.yaml", "stages.json", *STATES, "split0/mine.txt"), "old")
NEW = {
    **dict.fromkeys(("config.yaml", "stages.json", "split0/both/run.json", "split0/both/last.pth.tar"), "new"),
    "split0/new/stage/last.pth.tar": "new",
    "split0/mine.txt": "old",
}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "job"

    def lay():
        for path in sorted(made.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for name, text in OLD.items():
            write_text(text, made / name)
        return made

    return lay


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def require_whole(folder, begun):
    found = {name: text for name, text in contents(folder).items() if not name.rpartition("/")[2].startswith(".")}
    if begun:
        assert not (folder / ASIDE).exists() and found["split0/both/last.pth.tar"] == "new"
        assert found.items() <= NEW.items() and found["split0/mine.txt"] == "old"
    else:
        assert found == OLD
        assert {path.name for path in (folder / "split0").iterdir()} == {"old", "both", "mine.txt"}


def has_begun(folder):
    """Whether the old state of this run is aside and the new one's in its place."""
    state = folder / "split0" / "both" / "last.pth.tar"
    return state.is_file() and state.read_text() == "new"


def test_undisturbed(fork, folder):
    reply = fork("start_over", made := folder(), watched=made)
    assert reply["status"] == 0, reply["output"]
    assert contents(made) == NEW and not (made / ASIDE).exists()


def kill_everywhere(fork, folder, step=1, twice=()):
    events = fork("start_over", made := folder(), watched=made)["events"]
    for moment in range(0, events, step):
        fork("start_over", folder(), watched=made, moment=moment)
        begun = has_begun(made)
        for again in twice:
            reply = fork("settle", made, watched=made, moment=again)
            if reply["status"] == 0:
                break
        settle(made)
        require_whole(made, begun)


def test_killed_at_some_steps(fork, folder):
    kill_everywhere(fork, folder, step=5)


@pytest.mark.slow
def test_killed_at_every_step(fork, folder):
    kill_everywhere(fork, folder)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 24, 3))
def test_killed_at_every_step_and_again_while_it_is_put_right(fork, folder, first):
    kill_everywhere(fork, folder, twice=range(first, first + 3))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_puts_the_old_job_back_unless_the_new_one_has_learned(folder, error):
    made = folder()
    with pytest.raises(error), set_aside(made, ["split0/old"], ["split0/both"]):
        write_text("new", made / "split0" / "both" / "run.json")
        raise error
    assert contents(made) == OLD
    with pytest.raises(error), set_aside(made, ["split0/old"], ["split0/both"]):
        write_text("new", made / "split0" / "both" / "last.pth.tar")
        raise error
    assert contents(made) == {"split0/both/last.pth.tar": "new", "split0/mine.txt": "old"}


def test_a_folder_with_no_more_than_the_log_of_a_failed_start_is_a_jobs_own(tmp_path):
    for name in ("in-use.lock", "train-2026-01-01-00-00-00.log", "test-2026-01-01-00-00-00.1.log"):
        (tmp_path / name).touch()
    require_jobs_own(tmp_path)
    require_jobs_own(tmp_path / "none")
    (tmp_path / "a.log").touch()
    with pytest.raises(ValueError, match="was not made by a run"):
        require_jobs_own(tmp_path)


def test_names_that_lead_elsewhere_are_no_runs(tmp_path):
    (tmp_path / "stages.json").write_text(
        '{"key": "", "done": {"../a": 1, "split0/../../a": 1, "/split0/a": 1, "split0": 1, "x/y": 1, "split12/a/b": 1}}'
    )
    assert done_names(tmp_path) == ["split12/a/b"]
    for text in ("[]", "{", '{"done": 3}', "\x00"):
        (tmp_path / "stages.json").write_text(text)
        assert done_names(tmp_path) == []
