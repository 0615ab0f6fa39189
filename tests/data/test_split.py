"""Draws by hashes, and who can be searched."""

import doctest
from collections import Counter

from torchreid_xres.data import Image, split


def test_examples():
    result = doctest.testmod(split)
    assert result.attempted and not result.failed


def test_shuffled_is_a_fair_shuffle():
    # Each of 5 things is first about 200 times in 1000; 4 standard deviations are 51.
    firsts = Counter(split.shuffled(range(5), f"salt {number}")[0] for number in range(1000))
    assert all(149 <= count <= 251 for count in firsts.values()), firsts
    assert sorted(split.shuffled(range(5), "x")) == list(range(5))
    assert split.shuffled([3, 1, 2], "x") == split.shuffled([1, 2, 3], "x")


def test_queries_without_match_are_left_out(caplog):
    caplog.set_level("INFO")
    query = [Image("a", 1, 0, True), Image("b", 2, 0, True), Image("c", 3, 0, True)]
    gallery = [Image("d", 1, 1), Image("e", 2, 0)]
    assert split.with_match(query, gallery) == query[:1]
    assert "2 of 3 queries" in caplog.text


def test_one_per_identity_does_not_depend_on_the_folder():
    def images(folder):
        return [Image(f"{folder}/{number}.jpg", number % 3, 0) for number in range(12)]

    here, there = (split.one_per_identity(images(folder), "x") for folder in ("here", "there"))
    names = [[image.path.split("/")[1] for image in part] for part in here]
    assert names == [[image.path.split("/")[1] for image in part] for part in there]
    assert names != [
        [image.path.split("/")[1] for image in part] for part in split.one_per_identity(images("here"), "y")
    ]
