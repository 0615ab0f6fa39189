"""The variants that the step's benchmark compares are the same step."""

import json

import pytest
import tiny_net
import torch
from doubles import cast, doubles_kept

from torchreid_xres.config import load_config


@pytest.fixture(scope="module")
def step(benchmark_module):
    return benchmark_module("msifla_step")


TINY = ["model.reid", tiny_net.NAME, "model.options", "{widths: [4, 8]}", "data.height", "64", "data.width", "32",
        "train.batch_size", "8", "train.precision", "fp32", "use_gpu", "False"]  # fmt: skip


@pytest.mark.parametrize("other", ["plain", "one call"])
def test_variants_have_the_engines_losses(step, repo, other):
    cfg = load_config(repo / "configs" / "msifla_mlr_market.yaml", TINY)
    batch, losses = cast(step.make_batch(cfg), torch.float64), []
    with doubles_kept():  # of single precision's rounding a step makes visible differences
        for variant in ("engine", other):
            made = step.make_engine(cfg, variant, classes=5)
            made.model.double()
            first = made.forward_backward(batch)
            second = made.forward_backward(batch)  # after a step: gradients, optimiser and statistics agree too
            losses.append((first, second))
    for a, b in zip(*losses, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_the_table_and_the_record(step, tmp_path, capsys):
    argv = ["--variants", "plain", "joint", "--repeats", "2", "--keep", str(tmp_path / "kept.json"), *TINY]
    threads = torch.get_num_threads()
    assert step.main(argv) == 0
    torch.set_num_threads(threads)
    assert "| plain" in capsys.readouterr().out
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert [row["variant"] for row in kept["rows"]] == ["plain", "joint"] and kept["rows"][0]["times plain"] == 1
