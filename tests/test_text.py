"""Tables hold names from outside: they stay one row a row, and no more than a table."""

import doctest

import pytest

from torchreid_xres import text
from torchreid_xres.features.tables import accuracy_table
from torchreid_xres.text import text_table

NAMES = ("a|b", "c\nd", "e\x1b[2Jf", "<script>alert(1)</script>", "[x](javascript:1)", "a_b%&#$", "=cmd()", "\udcff")


def test_examples():
    assert doctest.testmod(text).failed == 0


@pytest.mark.parametrize("style", ["github", "pipe", "latex", "latex_booktabs", "html", "simple", "tsv"])
@pytest.mark.parametrize("where", ["cell", "header"])
def test_a_name_stays_in_its_cell(style, where):
    plain = text_table([{"name": "x", "n": 1}], style)
    for name in NAMES:
        made = text_table([{"name": name, "n": 1}] if where == "cell" else [{name: "x", "n": 1}], style)
        assert len(made.splitlines()) == len(plain.splitlines())
        assert "\x1b" not in made
        made.encode()
        if style in ("github", "pipe"):
            assert made.count("|") - made.count(r"\|") == plain.count("|")
            assert made.replace(r"\<", "").count("<") == 0 and "](" not in made
        if style == "html":
            assert "<script>" not in made
        if style.startswith("latex"):
            assert not {"a_b", "b%", "%&", "&#", "#$"} & {made[i : i + n] for n in (2, 3) for i in range(len(made))}


def test_names_that_look_like_numbers_stay_names():
    assert "| 007.50 |" in text_table([{"n": "007.50"}]) and "| 1e5 |" in text_table([{"n": "1e5"}])


def test_cells_of_several_lines_are_of_the_grid_alone():
    assert len(text_table([{"n": "a\nb"}], "grid").splitlines()) == 6


def test_a_models_name_cannot_break_the_table_of_accuracies():
    record = {"dataset": "d", "model": "m|n\n<b>", "by_rate": {}, "parameters": 1, "mAP": 1.0, "mINP": 1.0}
    made = accuracy_table([record | {"rank1": 1.0}], ranks=[1])
    assert len(made.splitlines()) == 3 and r"| m\|n\n\<b> |" in made
