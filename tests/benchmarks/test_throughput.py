"""The benchmarks of speed at tiny sizes: every side runs, and the first is measured beside itself."""

import json

import pytest

TINY = [
    "data.height", 32, "data.width", 16, "train.batch_size", 8, "test.batch_size", 8,
    "data.options.synth_person", {"train_identities": 8, "test_identities": 4, "images_per_camera": 2},
]  # fmt: skip


def run(module, tmp_path, *args):
    keep = tmp_path / "kept.json"
    assert module.main([*map(str, args), "--repeats", "1", "--keep", str(keep)]) == 0
    return json.loads(keep.read_text())


SIDES = ["ours", "+ channels last", "+ bf16", "+ memory kept", "+ pictures kept"]
METHOD = [*TINY, "data.height", 64, "data.width", 32, "train.batch_size", 12]


@pytest.mark.slow
def test_a_host_network_beside_ours(benchmark_module, tmp_path):
    module = benchmark_module("throughput")
    options = ("--batches", 1, "--sides", "ours", "host", "--set", *TINY)
    kept = run(module, tmp_path, "--model", "osnet_x0_25", *options)
    assert [row["side"] for row in kept["rows"]] == ["host", "ours"] * 2
    assert kept["rows"][0]["times the first"] == kept["rows"][2]["times the first"] == 1
    assert all(row["img/s"] > 0 and row["batch"] == 8 for row in kept["rows"])
    assert list(kept["matrix_product_GFLOPS"]) == ["fp32"]


@pytest.mark.slow
def test_a_method_after_its_earlier_stages(benchmark_module, repo, tmp_path):
    module = benchmark_module("throughput")
    config = repo / "configs" / "psh_rnet_quickstart.yaml"
    kept = run(module, tmp_path, "--config-file", config, "--batches", 1, "--sides", "ours", "--set", *METHOD)
    assert {row["network"] for row in kept["rows"]} == {"psh_rnet [student]"}
    assert [row["side"] for row in kept["rows"]] == ["ours"] * 2


def test_a_method_has_no_side_of_the_host(benchmark_module, capsys):
    module = benchmark_module("throughput")
    assert module.main(["--config-file", "quickstart", "--sides", "host"]) == 2
    assert "sr_reid (vdsr) has none of --sides host; a method has ours, + channels last" in capsys.readouterr().err


@pytest.mark.slow
def test_the_options_one_after_the_other(benchmark_module, repo, tmp_path):
    module = benchmark_module("throughput")
    config = repo / "configs" / "psh_rnet_quickstart.yaml"
    for name, work, sides in (("host", ("--model", "osnet_x0_25"), ["host", *SIDES]),
                              ("method", ("--config-file", config), SIDES)):  # fmt: skip
        (tmp_path / name).mkdir()
        kept = run(module, tmp_path / name, *work, "--batches", 1, "--set", *(TINY if name == "host" else METHOD))
        assert [row["side"] for row in kept["rows"]] == sides * 2
        assert list(kept["matrix_product_GFLOPS"]) == ["fp32", "bf16"]


def test_front_ends_stand_beside_a_network(benchmark_module, tmp_path):
    module = benchmark_module("front_ends")
    kept = run(module, tmp_path, "--only", "bicubic", "fsrcnn", "--reid", "osnet_x0_25", "--batch", 1)
    rows = {row["front end"]: row for row in kept["rows"]}
    assert list(rows) == ["osnet_x0_25", "bicubic", "fsrcnn"]
    assert rows["osnet_x0_25"]["times osnet_x0_25"] == 1
    assert rows["bicubic"]["parameters (M)"] == 0
    assert rows["fsrcnn"]["parameters (M)"] == pytest.approx(0.0128, abs=1e-4)
    assert rows["fsrcnn"]["PSNR (dB)"] is None


def test_psnr_on_real_crops(benchmark_module, shared_data, tmp_path):
    module = benchmark_module("front_ends")
    args = ("--only", "bicubic", "fsrcnn", "--reid", "osnet_x0_25", "--root", shared_data, "--count", 2)
    kept = run(module, tmp_path, *args, "--crops", "market1501_samples")
    assert all(10 < row["PSNR (dB)"] < 40 for row in kept["rows"][1:])
    assert str(shared_data) not in json.dumps(kept)


@pytest.mark.slow
def test_loading_of_pairs_stands_beside_the_hosts_loader_twice(benchmark_module, tmp_path):
    kept = run(benchmark_module("loading"), tmp_path, "--count", 32, "--height", 32, "--width", 16, "--native", 32, 16)
    assert len(kept["rows"]) == 12
    for row in kept["rows"]:
        assert row["img/s"] > 0 and (row["times the host"] == 1) == row["side"].startswith("host")
