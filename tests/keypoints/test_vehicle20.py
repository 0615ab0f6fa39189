import pytest
import torch

from torchreid_xres.keypoints import FACES3, FACES3_DISJOINT, FACES4, FLIPPED, KEYPOINTS, face_maps, flip_points
from torchreid_xres.keypoints.heatmaps import filter_hidden, gaussian_maps

# From 1, as the annotation's authors count.
PAIRS = [(1, 3), (2, 4), (5, 6), (7, 8), (11, 12), (13, 14), (15, 16), (17, 18)]
ALONE = (9, 10, 19, 20)


def some_points(n=5):
    points = torch.rand(n, 20, 2)
    points[torch.rand(n, 20) < 0.4] = -1.0
    return points


def test_mirror_pairs():
    expected = {k - 1: k - 1 for k in ALONE}
    for a, b in PAIRS:
        expected |= {a - 1: b - 1, b - 1: a - 1}
    assert dict(enumerate(FLIPPED)) == expected


def test_faces_are_the_clusters_of_oife():
    from_one = {name: tuple(k + 1 for k in members) for name, members in FACES4.items()}
    assert from_one == {
        "front": (5, 6, 7, 8, 9, 10, 13, 14),
        "back": (15, 16, 17, 18, 19, 20),
        "left": (1, 2, 6, 8, 11, 14, 15, 17),
        "right": (3, 4, 5, 7, 12, 13, 16, 18),
    }
    assert tuple(k + 1 for k in FACES3["side"]) == (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18)
    assert tuple(k + 1 for k in FACES3_DISJOINT["side"]) == (1, 2, 3, 4, 11, 12)


@pytest.mark.parametrize("faces", [FACES4, FACES3, FACES3_DISJOINT])
def test_every_point_is_on_a_face(faces):
    assert {k for members in faces.values() for k in members} == set(range(20))
    if faces is FACES3_DISJOINT:
        assert sum(map(len, faces.values())) == 20


def test_left_becomes_right_in_a_mirror():
    mirrored = {k: FLIPPED[k] for k in FACES4["left"]}
    assert set(mirrored.values()) == set(FACES4["right"])
    for face in ("front", "back"):
        assert {FLIPPED[k] for k in FACES4[face]} == set(FACES4[face])


def test_flipped_points_against_a_loop():
    points = some_points()
    flipped = flip_points(points)
    for n in range(len(points)):
        for k, name in enumerate(KEYPOINTS):
            x, y = points[n, k].tolist()
            there = KEYPOINTS.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
            expected = [-1.0, -1.0] if x < 0 else [1 - x, y]
            assert flipped[n, there].tolist() == pytest.approx(expected)
    torch.testing.assert_close(flip_points(flipped), points)


def test_points_and_maps_mirror_alike():
    """The maps of mirrored points are the mirrored maps, channels exchanged; but for the corner of hidden points."""
    points = some_points()
    maps = filter_hidden(gaussian_maps(points, (16, 16)))
    mirrored = filter_hidden(gaussian_maps(flip_points(points), (16, 16)))
    shown = (points[..., 0] > 0.1) & (points[..., 0] < 0.9)  # not in the corner, on neither side
    torch.testing.assert_close(mirrored[:, list(FLIPPED)][shown], maps.flip(-1)[shown])


@pytest.mark.parametrize("faces", [FACES4, FACES3_DISJOINT])
def test_face_maps_against_a_loop(faces):
    maps = torch.rand(2, 20, 3, 4)
    sums = face_maps(maps, faces)
    for k, members in enumerate(faces.values()):
        expected = torch.zeros(2, 3, 4)
        for point in members:
            expected += maps[:, point]
        torch.testing.assert_close(sums[:, k], expected)


def test_face_maps_ask_for_twenty():
    with pytest.raises(ValueError, match=r"\(N, 20, H, W\), got \(2, 19, 3, 4\)"):
        face_maps(torch.rand(2, 19, 3, 4))
