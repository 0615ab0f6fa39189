"""A search among features that are held in memory: the hits of all distances, without a copy of the features."""

import numpy as np
import pytest
import torch

from torchreid_xres.metrics.distance import distance_matrix
from torchreid_xres.search import nearest
from torchreid_xres.search.nearest import Nearest, smallest


@pytest.fixture
def features():
    return (torch.randn(70, 12) * torch.logspace(-2, 2, 70)[:, None]).numpy()


def expected(queries, features, metric, allowed, groups, top):
    found = []
    for row in distance_matrix(torch.from_numpy(queries), torch.from_numpy(features), metric):
        hits, seen = [], set()
        for place in row.argsort().tolist():
            if allowed[place] and (groups is None or groups[place] not in seen):
                hits.append((row[place].item(), place))
                seen.add(groups and groups[place])
        found.append(hits[:top])
    return found


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_hits_are_those_of_all_distances(features, metric, filtered, grouped, monkeypatch):
    monkeypatch.setattr(nearest, "_MOST", 2)
    queries = torch.randn(5, 12).numpy()
    allowed = np.arange(70) % 3 != 0 if filtered else np.ones(70, bool)
    groups = [str(place % 7) for place in range(70)] if grouped else None
    distances, places = Nearest(features, metric).find(queries, 9, allowed if filtered else None, groups)
    for values, found, right in zip(
        distances, places, expected(queries, features, metric, allowed, groups, 9), strict=True
    ):
        assert found == [place for _, place in right]
        assert values == pytest.approx([value for value, _ in right], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_features_are_looked_at_once_for_all_searches(features, metric, monkeypatch):
    looked = []
    own = nearest._squared_lengths
    monkeypatch.setattr(nearest, "_squared_lengths", lambda of, role: looked.append(role) or own(of, role))
    searched = Nearest(features, metric)
    before = features.copy()
    for _ in range(3):
        searched.find(torch.randn(1, 12).numpy(), 2)
    assert looked.count("gallery") == 1 and np.array_equal(features, before)


def test_an_image_without_a_feature_is_as_far_as_any_other_direction():
    features = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
    distances, places = Nearest(features, "cosine").find(np.array([[3.0, 0.0]]), 3)
    assert (distances, places) == ([[0.0, 1.0, 2.0]], [[1, 0, 2]])


@pytest.mark.parametrize("role", ["query", "gallery"])
def test_what_is_not_a_number_is_told(features, role):
    queries = torch.randn(1, 12).numpy()
    (queries if role == "query" else features)[0, 3] = float("nan")
    with pytest.raises(ValueError, match=f"1 of [0-9]+ {role} features hold NaN"):
        Nearest(features, "cosine").find(queries, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_queries_of_another_precision_are_compared_as_the_features_are(features, dtype):
    queries = torch.randn(3, 12).numpy().astype(dtype)
    searched = Nearest(features, "cosine")
    assert searched.find(queries, 4) == searched.find(queries.astype(np.float32), 4)


def test_queries_of_another_dimension_are_refused(features):
    with pytest.raises(ValueError, match=r"must be \(Q, D\) and \(G, D\) with one D"):
        Nearest(features, "cosine").find(torch.randn(2, 9).numpy(), 2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_all_distances_come_band_by_band(features, metric, monkeypatch):
    monkeypatch.setattr(nearest, "_MOST", 2)
    queries = torch.randn(5, 12).numpy()
    bands = [band.copy() for band in Nearest(features, metric).distances(queries)]
    assert [len(band) for band in bands] == [2, 2, 1]
    right = distance_matrix(torch.from_numpy(queries), torch.from_numpy(features), metric)
    np.testing.assert_allclose(np.concatenate(bands), right.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [5, 1024, 5000])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_smallest_are_found_whatever_their_blocks_are(length, count):
    row = np.random.default_rng(length).integers(0, length // 4, length)  # many are equal
    assert smallest(row, count).tolist() == sorted(range(length), key=lambda place: (row[place], place))[:count]


def test_another_metric_is_refused(features):
    with pytest.raises(ValueError, match="unknown distance metric 'cosines'; there are: euclidean, cosine"):
        Nearest(features, "cosines").find(features[:1], 2)
