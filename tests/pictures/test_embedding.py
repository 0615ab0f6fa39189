import numpy as np
import pytest
import torch

from torchreid_xres.features.features import FeatureSet
from torchreid_xres.pictures.embedding import draw_embedding, embed

pytest.importorskip("sklearn")


def features(role, pids, each=4):
    generator = torch.Generator().manual_seed(len(role))
    pid = np.repeat(pids, each)
    values = 8 * torch.nn.functional.one_hot(torch.from_numpy(pid), 20).float()
    count = len(pid)
    rates = np.tile([2.0, 4.0], count)[:count] if role == "query" else np.ones(count)
    return FeatureSet(
        values + torch.randn(values.shape, generator=generator), pid, [0] * count, rates, rates > 1, [[8, 4]] * count,
        [str(i) for i in range(count)], role, "folder", "net", "",
    )  # fmt: skip


@pytest.fixture(scope="module")
def sets():
    return [features("query", range(3, 15)), features("gallery", range(12))]


def test_points_of_one_identity_lie_together(sets):
    found = embed(sets, identities=5, perplexity=5, seed=1)
    assert found.points.shape == (40, 2) and len(set(found.pid.tolist())) == 5
    assert set(found.pid.tolist()) <= set(range(3, 12))  # in queries and gallery
    apart = np.linalg.norm(found.points[:, None] - found.points[None], axis=2) + 1e9 * np.eye(40)
    assert (found.pid[apart.argmin(axis=1)] == found.pid).all()
    assert np.array_equal(found.points, embed(sets, identities=5, perplexity=5, seed=1).points)
    assert found.about == "net on folder" and sorted(set(found.rate.tolist())) == [1, 2, 4]


def test_what_cannot_be_shown_is_said(sets):
    with pytest.raises(ValueError, match="at least 1 identity"):
        embed(sets, identities=0)
    with pytest.raises(ValueError, match="no identity is in all of query, gallery"):
        embed([features("query", [1]), features("gallery", [2])])
    with pytest.raises(ValueError, match="2 images of 1 identities are too few"):
        embed([features("query", [1], 1), features("gallery", [1], 1)])


def test_without_scikit_learn_it_says_how_to_get_it(sets, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match=r"torchreid_xres\[report\]"):
        embed(sets)


def test_a_colour_for_each_identity_and_a_marker_for_each_rate(sets):
    pytest.importorskip("matplotlib")
    found = embed(sets, identities=3, perplexity=5)
    figure = draw_embedding(found._replace(low=found.low | (np.arange(24) == 23)))  # one that is low by nature
    axes = figure.axes[0]
    shown = sum(len(points.get_offsets()) for points in axes.collections)
    assert shown == 24 and len(axes.collections) == 4
    tones = {tuple(tone) for points in axes.collections for tone in points.get_facecolors()}
    assert len(tones) == 3
    legends = [[text.get_text() for text in one.get_texts()] for one in axes.findobj(type(axes.get_legend()))]
    assert ["as captured", "low by nature", "x2", "x4"] in legends
    assert sorted(map(str, set(found.pid.tolist()))) in [sorted(texts) for texts in legends]
