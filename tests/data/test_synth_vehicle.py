"""The drawn vehicles: perspective, what hides what, and keypoints that agree with the real annotations."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from torchreid_xres.data.datasets.synth_vehicle import SynthVehicle
from torchreid_xres.synth.coachwork import Coachwork
from torchreid_xres.synth.family import FAMILY
from torchreid_xres.synth.polyhedra import Pinhole, Sun, back_to_front, block, clip_near, paint
from torchreid_xres.synth.roadside import Road, photograph
from torchreid_xres.synth.vehicle import KEYPOINTS, MODELS, ORIENTATIONS, draw_vehicle, orientation_code

SMALL = {"train_identities": 2, "test_identities": 2, "cameras": 2, "images_per_camera": 3}


def around(azimuth, elevation, distance, height=0.8):
    a, e = np.radians((azimuth, elevation))
    target = np.array([0.0, 0.0, height])
    offset = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    return Pinhole(target + distance * offset, target, 100.0, (0.0, 0.0))


def read_annotation(file):
    rows = [line.split() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    assert {len(row) for row in rows} == {42}
    numbers = np.array([[int(value) for value in row[1:]] for row in rows])
    return [row[0] for row in rows], numbers[:, :40].reshape(-1, 20, 2), numbers[:, 40]


@pytest.fixture(scope="module")
def fleet():
    """One vehicle of each kind."""
    kinds = {}
    for family in range(200):
        vehicle = draw_vehicle(0, FAMILY * family)
        kinds.setdefault(vehicle.kind, Coachwork(vehicle))
        if len(kinds) == len(MODELS):
            return kinds
    raise AssertionError("a kind is never drawn")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return SynthVehicle(root=str(tmp_path_factory.mktemp("vehicles")), verbose=False, **SMALL)


def test_members_share_model_and_paint_and_differ():
    for family in range(12):
        members = [draw_vehicle(1, FAMILY * family + k) for k in range(FAMILY)]
        assert len({(member.kind, member.paint, member.scale) for member in members}) == 1
        assert len(set(members)) == FAMILY
    assert len({draw_vehicle(1, FAMILY * family).paint for family in range(12)}) == 12


def test_orientation_codes_mirror():
    mirrored = {0: 0, 1: 1, 2: 5, 5: 2, 3: 6, 6: 3, 4: 7, 7: 4}
    codes = [orientation_code(azimuth) for azimuth in np.arange(0.5, 360)]
    assert set(codes) == set(range(8))
    assert [mirrored[code] for code in codes] == codes[::-1]


def test_projection_against_similar_triangles():
    # A camera on the x axis that looks back along it: depth is the way along x.
    camera = Pinhole(np.array([12.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0]), 300.0, (64.0, 48.0))
    for x, y, z in np.random.default_rng(0).uniform(-2, 2, (20, 3)):
        expected = (64 + 300 * y / (12 - x), 48 - 300 * (z - 1) / (12 - x))
        assert camera.project(np.array([(x, y, z)]))[0] == pytest.approx(expected)


def test_visibility_against_a_walk_along_the_line_of_sight(fleet):
    """Every solid is asked at 600 places between point and eye whether they are inside it."""
    generator = np.random.default_rng(1)
    for coachwork in fleet.values():
        camera = around(generator.uniform(0, 360), generator.uniform(8, 22), 12)
        seen = coachwork.visible(camera)
        for k, landmark in enumerate(coachwork.landmarks):
            if landmark.arch is not None:
                continue
            line = landmark.point + np.linspace(0, 1, 600)[:, None] ** 2 * (camera.position - landmark.point)
            depth = max(
                -np.max([face.height(line) for face in solid.faces], axis=0).min()
                for solid in coachwork.solids
                if solid is not landmark.owner
            )
            # Within a few millimetres of an edge the walk's steps may jump over a corner.
            if abs(depth) > 0.005:
                assert seen[k] == (depth < 0), KEYPOINTS[k]


def test_a_wheel_is_seen_through_its_arch_only(fleet):
    sedan = fleet["sedan"]
    index = KEYPOINTS.index("left front wheel")
    assert sedan.visible(around(90, 12, 10))[index]
    assert sedan.visible(around(45, 12, 10))[index]
    assert not sedan.visible(around(3, 12, 10))[index]
    assert not sedan.visible(around(270, 12, 10))[index]


def test_left_and_right_mirror(fleet):
    swap = {"left": "right", "right": "left"}
    partner = [KEYPOINTS.index(" ".join(swap.get(word, word) for word in name.split())) for name in KEYPOINTS]
    for coachwork in fleet.values():
        points = np.array([landmark.point for landmark in coachwork.landmarks])
        assert points[partner] * (1, -1, 1) == pytest.approx(points)
        for azimuth in (20, 77, 130):
            left, right = (coachwork.visible(around(sign * azimuth, 15, 14)) for sign in (1, -1))
            assert left.tolist() == right[partner].tolist()


def test_painting_shows_the_nearer():
    """Away from edges, a pixel has the colour of the first solid on its line of sight."""
    solids = [block((0, -1, 0), (2, 1, 1), (1.0, 0, 0)), block((-3, -1, 0), (-0.2, 1, 2.5), (0, 1.0, 0)),
              block((0.5, 1.1, 0.5), (0.7, 1.4, 0.8), (0, 0, 1.0))]  # fmt: skip
    for azimuth in range(5, 360, 35):
        camera = around(azimuth, 15, 14)
        camera = Pinhole(camera.position, camera.target, 250.0, (60.0, 60.0))
        image = Image.new("RGB", (120, 120))
        paint(ImageDraw.Draw(image), solids, camera, Sun((0.0, 0.0, 1.0)))
        pixels = np.asarray(image)
        for y, x in np.ndindex(30, 30):
            ray = np.array([(4 * x + 2.5 - 60) / 250, (4 * y + 2.5 - 60) / 250, 1.0]) @ camera.axes.T
            line = camera.position + np.linspace(8, 20, 500)[:, None] * ray
            inside = [np.max([face.height(line) for face in solid.faces], axis=0) < -0.03 for solid in solids]
            first = [int(np.argmax(hit)) if hit.any() else 999 for hit in inside]
            if (
                min(first) < 999
                and sorted(first)[1] - min(first) > 5
                and not _near_an_edge(pixels, 4 * y + 2, 4 * x + 2)
            ):
                assert np.argmax(pixels[4 * y + 2, 4 * x + 2]) == np.argmin(first)


def _near_an_edge(pixels, y, x):
    window = pixels[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
    return len(set(window.argmax(2).ravel())) > 1 or (window.max(2) == 0).any()


def test_order_is_complete(fleet):
    for coachwork in fleet.values():
        ordered = back_to_front(coachwork.solids, around(40, 15, 14).position)
        assert {id(solid) for solid in ordered} == {id(solid) for solid in coachwork.solids}


def test_clipping_keeps_what_is_ahead():
    camera = around(0, 10, 10)
    area = np.array([(-50.0, -1, 0), (50, -1, 0), (50, 1, 0), (-50, 1, 0)])
    clipped = clip_near(area, camera)
    assert (camera.coordinates(clipped)[:, 2] >= 0.5 - 1e-9).all()
    away = np.array([60.0, 0.0, 0.0])
    assert clip_near(area - away, camera) == pytest.approx(area - away)
    assert len(clip_near(area + 4 * away, camera)) == 0


def test_photograph_frames_the_vehicle(fleet):
    road = Road.draw(0, 0)
    for kind, coachwork in fleet.items():
        shot = photograph(coachwork, road, 40.0, 14.0, 14.0, 160, np.random.default_rng(2))
        assert max(shot.image.size) == 160, kind
        assert ORIENTATIONS[shot.orientation] == "left front"
        known = shot.keypoints[shot.keypoints[:, 0] >= 0]
        assert (known >= 0).all()
        assert (known < shot.image.size).all()


def test_annotation_file(drawn):
    names, points, codes = read_annotation(drawn.keypoints_file)
    split = drawn.split
    paths = {str(Path(split.folder) / name) for name in names}
    assert paths == {image.path for image in (*split.train, *split.query, *split.gallery)}
    assert set(codes) <= set(range(8))
    for name, keypoints in zip(names, points, strict=True):
        with Image.open(Path(split.folder) / name) as image:
            size = image.size
        assert 128 <= max(size) <= 192
        hidden = (keypoints == -1).all(1)
        assert ((keypoints >= 0) & (keypoints < size)).all(1)[~hidden].all()
        assert 4 <= (~hidden).sum() <= 16


def test_same_seed_same_bytes(drawn, tmp_path):
    again = SynthVehicle(root=str(tmp_path), verbose=False, **SMALL)
    first, second = (
        {path.name: path.read_bytes() for path in Path(dataset.split.folder).rglob("*.*")} for dataset in (drawn, again)
    )
    assert first == second


@pytest.mark.slow
def test_visible_together_as_in_the_real_annotations(shared_data, tmp_path):
    """For each orientation code, points that most pictures show, and their order from left to right, agree."""
    file = shared_data / "veri_keypoints" / "keypoint_test.txt"
    if not file.is_file():
        pytest.skip(f"no file {file}")
    options = {"train_identities": 4, "test_identities": 16, "cameras": 2, "images_per_camera": 6}
    ours = SynthVehicle(root=str(tmp_path), verbose=False, **options).keypoints_file
    (_, real, real_codes), (_, drawn, codes) = read_annotation(file), read_annotation(ours)
    for code, name in enumerate(ORIENTATIONS):
        there, here = real[real_codes == code], drawn[codes == code]
        often, mine = (set(np.flatnonzero((points[..., 0] >= 0).mean(0) > 0.5)) for points in (there, here))
        assert len(often & mine) / len(often | mine) >= 0.7, (name, sorted(often), sorted(mine))
        agree = total = 0
        for a in often & mine:
            for b in often & mine:
                order = [_mostly_left_of(points, a, b) for points in (there, here)]
                if a < b and abs(order[0]) > 0.8:
                    agree, total = agree + (order[0] * order[1] > 0), total + 1
        assert agree / total > 0.9, name


def _mostly_left_of(points, a, b):
    """From -1 to 1: how often point a lies to the left of point b, among the pictures that show both."""
    both = (points[:, a, 0] >= 0) & (points[:, b, 0] >= 0)
    return np.sign(points[both, b, 0] - points[both, a, 0]).mean() if both.any() else 0.0


@pytest.mark.slow
def test_32_identities_take_less_than_20_seconds(tmp_path):
    start = time.process_time()
    SynthVehicle(root=str(tmp_path), train_identities=1, test_identities=31, verbose=False)
    assert time.process_time() - start < 20
