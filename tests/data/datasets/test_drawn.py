"""Drawing once: nothing of a killed process stays, and two at once end with one whole set."""

import os
import signal

import pytest

from torchreid_xres.data.datasets import drawn
from torchreid_xres.data.datasets.drawn import drawn_folder

pytestmark = pytest.mark.skipif(drawn.fcntl is None, reason="this system has no flock")
OPTIONS = {"seed": 1}


def draw(folder):
    (folder / "a.txt").write_text("whole")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_while_drawing(parent, options):
    child = os.fork()
    if not child:

        def halfway(folder):
            (folder / "half.txt").write_text("ha")
            os.kill(os.getpid(), signal.SIGKILL)

        drawn_folder(parent, options, halfway)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    killed_while_drawing(tmp_path, OPTIONS)
    (tmp_path / ".mine-1").mkdir()
    assert len(names(tmp_path)) == 2
    folder = drawn_folder(tmp_path, OPTIONS, draw)
    assert names(tmp_path) == [".mine-1", folder.name] and names(folder) == ["a.txt", "options.json"]
    killed_while_drawing(tmp_path, {"seed": 2})
    drawn_folder(tmp_path, OPTIONS, draw)  # it is there: nothing is drawn, what was left goes all the same
    assert names(tmp_path) == [".mine-1", folder.name]


def test_two_that_draw_at_once_end_with_one_set(tmp_path):
    told, tell = os.pipe()
    go_on, go = os.pipe()
    child = os.fork()
    if not child:

        def waiting(folder):
            draw(folder)
            os.write(tell, b".")
            os.read(go_on, 1)

        os._exit(not (drawn_folder(tmp_path, OPTIONS, waiting) / "a.txt").is_file())
    os.read(told, 1)  # it is drawing
    folder = drawn_folder(tmp_path, OPTIONS, draw)
    assert len(names(tmp_path)) == 2, "what the other one is drawing stays"
    os.write(go, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(tmp_path) == [folder.name] and names(folder) == ["a.txt", "options.json"]


def test_a_disk_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(drawn.fcntl, "flock", none)
    folder = drawn_folder(tmp_path, OPTIONS, draw)
    assert names(tmp_path) == [folder.name]
