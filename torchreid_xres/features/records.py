"""Kept records, read back: a damaged one is refused with its file and the key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_NUMBER = r"-?\d+(\.\d+)?(e[+-]?\d+)?"


class _Object(NamedTuple):
    """What an object holds: a pattern of keys -> what is wanted there, and keys that must be there."""

    keys: Mapping[str, Any]
    needed: Sequence[str] = ()
    free: bool = True  # other keys may hold anything


_BY_FPR = _Object({rf"fpr{_NUMBER}": "a number"}, free=False)
_FIGURES = {r"rank\d+|mAP|mINP": "a number", "queries": "a whole number", "tpr": _BY_FPR,
            "accept": _Object({rf"fpr{_NUMBER}": "a number or null"}, free=False)}  # fmt: skip
_PART = _Object(_FIGURES, ("rank1", "mAP"))
_BY_NUMBER = _Object({_NUMBER: _PART._replace(keys=_FIGURES | {"magnification": "a number or null"})}, free=False)
_ROW = _PART._replace(needed=("rank1", "mAP", "queries"))
_ROWS = _Object({_NUMBER: _ROW}, free=False)
_SIDES = ("from", "median", "to")
_QUARTER = _Object({**_FIGURES, "from|median|to|quarter": "a number"}, (*_SIDES, "quarter", *_ROW.needed))
_RECORD = _Object(
    {
        **_FIGURES,
        "dataset|model": "a text",
        "manifest|weights_sha256": "a text or null",
        "cmc": ["a number"],
        "curve": _BY_NUMBER,
        "by_rate|by_camera": _ROWS,
        "by_size": [_QUARTER],
        "magnification": _Object({"all|low": "a number or null"}, ("all", "low")),
        "protocol": _Object(
            {"protocol|distance": "a text", "draws|seed": "a whole number", "normalize|rerank|flip": "true or false"}
        ),
        "parameters|query_images|gallery_images|wrong_pairs": "a whole number",
        "train_seconds": "a number",
    },
    ("dataset", "model"),
)
_KINDS = {
    "a number": lambda value: type(value) in (int, float) and abs(value) < 1e300,  # NaN is not
    "a whole number": lambda value: type(value) is int and abs(value) < 1e300,
    "a text": lambda value: type(value) is str,
    "true or false": lambda value: type(value) is bool,
}


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such run folder or record")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also bytes that are no text
        raise ValueError(f"{path} is not readable as JSON: {error}") from error


def read_record(path: str | Path, dataset: str = "") -> dict:
    """Return the record of a ranking.

    Args:
        path: folder of a run, which keeps one record for each data set it was evaluated on, or a record's file.
        dataset: registered name; empty where there is only one.

    Raises:
        FileNotFoundError: if there is no such file, or no record in the folder.
        ValueError: if the file is no record of a ranking or a damaged one, or there are several and ``dataset`` is not
            one of them.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("results/*.json"))
        found = {file.stem: file for file in files if not file.name.startswith("manifest_")}
        if not found:
            raise FileNotFoundError(f"{path} holds no results/*.json: no run was evaluated there")
        if not dataset and len(found) > 1:
            raise ValueError(f"{path} was evaluated on {', '.join(found)}: name one of them")
        if dataset and dataset not in found:
            raise ValueError(f"{path} was not evaluated on {dataset!r}, but on {', '.join(found)}")
        path = found[dataset or next(iter(found))]
    record = check_record(read_json(path), path, ("protocol", "rank1", "mAP", "cmc", "by_rate"))
    if dataset and record["dataset"] != dataset:
        raise ValueError(f"{path} is a record of {record['dataset']}, not of {dataset}")
    return record


def evaluated_runs(folder: str | Path, dataset: str = "") -> list[Path]:
    """Return the runs in and below a folder whose ranking was evaluated, by name.

    Args:
        folder: of a run, or of several.
        dataset: registered name of the set they were evaluated on; empty where there is only one.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a record is no JSON, or ``dataset`` is needed, or not one of theirs.
    """
    found: dict[str, set[Path]] = {}
    for file in Path(folder).rglob("results/*.json"):
        if not file.name.startswith("manifest_") and "rank1" in read_json(file):
            found.setdefault(file.stem, set()).add(file.parent.parent)
    if not found:
        raise FileNotFoundError(f"{folder} holds no results/*.json of a ranking: no run was evaluated there")
    if dataset and dataset not in found:
        raise ValueError(f"{folder} holds no run that was evaluated on {dataset!r}, but on {', '.join(sorted(found))}")
    if not dataset and len(found) > 1:
        raise ValueError(f"the runs in {folder} were evaluated on {', '.join(sorted(found))}: name one of them")
    return sorted(found[dataset or next(iter(found))])


def check_record(record: Any, where: str | Path, needed: Sequence[str] = ()) -> dict:
    """Return the record of a ranking, if what tables and drawings take from it is of the right kind.

    Args:
        record: as JSON gives it.
        where: its file, for the message.
        needed: keys it must have besides data set and model.

    Raises:
        ValueError: naming the file, the key, what is there and what is wanted.

    Example:
        >>> check_record({"dataset": "d", "model": "m", "cmc": [50.0, None]}, "here.json")
        Traceback (most recent call last):
        ...
        ValueError: here.json is damaged: cmc[1] is null, which is not a number
    """
    missing = [key for key in (*_RECORD.needed, *needed) if not isinstance(record, dict) or key not in record]
    if missing:
        raise ValueError(f"{where} is no record of a ranking: it has no {', no '.join(missing)}")
    fault = _fault(record, _RECORD, "")
    if fault:
        raise ValueError(f"{where} is damaged: {fault}")
    return record


def _fault(value: Any, wanted: Any, name: str) -> str:
    """Return the first thing that is wrong with a value, in words; empty if nothing is."""
    if isinstance(wanted, str):
        kind = wanted.removesuffix(" or null")
        fits = _KINDS[kind](value) or (value is None and wanted != kind)
        return "" if fits else f"{name} is {_short(value)}, which is not {wanted}"
    if isinstance(wanted, list):
        if not isinstance(value, list) or not value:
            return f"{name} is {_short(value)}, which is not a list of something"
        parts = ((inner, wanted[0], f"{name}[{i}]") for i, inner in enumerate(value))
        return next(filter(None, (_fault(*part) for part in parts)), "")
    if not isinstance(value, dict):
        return f"{name} is {_short(value)}, which is not an object"
    for key in wanted.needed:
        if key not in value:
            return f"{name} has no {key}"
    for key, inner in value.items():
        place = f"{name}.{key}" if name else key
        known = next((kind for pattern, kind in wanted.keys.items() if re.fullmatch(pattern, key)), None)
        if known is None and not wanted.free:
            return f"{name} has the key {_short(key)}, which is not of the form {' or '.join(wanted.keys)}"
        fault = _fault(inner, known, place) if known is not None else ""
        if fault:
            return fault
    return ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
