"""What tells models apart: paired differences, their errors, and the tables made of them."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from torchreid_xres.comparison.gain import gains
from torchreid_xres.comparison.suite import (
    as_latex,
    brief_table,
    cost_table,
    forecast_table,
    quoted_table,
    rate_table,
    restored_table,
    stratified_rank_correlation,
    suite_table,
)


def cell(label, seed, rank1, ap, start="random", split=None):
    facts = {"pid": list(range(len(ap))), "split": split or [0] * len(ap)}
    return {"label": label, "seed": seed, "queries": {**facts, "rank1": rank1, "mAP": ap}, "start": start}


@pytest.fixture
def result():
    cells = [
        cell("stock", 1, [100.0, 0.0, None, 0.0], [60.0, 30.0, None, 20.0]),
        cell("stock", 2, [100.0, 0.0, None, 0.0], [60.0, 30.0, None, 20.0]),
        cell("worse", 1, [0.0, 0.0, None, 0.0], [49.0, 20.0, None, 10.0]),
        cell("alike", 1, [0.0, 100.0, None, 0.0], [70.0, 10.0, None, 31.0]),
    ]
    told = gains(cells, {"stock": "stock", "worse": "stock", "alike": "stock", "missing": "stock"})

    def row(label, seeds):
        figures = {"rank1": 50.0, "rank5": 60.0, "rank10": 70.0, "mAP": 40.0, "mINP": 10.0}
        by_rate = {rate: {"rank1": r1, "mAP": r1 - 10, "mINP": 1.0} for rate, r1 in (("2", 80.0), ("4", 20.0))}
        records = [{**figures, "mAP": 40.0 + seed, "by_rate": by_rate} for seed in seeds]
        cost = {"parameters": 410_000, "multiply_adds": 6.5e7, "train_seconds": 70.4}
        cost |= {"train_speed": 120.0, "extraction_speed": 400.0}
        return {
            "label": label, "kind": "stock", "seeds": seeds, "records": records, "costs": [cost] * len(seeds),
            "start": "random", "input": [128, 64], "difference": told.get(label),
        }  # fmt: skip

    return {"rows": [row("stock", [1, 2]), row("worse", [1]), row("alike", [1])], "told": told}


def test_the_table_says_where_a_model_does_not_help(result):
    assert list(result["told"]) == ["worse", "alike"]
    lines = suite_table(result).splitlines()
    stock, worse, alike = (line.split("|") for line in lines[2:5])
    assert stock[-2].strip() == "-" and "41.5 ± 0.7" in lines[2]
    assert worse[-3].strip() == "-10.3 [-11.0, -10.0]" and worse[-2].strip() == "one seed"
    assert alike[-3].strip().startswith("+0.3 [")


def test_the_rows_that_matter_are_in_the_order_asked_with_gain_and_cost(result):
    table = brief_table(result, ["alike", "stock"])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    figures = ["rank-1", "mAP", "mAP, gain", "mAP is"]
    assert lines[0] == ["model", "seeds", *figures, "multiply-adds (G)", "train (processor s)"]
    alike, stock = lines[2:]
    assert alike[:4] == ["alike", "1", "50.0", "41.0"] and alike[4].endswith(" over stock") and alike[5] == "one seed"
    assert stock == ["stock", "2", "50.0 ± 0.0", "41.5 ± 0.7", "-", "-", "0.065", "-"]
    with pytest.raises(ValueError, match="no row 'alik'; did you mean 'alike'"):
        brief_table(result, ["alik"])


def test_what_restoring_gives_stands_beside_what_it_is_for(result):
    for record, gained in zip(result["rows"][0]["records"], (0.5, 0.7), strict=True):
        record["restoration"] = {"images": 64, "by_rate": {"8": {"psnr_gain": -0.02}, "2": {"psnr_gain": gained}}}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in restored_table(result).splitlines()]
    assert lines[0] == ["model", "seeds", "PSNR x2, gain", "PSNR x8, gain", "rank-1", "mAP"]
    assert lines[2:] == [["stock", "2", "0.60 ± 0.14", "-0.02 ± 0.00", "50.0 ± 0.0", "41.5 ± 0.7"]]
    named = [line.split("|")[1].strip() for line in restored_table(result, ["alike", "stock"]).splitlines()]
    assert named[2:] == ["alike", "stock"]


def test_under_the_table_stands_what_it_means_and_what_made_it(result):
    result["rows"][1]["without_arrays"] = 1
    for row in result["rows"]:
        made = {"commit": "abc", "processor": "P (AVX2)", "threads": 1, "precision": "fp32"}
        row["cells"] = [{"seed": seed, **made} for seed in row["seeds"]]
    text = suite_table(result)
    assert "Compared: 2 with stock, each in rank-1 and mAP. Those with one row share its chance" in text
    assert "so without an interval: worse." in text and "standard deviation over as many seeds" in text
    assert "4 cells, commit abc; processor P (AVX2); precision fp32; threads 1." in text
    result["rows"][2]["cells"][0] |= {"commit": "def", "threads": 2}
    text = suite_table(result)
    assert "several of commit: abc (3 cells), def (1 cells)" in text and "several of threads: 1 (3 cells), 2" in text


def test_figures_by_rate_have_a_table_where_there_are_rates(result):
    head, _, stock, *_ = [[part.strip() for part in line.split("|")[1:-1]] for line in rate_table(result).splitlines()]
    told = dict(zip(head, stock, strict=True))
    assert told["rank-1 x2"] == "80.0 ± 0.0" and told["mAP x4"] == "10.0 ± 0.0" and len(head) == 7
    for row in result["rows"]:
        for record in row["records"]:
            record["by_rate"].pop("4", None)
    assert rate_table(result) == ""


def test_costs_and_quoted_figures_have_tables_of_their_own(result):
    text = cost_table(result)
    assert "0.41" in text and "0.065" in text and "128x64" in text and "400" in text
    block = {"figures": ["rank1", "mAP"], "rows": [{"model": "X", "source": "X, Table 1", "values": [50.0, None]}]}
    text = quoted_table(block)
    assert "quoted rank-1" in text and "X, Table 1" in text and "| - " in text.replace("  ", " ")


def forecast(suite, *rows):
    """A result of models with (cosine to the gap, share, change in mAP); a cosine of None: no gap to tell of."""

    def record(cosine, share):
        gap = {} if cosine is None else {"cosine": cosine, "offset": cosine / 4, "gap": cosine / 2}
        return {"gap": gap, "direction": {"2": {"share": share - 10}, "4": {"share": share + 10}}}

    return {"suite": suite, "vpfa": [
        {
            "label": f"m{i}",
            "records": {"mean direction": [], "VPFA": [record(cosine, share)]},
            "difference": {"VPFA": {"mAP": {"points": change}}, "mean direction": {"mAP": {"points": 99}}},
        }
        for i, (cosine, share, change) in enumerate(rows)
    ]}  # fmt: skip


def test_what_is_known_beforehand_stands_beside_the_change():
    results = [forecast("a", (0.9, 20, 2.0), (0.1, 90, -3.0), (0.5, 60, 1.0)), forecast("b", (None, 0, 50))]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in forecast_table(results).splitlines()]
    assert lines[0] == ["suite", "model", "common direction (%)", "offset", "gap", "cosine", "mAP, change"]
    assert lines[2:5] == [
        ["a", "m0", "20", "0.23", "0.45", "+0.90", "+2.0"],
        ["a", "m1", "90", "0.03", "0.05", "+0.10", "-3.0"],
        ["a", "m2", "60", "0.12", "0.25", "+0.50", "+1.0"],
    ]
    assert lines[5][:2] == ["within suites", "rank correlation"]
    assert lines[5][2].startswith("-1.00 (p 0.3") and lines[5][5].startswith("+1.00 (p 0.3")  # 2 of 6 orders are so far
    with pytest.raises(ValueError, match="needs a suite with three models"):
        forecast_table(results[1:])


def test_a_correlation_within_groups_does_not_see_what_tells_groups_apart():
    generator = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 8)
    x, y = (10 * group + generator.normal(0, 1, 24) for _ in range(2))
    assert spearmanr(x, y).pvalue < 0.001  # what there is lies between the groups
    statistic, p = stratified_rank_correlation(x, y, group)
    assert abs(statistic) < 0.5 and p > 0.05
    alone = spearmanr(x[:8], y[:8])
    statistic, p = stratified_rank_correlation(x[:8], y[:8], [0] * 8)
    assert statistic == pytest.approx(alone.statistic) and p == pytest.approx(alone.pvalue, abs=0.05)
    assert np.isnan(stratified_rank_correlation([1, 1], [1, 2], "aa")).all()


def test_latex_has_no_sign_it_cannot_print(result):
    text = as_latex(suite_table(result, style="latex_booktabs"))
    assert r"\toprule" in text and r"41.5 $\pm$ 0.7" in text
    assert r"in 95 \% of draws" in text
    text.encode("ascii")
