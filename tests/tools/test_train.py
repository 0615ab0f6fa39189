import json
import subprocess
import sys

import pytest
import yaml


@pytest.fixture
def train(repo, tiny_root, tmp_path):
    """Run tools/train.py as a user would, on tiny images."""
    config = {
        "model": {"name": "sr_reid", "pretrained": False},
        "data": {"sources": ["market1501"], "height": 32, "width": 16, "workers": 0, "pairs": True,
                 "save_dir": str(tmp_path / "log"), "options": {"folder": {"synthetic": True, "lr_camera": "1"}}},
        "train": {"max_epoch": 1, "batch_size": 16},
        "use_gpu": False,
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))

    def run(*args):
        command = [sys.executable, repo / "tools" / "train.py", "--config-file", path, "--root", tiny_root, *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=tmp_path)

    run.argv = ["--config-file", str(path), "--root", str(tiny_root)]
    return run


@pytest.fixture
def mistaken(train, tool, capsys):
    """Run the tool's main in this process (starting Python costs more than the test) and return its error text."""

    def run(*args):
        assert tool.main([*train.argv, *args]) == 2
        return capsys.readouterr().err

    return run


FOLDER = ("-s", "folder", "-t", "folder")


def test_the_flags_torchreid_users_know(train, tmp_path):
    done = train(*FOLDER, "--transforms", "random_flip", "random_erase", "train.lr", "1e-3", "sr.name", "bicubic")
    assert done.returncode == 0, done.stderr
    assert "| folder " in done.stdout and "sr_reid (bicubic)" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 1
    kept = yaml.safe_load((tmp_path / "log" / "config.yaml").read_text())
    assert kept["train"]["lr"] == 1e-3 and kept["data"]["transforms"] == ["random_flip", "random_erase"]
    (log,) = (tmp_path / "log").glob("train-*.log")
    assert "Final test" in log.read_text() and "rank-1" in log.read_text()


def test_missed_figures_end_non_zero_and_say_which(train):
    done = train(*FOLDER, "sr.name", "bicubic", "test.expected", "{folder: {rank1: 100.1}}")
    assert done.returncode == 1
    assert "MISSED folder rank1" in done.stdout


@pytest.mark.parametrize(
    "args, message",
    [
        (("train.lrr", "1"), "did you mean 'train.lr'"),
        ((*FOLDER, "data.options", "{folder: {lr_cam: 1}}"), "did you mean 'lr_camera'"),
        ((*FOLDER, "sr.name", "vdrs"), "did you mean 'vdsr'"),
        (("-s", "foldr", "-t", "foldr"), "foldr"),
        ((*FOLDER, "model.name", "sr_read"), "sr_reid"),
        ((*FOLDER, "train.batch_size", "4096"), "4096"),
        ((*FOLDER, "sr.name", "vdsr", "sr.options", "{dept: 3}"), "depth"),
        ((), "market1501"),
    ],
)
def test_a_users_mistake_is_one_message_and_no_traceback(mistaken, args, message):
    shown = mistaken(*args)
    assert message in shown and "Traceback" not in shown


def test_the_log_keeps_the_traceback(mistaken, tmp_path):
    mistaken(*FOLDER, "sr.name", "vdrs")
    (log,) = (tmp_path / "log").glob("train-*.log")
    assert "Traceback" in log.read_text() and "did you mean 'vdsr'" in log.read_text()
