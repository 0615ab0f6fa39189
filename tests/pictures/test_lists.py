"""Ranked lists against a slow loop over the gallery."""

import numpy as np
import pytest
import torch

from torchreid_xres.features.features import FeatureSet, evaluate_features
from torchreid_xres.metrics import rank_features
from torchreid_xres.pictures.lists import RankedLists

HOW = {"protocol": "market", "draws": 10, "seed": 0, "distance": "euclidean", "normalize": False, "rerank": False}


def features(role, count, seed, identities=5, model="net", **changed):
    rng = np.random.default_rng(seed)
    facts = {
        "features": torch.from_numpy(rng.standard_normal((count, 4))),
        "pid": rng.integers(0, identities, count), "camid": rng.integers(0, 3, count),
        "rate": np.ones(count), "low": np.zeros(count, bool), "size": np.full((count, 2), 8),
        "names": [f"{role}{i}.png" for i in range(count)],
    }  # fmt: skip
    facts |= changed
    return FeatureSet(role=role, dataset="folder", model=model, weights_sha256=model, **facts)


def slow_list(lists, q):
    """Every gallery image but the junk, nearest first."""
    query, gallery = lists.query, lists.gallery
    found = []
    for g in range(len(gallery)):
        if not (query.pid[q] == gallery.pid[g] and query.camid[q] == gallery.camid[g]):
            distance = float(((query.features[q] - gallery.features[g]) ** 2).sum())
            found.append((distance, g, bool(query.pid[q] == gallery.pid[g])))
    return sorted(found)


def test_lists_are_those_of_a_loop():
    lists = RankedLists(features("query", 12, 0), features("gallery", 40, 1), HOW)
    for q, places in enumerate(lists.top(range(12), 50)):
        expected = slow_list(lists, q)
        assert [(place.gallery, place.hit) for place in places] == [(g, hit) for _, g, hit in expected]
        np.testing.assert_allclose([place.distance for place in places], [d for d, _, _ in expected], rtol=1e-4)
        assert lists.rank[q] == 1 + [hit for _, _, hit in expected].index(True)


def test_hardest_and_easiest_by_average_precision():
    gallery = features("gallery", 40, 1)
    lists = RankedLists(features("query", 12, 0), gallery, HOW)
    order = np.argsort(lists.ap).tolist()
    assert lists.hardest(12) == order and lists.hardest(3, easiest=True) == order[::-1][:3]
    # A query of an identity that the gallery lacks has no list to show.
    lists = RankedLists(features("query", 12, 0, pid=[9, *[1] * 11]), gallery, HOW)
    assert np.isnan(lists.rank[0]) and 0 not in lists.hardest(12) and len(lists.hardest(12)) == 11


def test_figures_are_those_of_the_record():
    query, gallery = features("query", 12, 0), features("gallery", 40, 1)
    for changed in ({}, {"rerank": True}, {"protocol": "single_shot"}, {"distance": "cosine", "normalize": True}):
        how = HOW | changed
        kept = {key: how[key] for key in ("normalize", "rerank", "protocol")}
        record = evaluate_features(query, gallery, metric=how["distance"], **kept)
        assert record["protocol"] == how  # a record says all that its lists need
        lists = RankedLists(query, gallery, record["protocol"])
        if how["protocol"] == "market":  # of draws the mean over queries is not that over lists
            assert np.nanmean(lists.ap) == pytest.approx(record["mAP"] / 100)
            assert 100 * np.mean(lists.rank == 1) == pytest.approx(record["rank1"])
        top = lists.top([3], 40)[0]
        assert [place.distance for place in top] == sorted(place.distance for place in top)


def test_rank_1_is_the_share_of_draws_that_begin_with_a_match():
    query, gallery = features("query", 12, 0, pid=[9, *range(5), *range(5), 0]), features("gallery", 40, 1)
    for protocol in ("market", "single_shot"):
        lists = RankedLists(query, gallery, HOW | {"protocol": protocol})
        labels = (query.pid, gallery.pid, query.camid, gallery.camid)
        how = {"metric": "euclidean", "draws": 10, "seed": 0, "protocol": protocol}
        first = np.atleast_2d(rank_features(query.features, gallery.features, *labels, **how).first)
        assert np.isnan(lists.rank1[0])
        for q in range(1, 12):
            taken = [place for place in first[:, q] if place >= 0]
            assert lists.rank1[q] == taken.count(0) / len(taken)


def test_unit_features_order_by_their_angle():
    query, gallery = features("query", 12, 0), features("gallery", 40, 1)
    unit = RankedLists(query, gallery, HOW | {"normalize": True})
    angle = RankedLists(query, gallery, HOW | {"distance": "cosine"})
    assert [place.gallery for place in unit.top([2])[0]] == [place.gallery for place in angle.top([2])[0]]


def test_of_vehicleid_a_query_is_only_not_its_own_match():
    images = {"features": torch.arange(6.0)[:, None], "pid": [1, 1, 1, 2, 2, 2], "camid": [0] * 6}
    images["names"] = [f"{i}.png" for i in range(6)]
    lists = RankedLists(
        features("query", 6, 0, **images), features("gallery", 6, 0, **images), HOW | {"protocol": "vehicleid"}
    )
    assert [place.gallery for place in lists.top([0], 3)[0]] == [1, 2, 3]
    assert lists.top([]) == []


def test_features_of_two_models_are_refused():
    with pytest.raises(ValueError, match=r"do not belong together: the model is .* here, other there"):
        RankedLists(features("query", 4, 0), features("gallery", 9, 1, model="other"), HOW)
