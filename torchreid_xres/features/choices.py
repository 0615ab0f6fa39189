"""What a record's figures owe to a choice, and on which images it was made: never on those of the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALLOWED = ("validation", "training")


def choices_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the choices of a record: ``what`` was chosen, ``on`` which images, and what else is told of it.

    Args:
        record: of an evaluation. One made before choices were told of has a ``search`` alone, on training images.

    Raises:
        ValueError: for a choice that does not say on what it was made, or was made on anything but the validation part
            or training images.

    Example:
        >>> choices_of({"mAP": 50.0, "chosen": [{"what": "epoch", "on": "validation", "epoch": 12}]})
        [{'what': 'epoch', 'on': 'validation', 'epoch': 12}]
        >>> choices_of({"mAP": 50.0, "chosen": [{"what": "epoch", "on": "test"}]})
        Traceback (most recent call last):
        ValueError: epoch was chosen on 'test'; allowed are validation, training
    """
    search = record.get("search")
    before = [{"what": "search", "on": search.get("on", "training")}] if isinstance(search, Mapping) else []
    found = record.get("chosen", before)
    for choice in found:
        if choice.get("on") not in ALLOWED:
            told = f"{choice.get('what')} was chosen on {choice.get('on')!r}"
            raise ValueError(f"{told}; allowed are {', '.join(ALLOWED)}")
    return found


def choices_within(content: Any) -> list[Mapping[str, Any]]:
    """Return the choices of all records in what a JSON file holds, however nested; see :func:`choices_of`."""
    if isinstance(content, Mapping):
        inner = [choice for value in content.values() for choice in choices_within(value)]
        return [*(choices_of(content) if {"chosen", "search"} & content.keys() else []), *inner]
    return [choice for value in content for choice in choices_within(value)] if isinstance(content, list) else []
