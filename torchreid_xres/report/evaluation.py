"""Records of evaluations, read back and set against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, takewhile
from pathlib import PurePath
from typing import Any, NamedTuple

# What a record holds beside facts: these have tables and charts of their own.
_MEASURED = {"cmc", "tpr", "accept", "by_rate", "by_camera", "by_size", "curve", "mAP", "mINP"}
# What must agree before two figures measure the same thing.
_PROTOCOL = ("manifest", "split_id", "query_images", "gallery_images", "protocol")
_HOW = {"distance", "normalize", "rerank", "flip"}  # of the key "protocol": how a model is used, not what is measured


class Figure(NamedTuple):
    """A figure in per cent, and by how much it is above the other evaluation's; None for what is not known."""

    name: str
    value: float | None
    difference: float | None


class Fact(NamedTuple):
    """An entry of records, as text, of each of them; None where one has no such entry."""

    name: str
    values: list[str | None]

    @property
    def differs(self) -> bool:
        """Whether it is not the same in all."""
        return len(set(self.values)) > 1


def run_names(records: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> list[str]:
    """Return names that tell runs apart: their models, or where these are the same what differs in their paths.

    Example:
        >>> same = [{"model": "net"}] * 2
        >>> run_names(same, ["log/slow/split0/net", "log/fast/split0/net"])
        ['slow', 'fast']
        >>> run_names([{"model": "net"}, {"model": "other"}], ["a", "b"])
        ['net', 'other']
    """
    models, paths = [record["model"] for record in records], [PurePath(source).parts for source in sources]
    if len(set(models)) == len(models):
        return models
    start = _common(paths)
    rest = [path[start:] for path in paths]
    end = _common([path[::-1] for path in rest])
    named = ["/".join(path[: len(path) - end]) for path in rest]
    return [name or model for name, model in zip(named, models, strict=True)]


def _common(paths: Sequence[Sequence[str]]) -> int:
    return len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))


def figures(part: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> list[Figure]:
    """Return the figures of a record, or of one of its parts by rate, camera or size.

    Args:
        part: holds ``rank1``, ..., ``mAP``, ``mINP`` and perhaps ``tpr``.
        other: the same part of another record.

    Example:
        >>> figures({"rank1": 50.0, "mAP": 40.0, "tpr": {"fpr0.01": 70.0}}, {"rank1": 52.0})[0]
        Figure(name='rank-1', value=50.0, difference=-2.0)
    """
    ours, theirs = _named(part), _named(other or {})
    return [
        Figure(name, value, value - theirs[name] if name in theirs else None) for name, value in ours.items()
    ]


def _named(part: Mapping[str, Any]) -> dict[str, float]:
    ranks = sorted(int(key[4:]) for key in part if key.startswith("rank") and key[4:].isdecimal())
    found = {f"rank-{rank}": part[f"rank{rank}"] for rank in ranks}
    found |= {key: part[key] for key in ("mAP", "mINP") if key in part}
    return found | {f"TPR at FPR {100 * float(key[3:]):g} %": value for key, value in part.get("tpr", {}).items()}


def facts(*records: Mapping[str, Any]) -> list[Fact]:
    """Return everything of records that is no figure, entry by entry: protocol, seeds, versions, machine.

    Args:
        *records: one or more.

    Example:
        >>> facts({"seed": 1, "machine": {"gpu": None}, "rank1": 50.0}, {"seed": 2, "machine": {"gpu": None}})
        [Fact(name='seed', values=['1', '2']), Fact(name='machine: gpu', values=['none', 'none'])]
    """
    found = [_flat(record) for record in records]
    return [Fact(name, [one.get(name) for one in found]) for name in dict.fromkeys(chain(*found))]


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for key, value in record.items():
        if key in _MEASURED or (key.startswith("rank") and key[4:].isdecimal()):
            continue
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            found |= {f"{name}: {part}": _text(entry) for part, entry in value.items()}
        else:
            found[name] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return "none" if value is None or value == "" else str(value)


def check_comparable(record: Mapping[str, Any], other: Mapping[str, Any], letter: str = "B") -> list[str]:
    """Return what makes two evaluations of one data set hard to compare, a sentence each.

    Args:
        record: of run A.
        other: of the other.
        letter: of the other.

    Returns:
        Empty if both measured the same queries against the same gallery by the same rule.

    Raises:
        ValueError: if they are of two data sets.
    """
    if record["dataset"] != other["dataset"]:
        raise ValueError(f"one evaluation is of {record['dataset']}, the other of {other['dataset']}: no common ground")
    found = []
    for key in _PROTOCOL:
        ours, theirs = record.get(key), other.get(key)
        if key == "protocol":
            found += [
                f"The protocol's {name.replace('_', ' ')} is {_text(ours.get(name))} in run A and "
                f"{_text(theirs.get(name))} in run {letter}."
                for name in {**ours, **theirs}
                if name not in _HOW and ours.get(name) != theirs.get(name)
            ]
        elif ours != theirs:
            name = key.replace("_", " ")
            found.append(f"The {name} is {_text(ours)[:12]} in run A and {_text(theirs)[:12]} in run {letter}.")
    if any(sentence.startswith("The manifest") for sentence in found):
        found.append("So other images were low resolution, or at other rates, or the files differ.")
    return found
