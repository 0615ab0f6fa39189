"""What tells models apart: paired differences, their errors, and the tables made of them."""

import numpy as np
import pytest

from torchreid_xres.report.suite import (
    as_latex,
    compared,
    cost_table,
    difference,
    pooled_variance,
    quoted_table,
    suite_table,
)


def test_a_difference_is_that_of_the_same_queries():
    generator = np.random.default_rng(0)
    hard = generator.uniform(0, 100, 400)  # queries differ a lot, which models share
    other = np.stack([hard, hard])
    own = np.stack([hard + 2 + generator.normal(0, 4, 400), hard + 2 + generator.normal(0, 4, 400)])
    found = difference(own, other)
    # By a slow loop: the mean of the differences of the seeds' means, and its standard error.
    pairs = [(own[0, q] + own[1, q]) / 2 - hard[q] for q in range(400)]
    middle = sum(pairs) / 400
    error = (sum((pair - middle) ** 2 for pair in pairs) / 399 / 400) ** 0.5
    assert found == pytest.approx((middle, error))
    assert error < 0.2 and found.verdict == "better"
    assert difference(other, own).verdict == "worse"
    # Two seeds on each side: half of the variance of a seed twice
    assert difference(own, other, seed_variance=9.0).error == pytest.approx((error**2 + 9.0) ** 0.5)
    assert difference(own, other, seed_variance=9.0).verdict == "within error"


def test_queries_without_a_match_do_not_count():
    own, other = np.array([[100.0, np.nan, 0.0]]), np.array([[0.0, np.nan, 0.0]])
    assert difference(own, other).points == 50.0
    with pytest.raises(ValueError, match="3 queries cannot be compared with those of 2"):
        difference(own, other[:, :2])


def test_the_variance_from_seed_to_seed_is_of_all_models():
    assert pooled_variance([[50.0, 52.0], [61.0]]) == pytest.approx(2.0)
    assert pooled_variance([[50.0, 52.0], [0.0, 1.0, 2.0]]) == pytest.approx((2.0 + 2.0) / 3)
    assert pooled_variance([[50.0], [61.0]]) == 0.0


def cell(label, seed, rank1, ap):
    return {"label": label, "seed": seed, "queries": {"rank1": rank1, "mAP": ap}}


@pytest.fixture
def result():
    cells = [
        cell("stock", 1, [100.0, 0.0, None, 0.0], [60.0, 30.0, None, 20.0]),
        cell("stock", 2, [100.0, 0.0, None, 0.0], [60.0, 30.0, None, 20.0]),
        cell("worse", 1, [0.0, 0.0, None, 0.0], [49.0, 20.0, None, 10.0]),
        cell("alike", 1, [0.0, 100.0, None, 0.0], [70.0, 10.0, None, 31.0]),
    ]
    told = compared(cells, {"stock": "stock", "worse": "stock", "alike": "stock", "missing": "stock"})

    def row(label, seeds):
        figures = {"rank1": 50.0, "rank5": 60.0, "rank10": 70.0, "mAP": 40.0, "mINP": 10.0}
        by_rate = {"2": {"rank1": 80.0}, "4": {"rank1": 20.0}}
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
    stock, worse, alike = (line.split("|") for line in lines[2:])
    assert stock[-2].strip() == "-" and "41.5 ± 0.7" in lines[2] and " 80.0 " in lines[2]
    assert worse[-2].strip() == "worse" and worse[-3].strip() == "-10.3 ± 0.3"
    assert alike[-2].strip() == "within error"


def test_costs_and_quoted_figures_have_tables_of_their_own(result):
    text = cost_table(result)
    assert "0.41" in text and "0.065" in text and "128x64" in text and "400" in text
    block = {"figures": ["rank1", "mAP"], "rows": [{"model": "X", "source": "X, Table 1", "values": [50.0, None]}]}
    text = quoted_table(block)
    assert "quoted rank-1" in text and "X, Table 1" in text and "| - " in text.replace("  ", " ")


def test_latex_has_no_sign_it_cannot_print(result):
    text = as_latex(suite_table(result, style="latex_booktabs"))
    assert r"\toprule" in text and r"41.5 $\pm$ 0.7" in text
    text.encode("ascii")
