"""The benchmark of single queries, at a small size: both sides answer, with the same hits."""

import argparse
import json

import pytest


def test_a_row_has_the_medians_of_its_runs(benchmark_module):
    module = benchmark_module("cold_query")
    runs = [(2.0, 1.0, []), (4.0, 3.0, []), (3.0, 2.0, [])]
    row = module.row("with torch", runs, argparse.Namespace(gallery=7))
    assert (row["wall s"], row["fastest wall s"], row["processor s"], row["runs"]) == (3, 2, 2, 3)


@pytest.mark.slow
def test_both_sides_find_the_same(benchmark_module, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    keep = tmp_path / "kept.json"
    module = benchmark_module("cold_query")
    assert module.main(["--gallery", "300", "--repeats", "1", "--keep", str(keep)]) == 0
    kept = json.loads(keep.read_text())
    whole, light = kept["rows"]
    assert kept["same hits"] is True and kept["kept MB"] > 0.5 and light["processor s"] < whole["processor s"]
