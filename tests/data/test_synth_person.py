"""The drawn people: families, drawing, and a set that is drawn once and whole."""

import dataclasses
import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchreid_xres.data.base import dataset_options
from torchreid_xres.data.datasets import synth_person as module
from torchreid_xres.data.datasets.synth_person import SynthPerson
from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.synth.canvas import Canvas, View
from torchreid_xres.synth.cloth import RESOLUTION, cloth, plain
from torchreid_xres.synth.emblems import EMBLEMS, outlines
from torchreid_xres.synth.family import FAMILY, Turns
from torchreid_xres.synth.figure import Figure
from torchreid_xres.synth.person import draw_person
from torchreid_xres.synth.sidewalk import Place, portrait

SMALL = {"train_identities": 2, "test_identities": 2, "cameras": 2, "images_per_camera": 2}


def build(root, **options):
    return SynthPerson(root=str(root), verbose=False, **{**SMALL, **options})


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*.jpg"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return build(tmp_path_factory.mktemp("people"))


def test_members_share_the_coarse_look_and_differ():
    for family in range(6):
        members = [draw_person(3, FAMILY * family + k) for k in range(FAMILY)]
        for name in ("girth", "skin", "hair_style", "upper", "upper_colour", "pattern", "lower", "lower_colour"):
            assert len({getattr(member, name) for member in members}) == 1, name
        assert len({member.pitch for member in members}) == FAMILY
        assert len({dataclasses.astuple(member) for member in members}) == FAMILY


def test_turns_give_members_different_values():
    for count in (2, 3, 4):
        given = [Turns(np.random.default_rng(5), member)(range(9), count) for member in range(FAMILY)]
        assert len(set(given)) == count


def test_what_members_differ_in_is_lost_with_resolution_faster_than_what_families_differ_in():
    place = Place.draw(0, 1)

    def picture(index):
        # One key: the same pose, box, background and noise for everybody.
        return portrait(Figure(draw_person(0, index), 0), place, 0, 1, (0, "same"))

    def kept(a, b):
        def gap(rate):
            low = (np.asarray(degrade_image(image, rate), float) for image in (a, b))
            return np.sqrt(np.mean(np.square(next(low) - next(low))))

        return gap(6) / gap(1)

    pictures = {index: picture(index) for family in range(6) for index in (FAMILY * family, FAMILY * family + 1)}
    firsts = sorted(pictures)[::2]
    twins = np.mean([kept(pictures[k], pictures[k + 1]) for k in firsts])
    strangers = np.mean([kept(pictures[a], pictures[b]) for a, b in pairwise(firsts)])
    assert twins < strangers - 0.05


@pytest.mark.parametrize("yaw, column", [(0.0, 1), (np.pi, -1)])
def test_left_is_at_the_right_from_the_front(yaw, column):
    view = View(yaw, 0.0, 100.0, (50.0, 95.0), (0.0, 0.0, 1.0))
    canvas = Canvas(np.zeros((100, 100, 3), np.float32), view)
    canvas.capsule((0.3, 0.8, 0), (0.3, 0.4, 0), (0.05, 0.05), plain((1.0, 0.0, 0.0)))
    seen = np.argwhere(canvas.rgb[..., 0] > 0)[:, 1].mean()
    assert seen == pytest.approx(50 + 30 * column, abs=1.0)


def test_the_nearer_hides_whatever_the_order():
    def scene(order):
        canvas = Canvas(np.zeros((80, 80, 3), np.float32), View(0.4, 0.1, 70.0, (40.0, 75.0), (0.0, 0.6, 0.8)))
        parts = [
            lambda: canvas.capsule((0.1, 0.9, 0.2), (-0.1, 0.2, 0.2), (0.06, 0.04), plain((1.0, 0.0, 0.0))),
            lambda: canvas.lathe(
                (0, 0.2, 0), (0, 0.9, 0), np.array([(0, 0.2, 0.1), (1, 0.1, 0.1)]), plain((0, 1.0, 0))
            ),
        ]
        for k in order:
            parts[k]()
        return canvas.rgb

    first = scene((0, 1))
    assert np.array_equal(first, scene((1, 0)))
    assert (first[..., 0] > 0).any()
    assert (first[..., 1] > 0).any()


def test_a_pitch_is_a_length():
    stripes = cloth(0.4, 0.5, (0, 0, 0), kind="hoops", accent=(1, 1, 1), pitch=0.05)[:, 0, 0]
    rising = np.flatnonzero((stripes[:-1] < 0.5) & (stripes[1:] >= 0.5))
    assert np.diff(rising) == pytest.approx(0.05 * RESOLUTION, abs=1)


