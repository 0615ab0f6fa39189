import json

import pytest
import yaml

SMALL = ("--height", 64, "--width", 32)


def rows(table):
    return {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}


def test_one_model_by_parts(run_tool):
    code, shown, _ = run_tool("--model", "osnet_x0_25", "--num-classes", 751, *SMALL)
    assert code == 0
    assert {"conv1", "conv5", "classifier", "total"} <= set(rows(shown))
    assert rows(shown)["classifier"].split("|")[3].strip() == "0.385"  # (512 + 1) x 751, unused


def test_several_models_and_a_file(run_tool, tmp_path):
    file = tmp_path / "new" / "cost.json"
    code, shown, _ = run_tool(
        "--model", "osnet_x0_25", "sr_reid", "--front-end", "srcnn", *SMALL, "--low-size", 32, 16,
        "--latency", "--runs", 2, "--warmup", 0, "--json", file,
    )  # fmt: skip
    assert code == 0 and "latency (ms)" in shown
    assert {"osnet_x0_25", "sr_reid", "srcnn"} <= set(rows(shown))
    kept = json.loads(file.read_text())
    assert kept["input"] == {"batch": 1, "height": 64, "width": 32, "low_size": [32, 16]}
    # SRCNN 9-1-5 on luminance: weights, then biases
    assert kept["models"]["srcnn"]["multiply_adds"] == 64 * 32 * 8032
    assert kept["models"]["srcnn"]["parameters"] == 8032 + 64 + 32 + 1
    assert kept["models"]["srcnn"]["latency"][""]["runs"] == 2
    assert [path.name for path in file.parent.iterdir()] == ["cost.json"]


def test_a_configuration_names_its_models_and_its_missing_weights_do_not_matter(run_tool, tmp_path):
    config = {
        "model": {"name": "sr_reid", "reid_weights": "{root}/none.pth"},
        "sr": {"name": "fsrcnn", "weights": "none.pth"},
        "compare": {"models": ["osnet_x0_25"]},
        "data": {"height": 64, "width": 32},
        "stages": {"first": {"model": {"name": "osnet_x0_25"}}, "second": {"sr": {"name": "vdsr"}}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    code, shown, _ = run_tool("--config-file", path)
    assert code == 0, shown
    assert {"osnet_x0_25", "osnet_x0_25 [first]", "sr_reid [second]"} <= set(rows(shown))
    assert "64x32" in shown
    code, shown, _ = run_tool("--config-file", path, "--model", "sr_reid")
    assert code == 0 and rows(shown)["front_end"].split("|")[2].strip() == "0.013"  # FSRCNN


def test_parts_have_their_times_and_memory(run_tool):
    timed = ("--latency", "--runs", 3, "--warmup", 1)
    code, shown, _ = run_tool("--model", "osnet_x0_25", "--num-classes", 5, *SMALL, *timed)
    assert code == 0 and "1 thread(s), cpu, processor clock" in shown
    header = [cell.strip() for cell in next(line for line in shown.splitlines() if line.startswith("|")).split("|")]
    assert header[-4:-1] == ["tensors (MiB)", "latency (ms)", "quartiles (ms)"]
    parts = {name: line.split("|") for name, line in rows(shown).items() if name not in ("part", "total")}
    assert float(parts["conv2"][-3]) > 0 and parts["classifier"][-3].strip() == "-", "a classifier does not run"


def test_the_list_of_weights_of_a_fusion_is_no_file(run_tool, repo):
    code, shown, said = run_tool("--config-file", repo / "configs" / "prpr_quickstart.yaml", "--model", "prpr")
    assert code == 0, said
    assert {"restorer", "branches"} <= set(rows(shown))


def test_what_an_image_costs_depends_on_its_rate(run_tool):
    _, low, _ = run_tool("--model", "sr_reid", *SMALL, "--rate", 4, "sr.name", "vdsr")
    _, high, _ = run_tool("--model", "sr_reid", *SMALL, "--rate", 1, "sr.name", "vdsr")
    assert rows(low)["front_end"].split("|")[3].strip() == "-"
    assert rows(high)["front_end"].split("|")[3].strip() == "0.665"


@pytest.mark.parametrize(
    "args, message",
    [
        (("--model", "resnet5"), "did you mean 'resnet50'"),
        (("--front-end", "vdrs"), "did you mean 'vdsr'"),
        (("--model", "hacnn", *SMALL), "hacnn cannot run on 1 image(s) of this size"),
        (("--model", "osnet_x0_25", "train.lrr", "1"), "did you mean 'train.lr'"),
        (("--model", "osnet_x0_25", "--rate", "0.5"), "a rate is a number of at least 1"),
        (("--model", "osnet_x0_25", "--device", "nowhere"), "--device nowhere"),
        (("--model", "osnet_x0_25", *SMALL, "--latency", "--runs", "1"), "at least 2 runs"),
    ],
)
def test_a_users_mistake_is_one_message(run_tool, args, message):
    code, _, said = run_tool(*args)
    assert code == 2 and message in said and "Traceback" not in said


@pytest.mark.parametrize(
    "args", [(), ("--model", "osnet_x0_25", "--batch", "0"), ("--model", "osnet_x0_25", "--threads", "0")]
)
def test_what_cannot_be_asked_for(tool, args):
    with pytest.raises(SystemExit):
        tool.main(list(args))


def test_a_pair_takes_what_both_views_take(run_tool, repo):
    file = repo / "configs" / "kgnet_synth_vehicle.yaml"
    one, pair = (run_tool("--config-file", file, "--model", "kgnet", *more)[1] for more in ((), ("--pair",)))
    encoders = [float(rows(shown)["encoders"].split("|")[4]) for shown in (one, pair)]
    assert encoders[1] == pytest.approx(2 * encoders[0], abs=0.002)
