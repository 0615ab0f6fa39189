"""A full disk and a folder that cannot be written to: said with the file's name, before or instead of half a file."""

import errno
import os
from pathlib import Path

import pytest
import torch
from full_disk import small_files

from torchreid_xres import checkpoint
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.files import remove_scratch, whole_file, write_text
from torchreid_xres.jobs.job import run_job
from torchreid_xres.jobs.logs import logged_to
from torchreid_xres.search.storage import Row, Storage

pytest.importorskip("resource", reason="this system cannot bound the size of files")


def test_a_checkpoint_that_does_not_fit_is_named_and_the_old_one_stays(tmp_path):
    path = tmp_path / "a.pth"
    checkpoint.save_atomic({"epoch": 1}, path)
    state = {"epoch": 2, "models": [{"w": torch.zeros(2**19)}, (torch.zeros(2**19, dtype=torch.half),)]}
    told = r"a\.pth cannot be written: .* MiB free there; it needs 3\.0 MiB\)"
    with small_files(100_000), pytest.raises(OSError, match=told) as caught:
        checkpoint.save_atomic(state, path)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG) and "is as it was" in str(caught.value)
    assert checkpoint.load(path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.pth"]


def test_text_that_does_not_fit_leaves_the_old_one(tmp_path):
    write_text("old", tmp_path / "a.txt")
    with small_files(1000), pytest.raises(OSError, match=r"a\.txt cannot be written: .* make room and start again"):
        write_text("new" * 1000, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_gallery_on_a_full_disk_goes_on_when_there_is_room(tmp_path):
    storage = Storage(tmp_path / "gallery.sqlite")
    storage.begin(about="{}", weights="w", images="i")
    rows = [Row(f"{i}.jpg", 1, 1, 8, 4, bytes(4000), None) for i in range(100)]
    with storage.changing() as changes:
        changes.make(rows[:20])
    told = r"gallery\.sqlite: .*(full|I/O).*; the same command goes on"
    with small_files(300_000), pytest.raises(OSError, match=told), storage.changing() as changes:
        changes.make(rows[20:40])
        changes.make(rows[40:])
    assert len(storage.rows()) == 40 and os.listdir(tmp_path) == ["gallery.sqlite"]
    with storage.changing() as changes:
        changes.make(rows[40:])
    assert sorted(storage.rows()) == sorted(rows)


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(KeyError), whole_file(tmp_path / "a"):
        raise KeyError("mine")
    with pytest.raises(NotADirectoryError):
        write_text("x", Path(__file__) / "below" / "a")


def test_a_training_on_a_full_disk_goes_on_when_there_is_room(tiny, tmp_path, monkeypatch):
    """The disk fills up while the second epoch's state is written; the third's is not begun."""
    cfg = tiny(tmp_path / "run", test__eval_freq=-1)
    save, epochs = torch.save, []

    def full(state, file):
        if state["epoch"] == 2 and len(epochs) == 2:
            file.write(b"some of it")
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                raise RuntimeError("[enforce fail at inline_container.cc:671]")  # noqa: B904, as torch does
        save(state, file)

    train = XresMixin.train
    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(XresMixin, "train", lambda self, *a, **k: epochs.append(self.epoch) or train(self, *a, **k))
    with pytest.raises(OSError, match=rf"split0/sr_reid/{LAST} cannot be written: No space left on device"):
        run_job(cfg)
    last = tmp_path / "run" / "split0" / "sr_reid" / LAST
    assert checkpoint.load(last)["epoch"] == 1
    run_job(cfg)
    assert checkpoint.load(last)["epoch"] == 3 and epochs == [0, 1, 1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_log_on_a_full_disk_hides_no_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("time.strftime", lambda _: "now")
    (tmp_path / "train-now.log").symlink_to("/dev/full")
    with pytest.raises(KeyError, match="the reason"), logged_to(tmp_path, "train"):
        print("shown")
        raise KeyError("the reason")
    assert capsys.readouterr().out == "shown\n"


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_done(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(XresMixin, "train", lambda *_: pytest.fail("training began"))
    (tmp_path / "file").write_text("")
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "run", "Not a directory")):
        with pytest.raises(OSError, match=f"{folder} cannot be written to: {reason}"):
            run_job(tiny(folder))
    real = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *args, **kwargs)

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(PermissionError, match="run cannot be written to: Permission denied"):
        run_job(tiny(tmp_path / "run"))


def test_a_models_folder_that_cannot_be_written_to_is_said_before_training(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(XresMixin, "train", lambda *_: pytest.fail("training began"))
    for blocked in ("split0", "split0/sr_reid/results", "split0/sr_reid/model"):
        path = tmp_path / blocked.replace("/", "-") / blocked
        path.parent.mkdir(parents=True)
        path.write_text("in the way")
        with pytest.raises(OSError, match=blocked):
            run_job(tiny(tmp_path / blocked.replace("/", "-")))


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = [".hidden.txt", "a.1", ".a.12x"]
    for name in (*kept, ".last.pth.tar.4711", ".a.1"):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.1").mkdir()
    remove_scratch(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, ".folder.1"])
