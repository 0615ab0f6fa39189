"""The benchmarks of ranking, re-ranking and search at sizes of no meaning: they run, and compare like with like."""

import json

import pytest
import torch

TINY = ["--queries", "40", "--gallery", "120", "--dim", "16", "--identities", "10", "--repeats", "2"]


@pytest.fixture
def run(benchmark_module, tmp_path):
    def run(name, *argv):
        threads, keep = torch.get_num_threads(), tmp_path / f"{name}.json"
        assert benchmark_module(name).main([*argv, "--keep", str(keep)]) == 0
        torch.set_num_threads(threads)
        kept = json.loads(keep.read_text())
        assert kept["machine"]["threads"] == 1 and len(kept["machine"]["load"]) == 3
        assert torch.__version__.startswith(kept["versions"]["torch"])
        for row in kept["rows"]:
            middle = row["ms, one" if name == "search" else "seconds"]
            assert row["lower quartile"] <= middle <= row["upper quartile"]
        return kept

    return run


@pytest.mark.slow
def test_ranking(run, capsys):
    kept = run("ranking", *TINY)
    rows = {(row["what"][:7], row["side"]): row for row in kept["rows"]}
    assert rows["a given", "ours"]["ratio"] == rows["feature", "matrix product"]["ratio"] == 1
    assert rows["a given", "host, Python"]["runs"] == 1 and rows["a given", "ours"]["runs"] == 2
    assert all(row["CMC off by"] == 0 and row["mAP off by"] < 1e-6 for key, row in rows.items() if key[0] == "a given")
    assert 0 < kept["mAP"] <= 1 and "| ours, with ROC" in capsys.readouterr().out


def test_ranking_without_the_matrix(run):
    kept = run("ranking", *TINY, "--no-matrix")
    assert {row["what"] for row in kept["rows"]} == {"features, 1 = product"}
    assert kept["roofline"]["passes"].keys() == {row["side"] for row in kept["rows"][1:]}


@pytest.mark.slow
def test_reranking(run):
    kept = run("reranking", *TINY, "--noise", "0.5")
    rows = {row["side"]: row for row in kept["rows"]}
    assert all(row["moved"] == 0 for side, row in rows.items() if side != "matrix product")
    assert all(row["mAP off by"] < 1e-6 for side, row in rows.items() if side != "matrix product")
    assert float(rows["ours, from features"]["mAP"]) != pytest.approx(kept["mAP_without"], abs=1e-9)
    fewer = run("reranking", *TINY, "--no-given")["rows"]
    assert [row["side"] for row in fewer] == ["matrix product", "ours, from features"]


def test_search(run, capsys):
    pytest.importorskip("faiss")
    sizes = ["--gallery", "3000", "--queries", "30", "--dim", "16", "--intrinsic", "6", "--lists", "20"]
    kept = run("search", *sizes, "--probes", "1", "20", "--one-by-one", "3", "--machine-gb", "0.1")
    exact, few, all_lists = kept["rows"]
    assert exact["recall"] == all_lists["recall"] == 1 and 0.1 < few["recall"] < 1
    assert kept["disk"]["same answers"]
    ten, hundred, _ = kept["shards"]
    assert ten["GB"] == pytest.approx(10 * (4 * 16 + 8) / 1e3) and ten["machines of 0.1 GB"] == 8
    assert hundred["images each"] * hundred["machines of 0.1 GB"] >= 100_000_000
    assert "| exact" in capsys.readouterr().out
