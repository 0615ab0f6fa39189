"""The benchmark for a GPU at tiny sizes, on the CPU: every part runs, and what is left out is named."""

import json

import pytest

TINY = ["--queries", "40", "--gallery", "120", "--dim", "16", "--identities", "10", "--repeats", "1", "--steps", "1",
        "--batch", "8", "--size", "64", "32", "--own-size", "64", "32"]  # fmt: skip


def run(module, tmp_path, *args):
    keep = tmp_path / "kept.json"
    assert module.main([*TINY, *args, "--keep", str(keep)]) == 0
    return json.loads(keep.read_text())


def test_ranking_on_the_device_and_what_there_is_no_time_for(benchmark_module, tmp_path):
    module = benchmark_module("gpu")
    kept = run(module, tmp_path, "--model", "--config-file", "--method")
    sides = {row["side"]: row for row in kept["rows"]}
    assert sides["matrix product"]["ratio"] == 1 and sides["ours, from features"]["ratio"] > 0
    assert not kept["left_out"] and kept["machine"]["gpu"] is None
    assert module.main([*TINY, "--budget", "0"]) == 1


@pytest.mark.slow
def test_training_and_extraction(benchmark_module, tmp_path):
    module = benchmark_module("gpu")
    sides = ["host", "ours", "+ TF32", "+ bf16", "+ channels last", "+ fused optimiser"]
    kept = run(module, tmp_path, "--model", "osnet_x0_25", "--config-file", "--method", "sr_reid", "--sides", *sides)
    assert not kept["left_out"]
    training, extraction = ([row for row in kept["rows"] if row.get("work") == work] for work in
                            ("training", "extraction"))  # fmt: skip
    assert [row["side"] for row in training] == sides and training[0]["times the first"] == 1
    assert [row["side"] for row in extraction] == ["fp32", "+ TF32", "+ bf16", "+ channels last"]
    assert all(row["img/s"] > 0 and row["batch"] == 8 for row in (*training, *extraction))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["psh_rnet", "msifla", "dgrl", "prpr", "kgnet", "asymmetric"])
def test_every_method_extracts(benchmark_module, tmp_path, method):
    kept = run(benchmark_module("gpu"), tmp_path, "--batch", "2", "--model", "--config-file", "--method", method)
    assert not kept["left_out"] and kept["rows"][-1]["network"] == method
