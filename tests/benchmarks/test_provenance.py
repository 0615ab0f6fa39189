"""What made a cell is what made each of its runs, whoever measures it later."""

import pytest

from torchreid_xres.comparison.suite import notes


@pytest.fixture
def provenance(benchmark_module):
    return benchmark_module("provenance")


def test_a_cell_keeps_what_trained_it(benchmark_module, provenance, tiny_config, tmp_path, monkeypatch):
    cells = benchmark_module("cells")
    cfg = tiny_config(model__name="tiny_net", data__pairs=False, train__max_epoch=1)
    row = benchmark_module("suites").Row("tiny_net", "stock", "", [], "tiny_net", [1])
    monkeypatch.setattr(provenance, "COMMIT", "a" * 12)
    first = cells.run_cell(row, cfg, tmp_path)
    monkeypatch.setattr(provenance, "COMMIT", "b" * 12)
    again = cells.run_cell(row, cfg, tmp_path)
    assert first["origin"] == again["origin"] and first["origin"]["commit"] == "a" * 12
    assert first["cost"]["peak_mb"] == again["cost"]["peak_mb"] and "resumed" not in first["origin"]


def test_stages_of_other_commits_and_stops_are_told(provenance, tmp_path):
    (tmp_path / "old").mkdir(), (tmp_path / "new").mkdir()
    made = [provenance.made_by(tmp_path / "old", {"commit": "a"}, 10, True)]
    made += [provenance.made_by(tmp_path / name, {"commit": "b"}, 20, False) for name in ("old", "new")]
    assert [part["peak_mb"] for part in made] == [10, 10, 20]
    cell = provenance.origin_of_all(made)
    assert cell == {"commit": "b", "earlier": ["a"], "resumed": True}
    said = notes({"rows": [{"label": "x", "difference": None, "cells": [cell, {"commit": "b"}]}]})[-1]
    assert "commit b" in said and "earlier stages of a (1 cells)" in said and "1 gone on with after a stop" in said
