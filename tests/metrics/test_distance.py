"""The distances against the host's, against float64 loops, and band by band against the whole."""

import doctest
import math
import sys

import pytest
import torch

from torchreid_xres import host
from torchreid_xres.metrics import distance_matrix, distance_tiles

# By their own names: ``compute_distance_matrix`` in there is ours once the host is mended.
HOSTS = {
    "euclidean": host.module("metrics.distance").euclidean_squared_distance,
    "cosine": host.module("metrics.distance").cosine_distance,
}
METRICS = tuple(HOSTS)


def slow(qf, gf, metric):
    rows = []
    for q in qf.double().tolist():
        rows.append([])
        for g in gf.double().tolist():
            if metric == "euclidean":
                rows[-1].append(sum((a - b) ** 2 for a, b in zip(q, g, strict=True)))
            else:
                dot = sum(a * b for a, b in zip(q, g, strict=True))
                rows[-1].append(1 - dot / (math.hypot(*q) * math.hypot(*g)))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_the_slow_loop(metric):
    qf, gf = torch.randn(7, 5), torch.randn(11, 5)
    torch.testing.assert_close(
        distance_matrix(qf, gf, metric).double(), slow(qf, gf, metric), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 4), (100, 2100, 64)])
def test_distances_are_the_hosts_to_the_bit(metric, shape):
    num_query, num_gallery, dim = shape
    for dtype in (torch.float32, torch.float64):
        qf, gf = torch.randn(num_query, dim, dtype=dtype), torch.randn(num_gallery, dim, dtype=dtype)
        ours = distance_matrix(qf, gf, metric)
        theirs = HOSTS[metric](qf, gf)
        assert ours.dtype == dtype and torch.equal(ours, theirs)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("num_query", [1, 31, 63, 64, 65, 200])
def test_bands_make_up_the_matrix(metric, num_query):
    qf, gf = torch.randn(num_query, 24), torch.randn(150, 24)
    for tile in (None, 32, 50):
        bands = [band.clone() for band in distance_tiles(qf, gf, metric, tile)]
        assert all(len(band) >= min(32, num_query) for band in bands)
        assert all(len(band) < (tile or 512) + 32 for band in bands)
        torch.testing.assert_close(torch.cat(bands), distance_matrix(qf, gf, metric), rtol=0, atol=1e-5)


def test_bands_share_one_buffer():
    bands = list(distance_tiles(torch.randn(100, 4), torch.randn(9, 4), tile=32))
    assert len(bands) == 3 and len({band.data_ptr() for band in bands}) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
def test_halves_are_computed_in_float32(metric, dtype):
    qf, gf = torch.randn(40, 64).to(dtype), torch.randn(50, 64).to(dtype)
    expected = distance_matrix(qf.float(), gf.float(), metric)
    assert torch.equal(distance_matrix(qf, gf, metric), expected)
    assert torch.equal(distance_matrix(qf, gf.float(), metric), expected)
    assert torch.equal(next(distance_tiles(qf, gf, metric)), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_autocast_does_not_lower_the_precision(metric):
    qf, gf = torch.randn(40, 64), torch.randn(50, 64)
    expected = distance_matrix(qf, gf, metric)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distance_matrix(qf, gf, metric), expected)
        assert torch.equal(next(distance_tiles(qf, gf, metric)), expected)
        assert (qf @ gf.t()).dtype == torch.bfloat16


@pytest.mark.parametrize("metric", METRICS)
def test_the_features_stay_as_they_are_and_get_gradients(metric):
    qf, gf = (torch.randn(rows, 5, dtype=torch.float64, requires_grad=True) for rows in (3, 4))
    before = qf.detach().clone(), gf.detach().clone()
    assert torch.autograd.gradcheck(lambda q, g: distance_matrix(q, g, metric), (qf, gf))
    assert not next(distance_tiles(qf, gf, metric)).requires_grad
    assert torch.equal(qf, before[0]) and torch.equal(gf, before[1])


def test_a_zero_feature_is_at_cosine_distance_one():
    assert distance_matrix(torch.zeros(1, 3), torch.randn(4, 3), "cosine").tolist() == [[1.0] * 4]


@pytest.mark.parametrize("metric", METRICS)
def test_features_that_are_not_finite_are_counted(metric):
    qf, gf = torch.randn(2000, 4), torch.randn(50, 4)
    broken = gf.clone()
    broken[7, 1], broken[9, 0], broken[9, 2] = torch.inf, torch.nan, torch.nan
    with pytest.raises(ValueError, match=r"2 of 50 gallery features hold NaN.*float32 \(first: row 7\)"):
        distance_matrix(qf, broken, metric)
    with pytest.raises(ValueError, match="2 of 50 query features"):
        distance_tiles(broken, qf, metric)
    qf[1999] = 1e25
    with pytest.raises(ValueError, match=r"1 of 2000 query features.*overflows.*row 1999"):
        distance_matrix(qf, gf, metric)


def test_shapes_metric_and_tile_are_checked():
    qf, gf = torch.randn(3, 4), torch.randn(5, 4)
    with pytest.raises(ValueError, match="'l1'; there are: euclidean, cosine"):
        distance_matrix(qf, gf, "l1")
    with pytest.raises(ValueError, match=r"not \(3, 4\) and \(5, 3\)"):
        distance_matrix(qf, gf[:, :3])
    with pytest.raises(ValueError, match=r"not \(4,\) and \(5, 4\)"):
        distance_matrix(qf[0], gf)
    with pytest.raises(ValueError, match=r"not \(0, 4\) and \(5, 4\)"):
        distance_tiles(qf[:0], gf)
    with pytest.raises(ValueError, match="tile is 31 query rows; at least 32"):
        distance_tiles(qf, gf, tile=31)


def test_examples():
    outcome = doctest.testmod(sys.modules[distance_matrix.__module__])
    assert outcome.attempted >= 2 and not outcome.failed
