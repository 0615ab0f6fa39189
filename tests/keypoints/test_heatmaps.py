"""Targets, filter and loss against loops written from KGNet's Equations 1 to 3."""

import math

import pytest
import torch

from torchreid_xres.keypoints.heatmaps import (
    binary_maps,
    filter_hidden,
    gaussian_maps,
    heatmap_loss,
    hidden,
    peaks,
    to_cells,
    to_fractions,
    to_points,
)

SIZE = (6, 9)  # not square: rows and columns must not be mixed up


@pytest.fixture
def points():
    points = torch.rand(3, 4, 2)
    points[torch.rand(3, 4) < 0.3] = -1.0
    points[0, 0], points[0, 1] = -1.0, torch.tensor([1.0, 1.0])
    return points


def place(point, size):
    """x and y of Eq. 1: in cells, counted from the centre of the first one."""
    x, y = point.tolist()
    return (0.0, 0.0) if x < 0 else (x * size[1] - 0.5, y * size[0] - 0.5)


@pytest.mark.parametrize("sigma", [1.0, 1.7])
def test_gaussian_maps_against_equation_1(points, sigma):
    maps = gaussian_maps(points, SIZE, sigma)
    for n in range(3):
        for k in range(4):
            x, y = place(points[n, k], SIZE)
            for j in range(SIZE[0]):
                for i in range(SIZE[1]):
                    expected = math.exp(-((i - x) ** 2 + (j - y) ** 2) / (2 * sigma**2))
                    assert maps[n, k, j, i].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_hidden_point_is_a_blob_in_the_corner():
    maps = gaussian_maps(torch.full((1, 1, 2), -1.0), (32, 32))[0, 0]
    assert maps[0, 0] == 1 and maps.argmax() == 0
    assert maps.sum().item() == pytest.approx(sum(math.exp(-(i**2) / 2) for i in range(32)) ** 2)


def test_binary_maps_against_a_loop(points):
    maps = binary_maps(points, SIZE)
    for n in range(3):
        for k in range(4):
            x, y = points[n, k].tolist()
            expected = torch.zeros(SIZE)
            if x >= 0:
                expected[min(int(y * SIZE[0]), SIZE[0] - 1), min(int(x * SIZE[1]), SIZE[1] - 1)] = 1
            assert torch.equal(maps[n, k], expected)


def test_points_go_to_maps_and_back_within_half_a_cell(points):
    visible = points[..., 0] >= 0
    for make in (gaussian_maps, binary_maps):
        off = (to_points(make(points, SIZE)) - points)[visible].abs()
        assert (off <= torch.tensor([0.5 / SIZE[1], 0.5 / SIZE[0]]) + 1e-6).all()


def test_cells_and_fractions_are_inverse(points):
    visible = points[..., 0] >= 0
    torch.testing.assert_close(to_fractions(to_cells(points, SIZE), SIZE)[visible], points[visible])


def test_peaks_against_a_loop():
    maps = torch.rand(2, 3, *SIZE)
    maps[0, 0] = 0  # of equals the first
    for n in range(2):
        for k in range(3):
            best, where = -1.0, None
            for j in range(SIZE[0]):
                for i in range(SIZE[1]):
                    if maps[n, k, j, i] > best:
                        best, where = maps[n, k, j, i], [i, j]
            assert peaks(maps)[n, k].tolist() == where


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 3.0])
def test_filter_against_equation_3(tolerance):
    maps = torch.rand(40, 5, 4, 4)
    filtered = filter_hidden(maps, tolerance)
    zeroed = 0
    for n in range(40):
        for k in range(5):
            i, j = peaks(maps)[n, k].tolist()
            gone = math.hypot(i, j) <= tolerance
            zeroed += gone
            assert torch.equal(filtered[n, k], torch.zeros(4, 4) if gone else maps[n, k])
    assert 0 < zeroed < 200


def test_filter_keeps_the_gradient_of_what_is_kept():
    maps = gaussian_maps(torch.tensor([[[0.5, 0.5], [-1.0, -1.0]]]), SIZE).requires_grad_()
    filter_hidden(maps).sum().backward()
    assert (maps.grad[0, 0] == 1).all() and (maps.grad[0, 1] == 0).all()


def test_targets_say_which_points_are_hidden(points):
    truth = points[..., 0] < 0
    assert torch.equal(hidden(gaussian_maps(points, (32, 32))), truth)
    assert torch.equal(hidden(binary_maps(points, (32, 32)), "binary"), truth)
    with pytest.raises(ValueError, match="'round'; there are: gaussian, binary"):
        hidden(torch.zeros(1, 1, 2, 2), "round")


@pytest.mark.parametrize("loss, power", [("l1", 1), ("mse", 2)])
def test_loss_against_equation_2(loss, power):
    outputs = [torch.randn(3, 2, 4, 5) for _ in range(2)]
    target = torch.rand(3, 2, 4, 5)
    expected = 0.0
    for maps in outputs:
        for n in range(3):
            for k in range(2):
                for j in range(4):
                    for i in range(5):
                        expected += abs(target[n, k, j, i] - maps[n, k, j, i]).item() ** power / 3
    assert heatmap_loss(outputs, target, loss).item() == pytest.approx(expected, rel=1e-4)


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="'l2'; there are: l1, mse"):
        heatmap_loss([torch.zeros(1, 1, 2, 2)], torch.zeros(1, 1, 2, 2), "l2")
