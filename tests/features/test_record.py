"""Figures by quarters of the queries' size, against a readable loop."""

import math
import statistics

import numpy as np
import pytest

from torchreid_xres.features.record import by_size
from torchreid_xres.metrics import rank_distances


@pytest.fixture
def ranked():
    """The ranking of 40 queries of 10 identities, of which identity 9 is not in the gallery."""
    rng = np.random.default_rng(0)
    pids = np.arange(40) % 10
    gallery = np.repeat(np.arange(9), 3)
    return rank_distances(rng.random((40, 27)), pids, gallery, np.zeros(40, int), np.ones(27, int))


def average(result, rows):
    rows = [row for row in rows if result.valid[row]]
    return {
        "rank1": 100 * statistics.mean(float(result.first[row] < 1) for row in rows),
        "rank5": 100 * statistics.mean(float(result.first[row] < 5) for row in rows),
        "mAP": 100 * statistics.mean(result.ap[row] for row in rows),
        "mINP": 100 * statistics.mean(result.inp[row] for row in rows),
    }


def test_quarters_are_those_of_a_sorted_list(ranked):
    sizes = np.random.default_rng(1).permutation(np.arange(40))[:, None] * [2, 1] + [20, 11]  # all areas differ
    found = by_size(ranked, np.ones(40), sizes, [1, 5])
    order = sorted(range(40), key=lambda row: math.prod(sizes[row].tolist()))
    assert [part["quarter"] for part in found] == [1, 2, 3, 4]
    for part, first in zip(found, (0, 10, 20, 30), strict=True):
        rows = order[first : first + 10]
        sides = sorted(math.sqrt(math.prod(sizes[row].tolist())) for row in rows)
        bounds = [part["from"], part["median"], part["to"]]
        assert bounds == pytest.approx([sides[0], (sides[4] + sides[5]) / 2, sides[9]], abs=0.05)
        assert part["queries"] == 10
        assert {key: part[key] for key in ("rank1", "rank5", "mAP", "mINP")} == pytest.approx(average(ranked, rows))


def test_queries_of_one_size_stay_together(ranked):
    sizes = np.where(np.arange(40)[:, None] < 30, [30, 30], [40, 90])
    first, last = by_size(ranked, np.ones(40), sizes, [1])
    assert (first["from"], first["to"], first["queries"]) == (30, 30, 30)
    assert (last["quarter"], last["from"], last["queries"]) == (4, 60, 10)


def test_a_quarter_without_a_match_is_left_out(ranked):
    sizes = np.where((np.arange(40) % 10 == 9)[:, None], [90, 90], [30, 30])
    assert [part["queries"] for part in by_size(ranked, np.ones(40), sizes, [1])] == [36]


def test_there_are_none_of_one_size_or_of_made_resolution(ranked):
    sizes = np.arange(1, 41)[:, None] * [1, 1]
    assert by_size(ranked, np.ones(40), np.full((40, 2), 8), [1]) == []
    assert by_size(ranked, np.where(np.arange(40) == 3, 2.0, 1.0), sizes, [1]) == []
    assert by_size(ranked, np.ones(40), np.tile([[20, 10], [10, 20]], (20, 1)), [1]) == []  # one area
