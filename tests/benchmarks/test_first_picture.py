"""The README's picture: which queries are shown, and what of them."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest


@pytest.fixture(scope="module")
def picture(benchmark_module):
    return benchmark_module("first_picture")


def lists(ranks):
    """Six queries of four persons, the last at another size."""
    query = SimpleNamespace(pid=np.array([1, 1, 2, 3, 4, 4]), rate=[4, 4, 4, 4, 4, 2])
    return SimpleNamespace(rank=np.array(ranks, dtype=float), query=query)


def test_shown_are_small_queries_that_only_ours_finds_the_farthest_first_each_of_another_person(picture):
    stock = lists([5, 9, 1, 20, 7, 50])
    ours = lists([1, 1, 1, 3, 1, 1])
    assert picture.told_apart(stock, ours, 5) == [1, 4]
    assert picture.told_apart(stock, ours, 1) == [1]
    assert picture.told_apart(stock, lists([1, np.nan, 1, 1, 1, 1]), 5) == [3, 4, 0]
    with pytest.raises(ValueError, match="no query that the one run finds"):
        picture.told_apart(ours, stock, 5)


def test_columns_stand_beside_each_other_below_their_headings(picture):
    small, large = PIL.Image.new("RGB", (4, 8), "red"), PIL.Image.new("RGB", (64, 128), "blue")
    queries = [[picture.framed(small, "black")], [picture.framed(small, "black")]]
    assert queries[0][0].size == (66 + 2 * picture.FRAME, picture.HEIGHT + 2 * picture.FRAME)
    drawn = picture.drawing([("query", queries), ("found", [[picture.framed(large, "green")] * 3] * 2)])
    assert drawn.height == picture.HEAD + 2 * (picture.HEIGHT + 2 * picture.FRAME + picture.GAP) + picture.GAP
    colours = {colour for _, colour in drawn.getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 0, 255), (0, 128, 0), (0, 0, 0)} <= colours
    inside = picture.GAP + picture.FRAME, picture.HEAD + picture.FRAME
    assert drawn.getpixel(inside) == (255, 0, 0)
