"""Of all records that this repository keeps, none owes a figure to a choice on the test."""

import json

import pytest

from torchreid_xres.features.choices import choices_of, choices_within


def test_no_kept_record_was_chosen_on_the_test(repo):
    files = [*(repo / "benchmarks" / "results").rglob("*.json"), *(repo / "tests" / "golden").rglob("*.json")]
    assert len(files) > 30
    for file in files:
        choices_within(json.loads(file.read_text(encoding="utf-8")))  # refuses one


@pytest.mark.parametrize("on", ["test", "query", None, ""])
def test_a_choice_on_the_test_is_refused_wherever_it_stands(on):
    chosen = {"chosen": [{"what": "epoch", "on": "validation"}, {"what": "skip", "on": on}]}
    for content in (chosen, {"rows": [{"records": [chosen]}]}, {"search": {"on": on}}):
        with pytest.raises(ValueError, match=r"was chosen on .*; allowed are validation, training"):
            choices_within(content)
    with pytest.raises(ValueError, match="skip was chosen on None"):
        choices_of({"chosen": [{"what": "skip"}]})


def test_a_record_without_a_choice_has_none():
    assert choices_of({"mAP": 1.0}) == choices_of({"mAP": 1.0, "search": None}) == choices_within([1, "a", None]) == []
