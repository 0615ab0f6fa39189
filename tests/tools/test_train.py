import json
import re

import pytest
import yaml
from forked import python

from torchreid_xres.jobs.command import part_pairs


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
        return python(repo / "tools" / "train.py", "--config-file", path, "--root", tiny_root, *args, cwd=tmp_path)

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
    end = tmp_path / "end.json"
    flags = ("--json", end, "--transforms", "random_flip", "random_erase")
    done = train(*FOLDER, *flags, "train.lr", "1e-3", "sr.name", "bicubic")
    assert done.returncode == 0, done.stderr
    assert "| folder " in done.stdout and "sr_reid (bicubic)" in done.stdout
    assert json.loads(end.read_text())["records"] == 1
    report, search = done.stdout.splitlines()[-2:]
    assert report == f"next: xres report {tmp_path}/log/split0/sr_reid --out report.html"
    assert search == f"next: xres search build {tmp_path}/log/split0/sr_reid PICTURES --gallery {tmp_path}/log/gallery"
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
        (("-s", "synth_persn", "-t", "folder"), "did you mean 'synth_person'"),
        (("-s", "mlr_market1501", "-t", "mlr_market1501", "data.root", "/nonexist"),
         "mlr_market1501: no such data set under /nonexist; looked for"),
        ((*FOLDER, "model.options", "{foo: 1}"), "takes no option 'foo'; it takes: freeze_sr"),
        ((*FOLDER, "sampler.train_sampler", "Foo"), "'MixedIdentitySampler'"),
        ((*FOLDER, "data.targets", "[]"), "data.targets is empty"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_message_and_no_traceback(mistaken, args, message):
    shown = mistaken(*args)
    assert message in shown and "Traceback" not in shown


def test_the_log_keeps_the_traceback(mistaken, tmp_path):
    mistaken(*FOLDER, "train.batch_size", "4096")
    (log,) = (tmp_path / "log").glob("train-*.log")
    assert "Traceback" in log.read_text() and "4096" in log.read_text()


def test_ranks_without_the_first_are_shown_beside_nothing_else(train, tmp_path):
    done = train(*FOLDER, "sr.name", "bicubic", "test.ranks", "[5, 10]", "test.query_rates", "[2]")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| rank-5 +\| rank-10 +\|", done.stdout)
    assert "| rank-1 " in done.stdout.split("all queries at")[1]
    (kept,) = (tmp_path / "log").rglob("results/folder.json")
    assert {"rank1", "rank5", "rank10"} <= json.loads(kept.read_text()).keys()


def test_a_mistake_with_fresh_removes_nothing(train, mistaken, tmp_path):
    kept = tmp_path / "log" / "stages.json"
    kept.parent.mkdir()
    kept.write_text('{"key": "x", "done": {}}')
    for mistake in (("model.name", "sr_ried"), ("train.max_epoch", "-1"), ("sr.weights", "none.pth")):
        mistaken("--fresh", *FOLDER, *mistake)
        assert kept.exists() and len(list(kept.parent.iterdir())) == 1


@pytest.mark.parametrize("args", [(), ("-s", "folder"), ("-t", "folder", "train.max_epoch", "1")])
def test_without_a_configuration_the_data_sets_are_needed(run_tool, args):
    status, _, err = run_tool(*args)
    assert status == 2 and "without --config-file the data sets are needed: -s for training, -t for testing" in err


@pytest.mark.parametrize("flag", [("--fresh",), ("--root", "/data")])
def test_a_flag_behind_keys_is_told_its_place(run_tool, flag):
    status, _, err = run_tool(*FOLDER, "--config-file", "x.yaml", "train.max_epoch", "1", *flag)
    assert status == 2 and f"{flag[0]} stands behind KEY VALUE pairs; flags go before them" in err


def test_keys_without_a_dot_are_no_data_sets(tool):
    def parse(*argv):
        args = tool.parse(argv)
        part_pairs(args, ("sources", "targets", "transforms"))
        return args

    args = parse("-t", "folder", "-s", "folder", "synth_person", "use_gpu", "False", "train.lr", "1")
    assert args.sources == ["folder", "synth_person"] and args.opts == ["use_gpu", "False", "train.lr", "1"]
    args = parse("-s", "market1501", "task", "train", "-t", "cuhk03", "train.eval_freq", "-1")
    assert (args.sources, args.targets) == (["market1501"], ["cuhk03"])
    assert args.opts == ["train.eval_freq", "-1", "task", "train"]
