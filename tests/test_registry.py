import pytest

from torchreid_xres.registry import Registry


def make_apple():
    return "apple"


def make_pear():
    return "pear"


def test_builds_and_keeps_facts_beside_the_builder():
    fruits = Registry("fruit")
    fruits.register("apple", colour="red")(make_apple)
    assert fruits.build("apple") == "apple"
    assert fruits["apple"].meta == {"colour": "red"}
    assert list(fruits) == ["apple"] and len(fruits) == 1 and "apple" in fruits


def test_same_builder_twice_is_harmless_another_is_refused():
    fruits = Registry("fruit")
    fruits.register("apple")(make_apple)
    fruits.register("apple")(make_apple)
    with pytest.raises(ValueError, match=r"the fruit 'apple' is registered already, by .*make_apple"):
        fruits.register("apple")(make_pear)


def test_a_miss_names_the_nearest_and_all():
    fruits = Registry("fruit")
    fruits.register("apple")(make_apple)
    fruits.register("pear")(make_pear)
    with pytest.raises(KeyError, match=r"no fruit named 'aple'; did you mean 'apple'\? There are: apple, pear"):
        fruits.build("aple")
    with pytest.raises(KeyError, match=r"no fruit named 'fig'\. There are: apple, pear"):
        fruits.build("fig")
