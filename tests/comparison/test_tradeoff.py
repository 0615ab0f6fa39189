"""Figures for a paper: bins that all rows share, gains over one baseline, and what is left out."""

import numpy as np
import pytest

from torchreid_xres.comparison.gain import gains
from torchreid_xres.comparison.tradeoff import (
    BINS,
    bins_of,
    draw_gains,
    draw_magnification,
    gain_points,
    lines_by_magnification,
    queries_beside,
    queries_by_row,
    usual_cost,
)

SEEDS = {"base": 3, "good": 2, "once": 1}
STORED = np.array([64, 64, 43, 43, 32, 32, 32, 64])


def arrays_of(height=128):
    """Figures by query: a row's rank-1 is 100 in its first queries; the last query has no match."""
    found = {}
    for label, seeds in SEEDS.items():
        for seed in range(1, seeds + 1):
            rank1 = np.where(np.arange(8) < {"base": 2, "good": 3 + seed, "once": 1}[label], 100.0, 0.0)
            rank1[7] = np.nan
            facts = {"pid": [1, 1, 2, 2, 3, 3, 4, 4], "split": [0] * 8, "magnification": height / STORED}
            found |= {f"{label}/{seed}/{key}": np.asarray(values) for key, values in facts.items()}
            found |= {f"{label}/{seed}/{key}": rank1.astype(np.float32) for key in ("rank1", "mAP")}
    return found


@pytest.fixture
def queries():
    return queries_by_row(arrays_of())


@pytest.fixture
def result(queries):
    runs = [(label, seed, run) for label, held in queries.items() for seed, run in enumerate(held)]
    cells = [dict(zip(("label", "seed", "queries"), run, strict=True)) for run in runs]
    told = gains(cells, {"good": "base", "once": "good"})
    old = {"points": 4.0, "error": 1.0, "verdict": "better"}
    told["old"] = {"against": "base", "rank1": old, "mAP": old}

    def row(label, seconds):
        cost = [{"train_seconds": seconds, "parameters": 2e6}] if seconds else []
        return {"label": label, "kind": "method", "costs": cost, "difference": told.get(label)}

    rows = [row("base", 10.0), row("good", 20.0), row("once", 40.0), row("old", 80.0), row("features", None)]
    return {"suite": "s", "rows": rows}


def test_bins_are_the_values_where_these_are_few_and_large_else_of_like_numbers():
    assert bins_of(np.repeat([4.0, 2.0, 3.0], 5)).tolist() == [2] * 5 + [0] * 5 + [1] * 5
    many = np.random.default_rng(0).permutation(np.linspace(1, 4, 120))
    which = bins_of(many)
    assert np.bincount(which).tolist() == [20] * BINS and many[which == 0].max() < many[which == 1].min()
    tied = np.concatenate([np.full(95, 2.0), np.linspace(2.1, 4, 5)])  # the others would be points of one query
    assert len(set(bins_of(tied)[:95])) == 1 and bins_of(tied).max() < BINS


def test_a_line_has_the_mean_and_deviation_of_its_runs_in_each_bin(queries):
    base, good, once = lines_by_magnification(queries, "rank1")
    assert base.at == pytest.approx([2.0, 128 / 43, 4.0]) and base.mean.tolist() == [100, 0, 0] and base.runs == 3
    assert good.mean.tolist() == pytest.approx([100, 100, 100 / 6])
    assert good.std.tolist() == pytest.approx([0, 0, np.std([0, 100 / 3], ddof=1)])
    assert once.mean.tolist() == [50, 0, 0] and once.std.tolist() == [0, 0, 0]


def test_a_row_of_another_input_size_has_the_same_bins_elsewhere(queries):
    larger = queries_by_row(arrays_of(256))["good"]
    base, good = lines_by_magnification({"base": queries["base"], "good": larger}, "mAP")
    assert good.at == pytest.approx(2 * base.at) and good.mean.tolist() == pytest.approx([100, 100, 100 / 6])
    larger[0]["pid"] = larger[0]["pid"][::-1]
    with pytest.raises(ValueError, match="good was measured on other queries than base"):
        lines_by_magnification({"base": queries["base"], "good": larger}, "mAP")


def test_gains_are_all_over_one_baseline(result, queries):
    points, left_out = gain_points(result["rows"], queries, "base", "mAP", "train_seconds")
    kept = result["rows"][1]["difference"]["mAP"]
    assert [(point.label, point.cost) for point in points] == [("good", 20), ("once", 40), ("old", 80)]
    good, once, old = points
    assert (good.points, good.low, good.high) == (kept["points"], kept["low"], kept["high"])
    assert once.points == pytest.approx(100 / 7 - 200 / 7)  # what is kept is over another row
    assert once.low < once.points < once.high
    assert (old.points, old.low, old.high) == (4.0, None, None)
    assert left_out == {"features": "no gain over base is kept, nor figures by query"}
    points, left_out = gain_points(result["rows"], {}, "base", "mAP", "parameters")
    assert [point.label for point in points] == ["good", "old"] and points[0].low == kept["low"]
    assert list(left_out) == ["once", "features"]
    assert gain_points(result["rows"], {}, "base", "mAP", "multiply_adds")[1]["good"] == "no multiply_adds is kept"


def test_what_is_drawn(result, queries):
    pytest.importorskip("matplotlib")
    drawn = draw_magnification(result["rows"], queries, "rank1")
    axes = drawn.figure.axes[0]
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 3, 3] and len(axes.collections) == 2  # bands
    said = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert said == ["base (n = 3)", "good (n = 2)", "once (n = 1)"] and "in 3 bins" in drawn.about
    assert drawn.left_out == dict.fromkeys(("old", "features"), "no figures by query were kept")
    drawn = draw_gains(result, result["rows"], queries, "mAP", "train_seconds")
    assert {text.get_text() for text in drawn.figure.axes[0].texts} == {"base", "good", "once", "old"}
    assert "3 comparisons" in drawn.about and drawn.about.endswith("without an interval: old")
    alone = draw_gains(result, result["rows"][3:4], {}, "mAP", "train_seconds")
    assert "95 %" not in alone.about


def test_what_cannot_be_drawn_is_told(result, queries):
    with pytest.raises(ValueError, match="no figures by query were kept of these rows"):
        draw_magnification(result["rows"], {}, "rank1")
    with pytest.raises(ValueError, match=r"no row has both a gain over base and train_seconds: .*features"):
        draw_gains(result, result["rows"][4:], queries)
    for row in result["rows"]:
        row["difference"] = None
    with pytest.raises(ValueError, match="no row of the suite s is compared with another"):
        draw_gains(result, result["rows"], queries)


def test_arrays_lie_beside_the_result(tmp_path):
    assert queries_beside(tmp_path / "a.json") == {}
    np.savez_compressed(tmp_path / "a.npz", **{"x/y/1/mAP": np.ones(2)})
    assert list(queries_beside(tmp_path / "a.json")) == ["x/y"]
    whole = (tmp_path / "a.npz").read_bytes()
    for damaged in (whole[:-30], b"", b"text"):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.npz does not hold figures by query"):
            queries_beside(tmp_path / "a.json")


def test_the_processors_seconds_are_taken_where_all_rows_have_them(result):
    assert usual_cost(result["rows"]) == "train_seconds"
    for row in result["rows"]:
        for cost in row["costs"]:
            cost["train_processor_seconds"] = 1.0
    assert usual_cost(result["rows"]) == "train_processor_seconds"
