import json

import pytest

SMALL = [
    "model.options", "{stacks: 1, depth: 2, width: 8}", "data.height", "64", "data.width", "64", "use_gpu", "False",
    "data.options",
    "{synth_vehicle: {train_identities: 2, test_identities: 2, cameras: 2, images_per_camera: 2, query_rate: 1.0}}",
    "train.batch_size", "4", "train.max_epoch", "1",
    "test.expected", "{synth_vehicle: {pck: 0, visibility: 0, pck_x8: 0, visibility_x8: 0}}",
]  # fmt: skip


@pytest.fixture
def train_keypoints(run_tool, repo, tmp_path):
    """Call the tool's main in this process; return its exit status, output and errors."""
    config = repo / "configs" / "keypoints_synth_vehicle.yaml"
    argv = ["--root", tmp_path / "data", "--json", tmp_path / "end.json", "--config-file", config]

    def run(*opts):
        return run_tool(*argv, *SMALL, "data.save_dir", tmp_path / "log", *opts)

    return run


def test_it_trains_prints_a_table_and_goes_on(train_keypoints, tmp_path):
    status, out, err = train_keypoints()
    assert status == 0, err
    assert "| synth_vehicle | hourglass_vehicle20 | plain" in out and "PCK@0.1" in out
    assert json.loads((tmp_path / "end.json").read_text()) == {
        "save_dir": str(tmp_path / "log"), "records": 1, "missed": 0,
    }  # fmt: skip
    run = tmp_path / "log" / "split0" / "hourglass_vehicle20"
    assert out.splitlines()[-1] == f"next: KGNet takes {run}/last.pth.tar as hourglass_weights of its model.options"
    assert (run / "last.pth.tar").is_file()
    assert len(list((tmp_path / "log").rglob("results/synth_vehicle.json"))) == 1
    status, out, _ = train_keypoints("test.expected", "{synth_vehicle: {pck_x8: 100.1}}")
    assert status == 1 and "Start training" not in out
    assert "MISSED synth_vehicle pck_x8" in out


def test_other_models_are_refused(run_tool, repo, tmp_path):
    config = repo / "configs" / "quickstart.yaml"
    status, _, err = run_tool("--config-file", config, "use_gpu", "False", "data.save_dir", tmp_path / "log")
    assert status == 2 and "model.name is 'sr_reid', but this program trains: hourglass_vehicle20. For others" in err
    assert not (tmp_path / "log").exists()


def test_a_mistake_is_one_message(train_keypoints):
    status, _, err = train_keypoints("data.transforms", "[random_flip]")
    assert status == 2
    assert "RandomHorizontalFlip would move pictures" in err and "Traceback" not in err
