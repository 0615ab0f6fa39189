"""Gains with their intervals: the bootstrap against slow oracles, and what is told apart."""

import doctest

import numpy as np
import pytest

from torchreid_xres.comparison import gain as module
from torchreid_xres.comparison.gain import gain, gains


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_the_interval_is_that_of_drawing_queries_as_pairs():
    generator = np.random.default_rng(0)
    hard = generator.uniform(0, 100, 400)  # queries differ a lot, which models share
    own, other = (hard + 2 + generator.normal(0, 4, 400))[None], hard[None]
    found = gain(own, other, range(400))
    pairs = (own - other)[0]
    error = pairs.std(ddof=1) / 20
    assert found.points == pytest.approx(pairs.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.verdict == "better" and gain(other, own, range(400)).verdict == "worse"
    slow = np.random.default_rng(1)
    drawn = [pairs[slow.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.03)


def test_queries_of_one_identity_are_drawn_together():
    generator = np.random.default_rng(0)
    pairs = np.repeat(generator.normal(0, 10, 50), 4)
    identity = np.repeat(np.arange(50), 4)
    order = generator.permutation(200)
    together = gain(pairs[None, order], np.zeros((1, 200)), identity[order])
    alone = gain(pairs[None, order], np.zeros((1, 200)), range(200))
    assert together.high - together.low == pytest.approx(2 * (alone.high - alone.low), rel=0.08)
    with pytest.raises(ValueError, match="two identities or more"):
        gain(pairs[None], np.zeros((1, 200)), [7] * 200)


def test_queries_without_a_match_do_not_count():
    own, other = np.array([[100.0, np.nan, 0.0]]), np.array([[0.0, np.nan, 0.0]])
    assert gain(own, other, [1, 2, 3]).points == 50.0
    with pytest.raises(ValueError, match="3 queries cannot be compared with those of 2"):
        gain(own, other[:, :2], [1, 2, 3])


def steady(*means, queries=200):
    """Runs of a model, one for each mean, in which all queries do alike: only training has chance."""
    return np.repeat(np.array(means, dtype=float)[:, None], queries, axis=1)


def test_training_anew_counts_as_much_as_seeds_say():
    own, other = steady(40, 44, 42), steady(30, 38, 34)
    found = gain(own, other, range(200))
    error = (4 / 3 + 16 / 3) ** 0.5  # of the two means, from their variances 4 and 16
    assert found.points == pytest.approx(8)
    # Student's quantile at 2.94 degrees of freedom, by Welch and Satterthwaite.
    assert found.high - found.low == pytest.approx(2 * 3.22 * error, rel=0.12)
    # A few points from one seed to the next, the same for both: only where they are pairs that says nothing.
    paired = gain(own, own - 3, range(200), same_training=True)
    assert (paired.low, paired.high) == (pytest.approx(3), pytest.approx(3))
    assert gain(own, own - 3, range(200)).verdict == "not told apart"
    with pytest.raises(ValueError, match="3 and 2 runs are no pairs"):
        gain(own, own[:2], range(200), same_training=True)


@pytest.mark.parametrize("counts", [(2, 2), (3, 3), (3, 5)])
def test_models_that_are_alike_are_told_apart_as_rarely_as_is_said(counts):
    """Trainings that differ by chance alone, over queries that are equally hard for all."""
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(150):
        one, other = (np.repeat(generator.normal(50, 2, (runs, 1)), 40, axis=1) for runs in counts)
        wrong += gain(one, other, range(40)).verdict != "not told apart"
    assert wrong / 150 <= 0.10


def test_splits_are_trainings():
    split = np.repeat([0, 1, 2], 100)
    own = np.repeat([[42.0, 44.0, 46.0]], 100, axis=1)
    found = gain(own, np.full((1, 300), 40.0), range(300), split)
    assert found.points == pytest.approx(4)
    assert found.high - found.low == pytest.approx(2 * 4.30 * (4 / 3) ** 0.5, rel=0.12)  # at 2 degrees


def cell(label, seed, figures, pid=None):
    pid = range(len(figures)) if pid is None else pid
    return {
        "label": label,
        "seed": seed,
        "queries": {"pid": list(pid), "split": [0] * len(figures), "rank1": figures, "mAP": figures},
    }


def test_gains_of_a_suite():
    cells = [cell("a", 1, [40.0, 41, 42]), cell("a", 2, [40.0, 42, 41]), cell("b", 1, [60.0, 62, 61]),
             cell("b", 2, [61.0, 62, 60]), cell("c", 1, [10.0, 90, 20])]  # fmt: skip
    told = gains([*cells, {"label": "old", "seed": 1, "queries": None}], {"b": "a", "c": "a", "a": "a", "old": "a"})
    assert list(told) == ["b", "c"]
    assert told["b"]["mAP"]["verdict"] == "better" and told["b"]["against"] == "a"
    assert told["b"]["mAP"]["low"] > 15 and told["b"]["mAP"]["high"] < 25
    assert told["c"]["rank1"]["verdict"] == "one seed"
    with pytest.raises(ValueError, match="different queries"):
        gains([*cells, cell("d", 1, [1.0, 2, 3], pid=[5, 6, 7])], {"d": "a"})
