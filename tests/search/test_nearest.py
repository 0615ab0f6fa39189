"""A search among features that are held in memory: the hits of all distances, without a copy of the features."""

import pytest
import torch

from torchreid_xres.metrics.distance import distance_matrix
from torchreid_xres.search import nearest
from torchreid_xres.search.nearest import Nearest


@pytest.fixture
def features():
    return torch.randn(70, 12) * torch.logspace(-2, 2, 70)[:, None]


def expected(queries, features, metric, allowed, groups, top):
    found = []
    for row in distance_matrix(queries, features, metric):
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
    monkeypatch.setattr(nearest, "rows_of_tile", lambda features: 2)
    queries = torch.randn(5, 12)
    allowed = torch.arange(70) % 3 != 0 if filtered else torch.ones(70, dtype=torch.bool)
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
    own = nearest.squared_norms
    monkeypatch.setattr(nearest, "squared_norms", lambda of, role: looked.append(role) or own(of, role))
    searched = Nearest(features, metric)
    before = features.clone()
    for _ in range(3):
        searched.find(torch.randn(1, 12), 2)
    assert looked.count("gallery") == 1 and torch.equal(features, before)


def test_an_image_without_a_feature_is_as_far_as_any_other_direction():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    distances, places = Nearest(features, "cosine").find(torch.tensor([[3.0, 0.0]]), 3)
    assert (distances, places) == ([[0.0, 1.0, 2.0]], [[1, 0, 2]])


@pytest.mark.parametrize("role", ["query", "gallery"])
def test_what_is_not_a_number_is_told(features, role):
    queries = torch.randn(1, 12)
    (queries if role == "query" else features)[0, 3] = float("nan")
    with pytest.raises(ValueError, match=f"1 of [0-9]+ {role} features hold NaN"):
        Nearest(features, "cosine").find(queries, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_queries_of_another_precision_are_compared_as_the_features_are(features, dtype):
    queries = torch.randn(3, 12).to(dtype)
    assert Nearest(features, "cosine").find(queries, 4) == Nearest(features, "cosine").find(queries.float(), 4)


def test_queries_of_another_dimension_are_refused(features):
    with pytest.raises(ValueError, match=r"must be \(Q, D\) and \(G, D\) with one D"):
        Nearest(features, "cosine").find(torch.randn(2, 9), 2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_all_distances_come_band_by_band(features, metric, monkeypatch):
    monkeypatch.setattr(nearest, "rows_of_tile", lambda features: 2)
    queries = torch.randn(5, 12)
    bands = [band.clone() for band in Nearest(features, metric).distances(queries)]
    assert [len(band) for band in bands] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(bands), distance_matrix(queries, features, metric), rtol=1e-4, atol=1e-5)
