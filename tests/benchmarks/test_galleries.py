"""The benchmarks of galleries, of what a server takes, and of fewer dimensions, at small sizes."""

import argparse
import json

import pytest


@pytest.fixture
def args():
    return argparse.Namespace(gallery=200, images_each=20, intrinsic=4, noise=0.5, dim=8, seed=0, queries=3, k=5)


def test_a_drawn_gallery_is_built_and_asked(benchmark_module, args, tmp_path):
    module = benchmark_module("galleries")
    made = module.build(args, str(tmp_path / "gallery"), 200)
    asked, found = module.ask(args, str(tmp_path / "gallery"), 200)
    assert made["build rows/s"] > 0 and asked["ms"] > 0 and [len(names) for names in found] == [5, 5, 5]


def test_a_record_does_not_say_where_galleries_lay(benchmark_module, monkeypatch, tmp_path):
    module = benchmark_module("galleries")
    monkeypatch.setattr(module, "compare", lambda args, count, told: told.append({"images": count}))
    keep = tmp_path / "kept.json"
    assert module.main(["--images", "100", "--place", str(tmp_path), "--keep", str(keep)]) == 0
    kept = json.loads(keep.read_text())
    assert kept["rows"] == [{"images": 100}] and "place" not in kept["settings"]


def test_what_a_server_takes_is_the_sum_of_its_parts(benchmark_module, args):
    module = benchmark_module("sizing")
    flat = module.takes("FLAT", 10**6, 512, 100, 48e9)
    assert flat["memory GB"] == pytest.approx((2048 + 100) / 1e3) and flat["nodes"] == 1
    assert flat["disk GB"] == pytest.approx((2 * 2048 + 100) / 1e3)
    hnsw = module.takes("HNSW", 10**9, 512, 100, 48e9)
    assert hnsw["memory GB"] == pytest.approx(2048 + 100 + 4 * 64) and hnsw["nodes"] == 51
    assert module.takes("DISKANN", 10**9, 512, 0, 48e9)["memory GB"] == pytest.approx(512)
    assert 100 < module.facts_bytes(args) < 1000
