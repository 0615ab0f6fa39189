"""What is cheap to see of a trained run is seen before its images are read."""

import pytest
from tiny_jobs import untrained_run

from torchreid_xres.data.prepare import write_set
from torchreid_xres.engine.base import LAST
from torchreid_xres.files import require_place
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.run import Run
from torchreid_xres.pictures import queries


@pytest.fixture
def unread(monkeypatch):
    """Let nobody read images."""

    def fail(*_, **__):
        raise AssertionError("images are read")

    monkeypatch.setattr(Run, "datamanager", fail)
    monkeypatch.setattr("torchreid_xres.data.prepare._protocol_set", fail)


def test_weights_that_are_not_there_or_do_not_fit(tiny_config, tmp_path, unread):
    run = untrained_run(tiny_config(), tmp_path / "a")
    other = untrained_run(tiny_config(sr__options={"depth": 3, "features": 5, "channels": 3}), tmp_path / "b")
    with pytest.raises(AssertionError, match="images are read"):
        trained_engine(run)
    with pytest.raises(ValueError, match=r"no data set is called 'foldr'; did you mean 'folder'"):
        trained_engine(run, "foldr")
    (run / LAST).write_bytes((other / LAST).read_bytes())
    with pytest.raises(ValueError, match=r"last\.pth\.tar does not fit"):
        trained_engine(run)
    (run / LAST).write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"last\.pth\.tar"):
        trained_engine(run)
    (run / LAST).unlink()
    with pytest.raises(FileNotFoundError, match=r"last\.pth\.tar"):
        trained_engine(run)


def test_the_run_a_page_compares_with_comes_before_the_images_of_the_first(tiny_config, tmp_path, unread):
    runs = [untrained_run(tiny_config(), tmp_path / name) for name in "ab"]
    (runs[1] / LAST).unlink()
    record = {"dataset": "folder"}
    with pytest.raises(FileNotFoundError, match=r"b/last\.pth\.tar"):
        queries.run_queries(dict(zip("AB", runs, strict=True)), [record] * 2)


def test_a_folder_with_other_files_is_refused_before_a_set_is_read(tmp_path, unread):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="holds other files"):
        write_set("folder", tmp_path, tmp_path)


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path):
    require_place(tmp_path / "new" / "a.png")
    with pytest.raises(OSError, match="is a folder; name a file"):
        require_place(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file cannot be written to"):
        require_place(tmp_path / "file" / "a.png")
