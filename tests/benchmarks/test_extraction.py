"""Extraction by each backend, a gallery's build beside the bare network, and what a training step is made of."""

import json

import PIL.Image
import pytest
import tiny_net
import torch

from torchreid_xres import host
from torchreid_xres.inference import backends

SMALL = ["--size", "32", "16", "--repeats", "1"]


@pytest.fixture
def torch_alone(monkeypatch):
    for runtime in backends.RUNTIMES.values():
        monkeypatch.setattr(runtime, "package", "not_there_at_all")


def test_rows_of_each_side_and_batch(benchmark_module, tmp_path, torch_alone):
    keep = tmp_path / "kept.json"
    args = ["--network", tiny_net.NAME, "--batch", "1", "2", "--images", "2", "--keep", str(keep), *SMALL]
    assert benchmark_module("extraction").main(args) == 0
    kept = json.loads(keep.read_text())
    plain = [row for row in kept["rows"] if row["side"] == "torch"]
    assert [row["batch"] for row in plain] == [1, 2] and all(row["times the first"] == 1 for row in plain)
    assert {row["side"] for row in kept["rows"]} >= {"torch", "torch, channels last"}
    assert all(row["cosine"] > 0.999 for row in kept["rows"])
    assert kept["instructions"].keys() == {"torch", "ONEDNN_MAX_CPU_ISA"} and kept["runtimes"] == {}


def test_a_build_beside_the_bare_network(benchmark_module, tmp_path, torch_alone):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(64):
        PIL.Image.new("RGB", (4, 8), (i, i, i)).save(images / f"{i:02}.png")
    weights = tmp_path / "net.pth"
    torch.save(host.build_model(tiny_net.NAME, num_classes=2, pretrained=False).state_dict(), weights)
    keep = tmp_path / "kept.json"
    args = ["--build", str(images), "--weights", str(weights), "--network", tiny_net.NAME, "--keep", str(keep), *SMALL]
    assert benchmark_module("extraction").main(args) == 0
    (row,) = json.loads(keep.read_text())["rows"]
    assert row["backend"] == "torch" and row["share of the network"] > 0


def test_the_parts_of_a_step_are_all_of_it(benchmark_module, tmp_path):
    keep = tmp_path / "kept.json"
    args = ["--network", tiny_net.NAME, "--batch", "4", "--keep", str(keep), *SMALL]
    assert benchmark_module("training_step").main(args) == 0
    kept = json.loads(keep.read_text())
    assert sum(row["% of a step"] for row in kept["rows"]) == pytest.approx(100)
    assert kept["percent_of_a_step"].keys() == {"optimiser", "optimiser, fused"}
