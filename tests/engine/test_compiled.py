"""torch.compile: the same results, and a network that chooses its parts is compiled part by part."""

import shutil

import pytest
import torch

from torchreid_xres.engine.compiled import _called, compile_network
from torchreid_xres.engine.job import own_runs
from torchreid_xres.models import build_model


def test_lists_of_parts_are_taken_apart():
    model = build_model("msifla", num_classes=3, pretrained=False, reid="osnet_x0_25", widths=(4, 8))
    assert _called(model) == [model.cascade, *model.reid]


def test_names_and_results_stay(monkeypatch):
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    model = build_model("sr_reid", pretrained=False).eval()
    names, img = list(model.state_dict()), torch.rand(2, 3, 64, 32)
    batch = {"img": img, "rate": torch.ones(2), "low": torch.zeros(2, dtype=torch.bool), "size": torch.full((2, 2), 9)}
    with torch.no_grad():
        before = model.extract(batch)
        compile_network(model, "sr_reid", backend=backend)
        after = model.extract(batch)
    assert seen and torch.equal(before, after) and list(model.state_dict()) == names


@pytest.mark.slow  # compiles for a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_job_learns_the_same(tiny_config, tmp_path):
    figures = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        run = own_runs(tiny_config(train__compile=compiled, train__max_epoch=1), 0, folder)[0]
        run.work()
        figures.append(torch.load(folder / run.name / "last.pth.tar", weights_only=True)["models"]["model"])
    for name, weight in figures[0].items():
        torch.testing.assert_close(weight, figures[1][name], rtol=0.02, atol=0.002)