def test_wrong_pattern_and_emblem_are_refused():
    with pytest.raises(ValueError, match=r"tartan.*checks"):
        cloth(0.1, 0.1, (0, 0, 0), kind="tartan")
    with pytest.raises(ValueError, match=r"heart.*star"):
        outlines("heart")
    for shape in EMBLEMS:
        assert all(np.abs(outline).max() <= 1.3 for outline in outlines(shape, 88))


def test_roles(drawn):
    split = drawn.split
    assert (len(split.train), len(split.query), len(split.gallery)) == (8, 4, 4)
    assert {image.camid for image in split.query} == {0}
    assert all(image.low for image in split.query)
    assert not any(image.low for image in split.gallery)
    assert all(image.low == (image.camid == 0) for image in split.train)
    assert not {image.pid for image in split.train} & {image.pid for image in split.query}
    assert {drawn.rate_of[image.path] for image in split.query} <= {2.0, 3.0, 4.0}


def test_another_low_camera_shares_the_pictures(drawn):
    other = build(Path(drawn.split.folder).parents[1], lr_camera=2)
    assert other.split.folder == drawn.split.folder
    assert {image.camid for image in other.split.query} == {1}


@pytest.mark.parametrize("train_low", [True, False])
def test_training_images_of_the_low_camera_are_low_or_not(drawn, train_low):
    other = build(Path(drawn.split.folder).parents[1], train_low=train_low)
    assert other.split.folder == drawn.split.folder
    assert {image.camid for image in other.split.train if image.low} == ({0} if train_low else set())
    assert all(image.low for image in other.split.query)


def test_pictures_depend_on_the_seed_alone(drawn, tmp_path):
    state = np.random.get_state()[1].copy(), random.getstate()
    again = contents(build(tmp_path).split.folder)
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert random.getstate() == state[1]
    assert again == contents(drawn.split.folder)
    assert contents(build(tmp_path, image_seed=1).split.folder) != again


def test_test_pictures_do_not_depend_on_how_many_train(drawn, tmp_path):
    more = contents(build(tmp_path, train_identities=3).split.folder)
    fewer = contents(drawn.split.folder)
    assert {name for name in more if name.startswith("test/")} == {name for name in fewer if name.startswith("test/")}
    assert all(more[name] == data for name, data in fewer.items())


def test_drawn_once(drawn, monkeypatch):
    monkeypatch.setattr(module, "portrait", lambda *_: pytest.fail("drawn again"))
    build(Path(drawn.split.folder).parents[1])


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return portrait(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "portrait", stop)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    assert list((tmp_path / "synth_person").iterdir()) == []
    assert len(contents(build(tmp_path).split.folder)) == 16


def test_two_processes_may_draw_at_once(tmp_path, monkeypatch):
    def slow(*arguments):
        # The other process is done before this one.
        if not list((tmp_path / "synth_person").glob("[!.]*")):
            monkeypatch.setattr(module, "portrait", portrait)
            build(tmp_path)
        return portrait(*arguments)

    monkeypatch.setattr(module, "portrait", slow)
    late = build(tmp_path)
    assert [path.name for path in (tmp_path / "synth_person").iterdir()] == [Path(late.split.folder).name]
    assert len(contents(late.split.folder)) == 16


@pytest.mark.parametrize(
    "option, value",
    [
        ("cameras", 1),
        ("lr_camera", 3),
        ("images_per_camera", 0),
        ("image_seed", "a"),
        ("test_identities", 5000),
        ("train_low", 1),
    ],
)
def test_wrong_options_are_refused(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"synth_person.*{option}.*{value}.*allowed"):
        build(tmp_path, **{option: value})
    assert not (tmp_path / "synth_person").exists()


def test_options_come_through_the_context(tmp_path, drawn):
    with dataset_options({"synth_person": {**SMALL, "query_rate": 4}}):
        dataset = SynthPerson(root=str(Path(drawn.split.folder).parents[1]), mode="query", verbose=False)
    with Image.open(dataset.query[0][0]) as image:
        width, height = image.size
    assert dataset[0]["size"].tolist() == [height // 4, width // 4]


@pytest.mark.slow
def test_32_identities_take_less_than_20_seconds(tmp_path):
    start = time.process_time()
    SynthPerson(root=str(tmp_path), train_identities=1, test_identities=31, verbose=False)
    assert time.process_time() - start < 20
