"""What tells models apart: paired differences, their errors, and the tables made of them."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from torchreid_xres.report.suite import (
    as_latex,
    compared,
    cost_table,
    difference,
    forecast_table,
    pooled_variance,
    quoted_table,
    rate_table,
    stratified_rank_correlation,
    suite_table,
)


def test_a_difference_is_that_of_the_same_queries():
    generator = np.random.default_rng(0)
    hard = generator.uniform(0, 100, 400)  # queries differ a lot, which models share
    other = np.stack([hard, hard])
    own = np.stack([hard + 2 + generator.normal(0, 4, 400), hard + 2 + generator.normal(0, 4, 400)])
    identity = range(400)
    # By a slow loop: the mean of the differences of the seeds' means, and its standard error.
    pairs = [(own[0, q] + own[1, q]) / 2 - hard[q] for q in range(400)]
    middle = sum(pairs) / 400
    error = (sum((pair - middle) ** 2 for pair in pairs) / 399 / 400) ** 0.5
    found = difference(own, other, identity)
    assert found == pytest.approx((middle, error))
    assert error < 0.2 and found.verdict == "better"
    assert difference(other, own, identity).verdict == "worse"
    assert difference(own, other, identity, by_chance=9.0).error == pytest.approx((error**2 + 9.0) ** 0.5)
    assert difference(own, other, identity, by_chance=9.0).verdict == "within error"


def test_queries_of_one_identity_are_not_drawn_alone():
    generator = np.random.default_rng(0)
    persons = generator.normal(0, 10, 50)
    pairs = np.repeat(persons, 4) + generator.normal(0, 1, 200)
    identity = np.repeat(np.arange(50), 4)
    order = generator.permutation(200)
    found = difference(pairs[None, order], np.zeros((1, 200)), identity[order])
    # With as many queries of each identity it is the standard error of the identities' means.
    means = pairs.reshape(50, 4).mean(axis=1)
    assert found == pytest.approx((means.mean(), means.std(ddof=1) / 50**0.5))
    with pytest.raises(ValueError, match="two identities or more"):
        difference(pairs[None], np.zeros((1, 200)), [7] * 200)


def test_queries_without_a_match_do_not_count():
    own, other = np.array([[100.0, np.nan, 0.0]]), np.array([[0.0, np.nan, 0.0]])
    assert difference(own, other, [1, 2, 3]).points == 50.0
    with pytest.raises(ValueError, match="3 queries cannot be compared with those of 2"):
        difference(own, other[:, :2], [1, 2, 3])


def test_the_variance_from_seed_to_seed_is_of_all_models():
    assert pooled_variance([[50.0, 52.0], [61.0]]) == pytest.approx(2.0)
    assert pooled_variance([[50.0, 52.0], [0.0, 1.0, 2.0]]) == pytest.approx((2.0 + 2.0) / 3)
    assert pooled_variance([[50.0], [61.0]]) == 0.0


def cell(label, seed, rank1, ap, start="random", split=None):
    facts = {"pid": list(range(len(ap))), "split": split or [0] * len(ap)}
    return {"label": label, "seed": seed, "queries": {**facts, "rank1": rank1, "mAP": ap}, "start": start}


def steady(label, *means, start="random"):
    """Runs of a model, one for each mean, in which all queries do alike."""
    return [cell(label, seed, [m, m, m], [m, m, m], start) for seed, m in enumerate(means)]


def test_seeds_count_among_models_that_start_alike():
    cells = [*steady("a", 40, 44), *steady("b", 30, 38), *steady("c", 60), *steady("d", 70, 71, start="zoo")]
    told = compared(cells, {"b": "a", "c": "a", "d": "a"})
    random = (8 + 32) / 2  # of two models, one degree of freedom each
    assert told["b"]["mAP"]["points"] == -8
    assert told["b"]["mAP"]["error"] == pytest.approx((random / 2 + random / 2) ** 0.5)
    assert told["c"]["mAP"]["error"] == pytest.approx((random / 1 + random / 2) ** 0.5)
    assert told["d"]["mAP"]["error"] == pytest.approx((0.5 / 2 + random / 2) ** 0.5)
    # One seed only of those that start alike: the others' spread is better than none.
    (lone,) = compared([*cells, *steady("e", 50, start="elsewhere")], {"e": "d"}).values()
    assert lone["mAP"]["error"] == pytest.approx(((8 + 32 + 0.5) / 3 + 0.5 / 2) ** 0.5)


def test_one_seed_everywhere_gives_no_verdict():
    one = [*steady("a", 40), *steady("b", 60)]
    assert compared(one, {"b": "a"})["b"]["mAP"] == {"points": 20.0, "error": 0.0, "verdict": "one seed"}
    assert compared(one, {"b": "a"}, same_training=True)["b"]["mAP"]["verdict"] == "better"
    assert compared([*one, *steady("c", 1, 2)], {"b": "a"})["b"]["mAP"]["verdict"] == "better"


def test_splits_differ_as_trainings_do():
    split = [0, 0, 1, 1]
    cells = [cell("a", 1, [0.0] * 4, [0.0] * 4, split=split), cell("b", 1, [1, 3, 5, 7], [1, 3, 5, 7], split=split)]
    told = compared(cells, {"b": "a"})["b"]["mAP"]
    by_queries = (9 + 1 + 1 + 9) / 3 / 4
    by_splits = 8 / 2  # 2 and 6 points
    assert told == {"points": 4.0, "error": pytest.approx((by_queries + by_splits) ** 0.5), "verdict": "within error"}


def test_other_queries_are_not_compared():
    cells = [*steady("a", 40), *steady("b", 60)]
    cells[1]["queries"]["pid"] = [5, 6, 7]
    with pytest.raises(ValueError, match="different queries"):
        compared(cells, {"b": "a"})


def test_what_one_trained_network_gives_differs_by_its_gain_only():
    cells = [*steady("before", 40, 60), *steady("a", 41, 61), *steady("b", 41, 63)]
    told = compared(cells, {"a": "before", "b": "before"}, same_training=True)
    assert told["a"]["mAP"]["points"] == 1 and told["b"]["mAP"]["points"] == 2
    assert told["a"]["mAP"]["error"] == pytest.approx(((0 + 2) / 2 / 2) ** 0.5)


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
    stock, worse, alike = (line.split("|") for line in lines[2:])
    assert stock[-2].strip() == "-" and "41.5 ± 0.7" in lines[2]
    assert worse[-2].strip() == "worse" and worse[-3].strip() == "-10.3 ± 0.3"
    assert alike[-2].strip() == "within error"


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
    text.encode("ascii")
