import json

import pytest

from torchreid_xres.files import write_json
from torchreid_xres.jobs.stages import Stages


def test_a_done_stage_is_not_run_again(tmp_path):
    calls = []
    for _ in range(2):
        stages = Stages(tmp_path, "key")
        assert stages.run("one", lambda: calls.append(1) or {"figure": 3}) == {"figure": 3}
    assert calls == [1]


def test_a_stage_that_fails_is_run_again(tmp_path):
    stages = Stages(tmp_path, "key")
    with pytest.raises(ZeroDivisionError):
        stages.run("one", lambda: 1 / 0)
    assert Stages(tmp_path, "key").run("one", lambda: "now") == "now"


def test_a_stage_whose_folder_was_removed_is_run_again(tmp_path, caplog):
    stages, folder, calls = Stages(tmp_path, "key"), tmp_path / "one", []

    def work():
        folder.mkdir()
        calls.append(1)

    stages.run("one", work, folder)
    stages.run("one", work, folder)
    assert len(calls) == 1
    folder.rmdir()
    stages.run("one", work, folder)
    assert len(calls) == 2 and f"{folder} is gone" in caplog.text


def test_another_experiment_in_the_folder_is_refused(tmp_path):
    Stages(tmp_path, "first").run("one", lambda: 1)
    with pytest.raises(ValueError, match=r"holds another experiment .*--fresh"):
        Stages(tmp_path, "second")


def test_a_folder_in_which_nothing_was_learned_is_taken_over(tmp_path):
    Stages(tmp_path, "a slip")
    assert Stages(tmp_path, "as meant").run("one", lambda: 1) == 1
    (tmp_path / "begun").mkdir()
    Stages(tmp_path / "begun", "first")
    (tmp_path / "begun" / "last.pth.tar").write_text("")
    with pytest.raises(ValueError, match=r"another experiment \(it differs in sr.name\)"):
        Stages(tmp_path / "begun", "second", lambda: "it differs in sr.name")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(ValueError, match=r"stages\.json is damaged"):
        Stages(tmp_path, "key")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json({"x": 1}, path)
    with pytest.raises(TypeError):
        write_json({"x": object()}, path)
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
