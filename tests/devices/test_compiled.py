"""torch.compile: the same results, and a network that chooses its parts is compiled part by part."""

import shutil

import pytest
import torch
from gradients import keep_in_evaluation

from torchreid_xres.devices.compiled import _called, compile_network
from torchreid_xres.jobs.job import own_runs
from torchreid_xres.models import build_model


def test_lists_of_parts_are_taken_apart():
    model = build_model("msifla", num_classes=3, pretrained=False, reid="osnet_x0_25", widths=(4, 8))
    assert _called(model) == [model.cascade, *model.reid]


def test_names_and_results_stay(monkeypatch):
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    model = build_model("sr_reid", pretrained=False, reid="resnet18").eval()
    names, img = list(model.state_dict()), torch.rand(2, 3, 64, 32)
    batch = {"img": img, "rate": torch.ones(2), "low": torch.zeros(2, dtype=torch.bool), "size": torch.full((2, 2), 9)}
    with torch.no_grad():
        before = model.extract(batch)
        compile_network(model, "sr_reid", backend=backend)
        after = model.extract(batch)
    assert seen and torch.equal(before, after) and list(model.state_dict()) == names


@pytest.mark.slow  # compiles for a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_network_takes_the_same_step_and_gives_the_same_features(tiny_config, tmp_path):
    found = []
    for compiled in (False, True):
        engine = own_runs(tiny_config(train__compile=compiled), 0, tmp_path / str(compiled))[0].engine()
        engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, tmp_path
        engine.set_model_mode("eval")
        with torch.no_grad():
            features = engine.extract(next(iter(engine.test_loader["folder"]["query"])))
        engine.set_model_mode("train")
        # Statistics of a small batch make of rounding up to 4 % of a gradient.
        keep_in_evaluation(engine.model, torch.nn.modules.batchnorm._BatchNorm)
        torch.manual_seed(0)
        summary = engine.forward_backward(next(iter(engine.train_loader)))
        gradients = {name: p.grad for name, p in engine.model.named_parameters() if p.grad is not None}
        found.append((features, summary, gradients))
    (features, summary, gradients), (theirs, compiled_summary, compiled_gradients) = found
    torch.testing.assert_close(theirs, features, rtol=1e-3, atol=1e-4)
    assert compiled_summary == pytest.approx(summary, rel=1e-3)
    assert gradients.keys() == compiled_gradients.keys() and len(gradients) > 50
    both = [torch.cat([part[name].flatten() for name in gradients]) for part in (gradients, compiled_gradients)]
    assert (both[0] - both[1]).norm() < 0.01 * both[0].norm()
