"""Records with any value replaced: one line that names the file and the key, or a page, a table and a curve."""

import copy
import json

import pytest

from torchreid_xres.comparison.curves import labelled_records, resolution_curves
from torchreid_xres.features.records import read_record
from torchreid_xres.report.page import Evaluation, evaluation_page

WRONG = (None, True, 3, -1.5, "x", "<b>", [], {}, [1], {"a": 1}, {"2": None}, float("nan"), float("inf"), 10**400)


def part(rank1):
    figures = {"queries": 10, "rank1": rank1, "rank5": rank1 + 20, "rank10": rank1 + 30, "mAP": rank1 - 5, "mINP": 10.0}
    return figures | {"tpr": {"fpr0.01": 60.0, "fpr1e-05": 40.0}, "accept": {"fpr0.01": 0.5, "fpr1e-05": None}}


def whole():
    sides = {"from": 10.0, "median": 20.0, "to": 30.0}
    return {
        "dataset": "folder", "model": "net", "manifest": "a" * 64, "split_id": 0, "seed": 1, "input": [256, 128],
        "protocol": {"protocol": "market", "draws": 10, "seed": 0, "distance": "cosine", "rerank": False},
        "query_images": 20, "gallery_images": 1234567, "weights_sha256": "w" * 64, "versions": {"torch": "2.9.0"},
        **part(52.0), "cmc": [52.0 + i / 2 for i in range(5)], "parameters": 1000, "train_seconds": 7.5,
        "by_rate": {"2": part(60.0), "4": part(44.0)}, "by_camera": {"0": part(50.0), "3": part(52.0)},
        "curve": {"1": part(70.0), "2.5": part(40.0)},
        "by_size": [{**part(40.0), **sides, "quarter": 1}, {**part(60.0), **sides, "quarter": 4}],
    }  # fmt: skip


def places(value, path=()):
    """Give the path to every value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(path, wrong):
    record = whole()
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = copy.deepcopy(wrong)
    return record


def drawn(file):
    record = read_record(file)
    evaluation_page(Evaluation(record, str(file)), Evaluation(whole(), "other"))
    resolution_curves(labelled_records([str(file)]))


def test_a_whole_record_is_drawn(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(whole()))
    drawn(tmp_path / "r.json")


def damaged():
    return [(path, wrong) for path in places(whole()) for wrong in WRONG]


@pytest.mark.parametrize("share", range(8))
def test_no_damage_costs_a_traceback(tmp_path, share):
    file, refused = tmp_path / "r.json", 0
    for path, wrong in damaged()[share::40]:
        file.write_text(json.dumps(changed(path, wrong)))
        try:
            drawn(file)
        except ValueError as error:
            told = str(error)
            refused += 1
            names = {str(key) for key in path if isinstance(key, str)}
            if path in {("dataset",), ("curve",)} and "damaged" not in told:  # a record of another kind, but whole
                continue
            assert "\n" not in told and "r.json" in told, (path, wrong, told)
            assert any(name in told for name in names) or "JSON" in told, (path, wrong, told)
    assert refused > 5


@pytest.mark.slow
def test_missing_keys_are_told(tmp_path):
    file = tmp_path / "r.json"
    for path in places(whole()):
        if isinstance(path[-1], int):
            continue
        record = whole()
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        file.write_text(json.dumps(record))
        try:
            drawn(file)
        except ValueError as error:
            known = ("r.json", "one evaluation", "holds no figures by rate")
            assert any(part in str(error) for part in known), error
