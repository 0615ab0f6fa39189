"""Queries for a page: thumbnails, what was won and lost, what a row holds."""

import base64
import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from torchreid_xres.features.features import FeatureSet
from torchreid_xres.pictures.lists import RankedLists
from torchreid_xres.pictures.queries import changes, compared, listed, require_alike
from torchreid_xres.pictures.thumbnail import HEIGHT, thumbnail

HOW = {"protocol": "market", "draws": 10, "seed": 0, "distance": "euclidean", "normalize": False, "rerank": False}


def opened(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return PIL.Image.open(io.BytesIO(base64.b64decode(data)))


def lists_of(ranks, model="net", **changed):
    """One query for each rank: that at which its only match comes in a gallery of ten."""
    gallery = FeatureSet(
        features=torch.arange(10.0)[:, None], pid=range(10), camid=[1] * 10, rate=[1] * 10, low=[False] * 10,
        size=[[8, 4]] * 10, names=[f"g{i}.png" for i in range(10)], role="gallery", dataset="folder", model=model,
        weights_sha256=model,
    )  # fmt: skip
    count = len(ranks)
    # Features of the gallery are 0, 1, 2, ..., that of a query is below all; its identity stands at its rank.
    query = replace(
        gallery, features=torch.full((count, 1), -1.0), pid=[3] * count, camid=[0] * count, rate=[4] * count,
        low=[True] * count, size=[[8, 4]] * count, names=[f"q{i}.png" for i in range(count)], role="query",
    )  # fmt: skip
    found = RankedLists(query, gallery, HOW | changed)
    found.rank = np.array(ranks, dtype=float)
    return found


class Pictures:
    """Of one colour each; every query but the first has a restored one."""

    def seen(self, role, index):
        return PIL.Image.new("RGB", (4, 8), "navy" if role == "query" else "olive")

    def restored(self, query):
        return PIL.Image.new("RGB", (8, 16)) if query else None


@pytest.mark.parametrize(
    "size, expected",
    [((26, 52), (64, 128)), ((300, 600), (64, 128)), ((5000, 9), (256, 1)), ((1, 1), (128, 128)), ((1, 999), (1, 128))],
)
def test_thumbnails_are_small_and_of_the_same_shape(size, expected):
    img = opened(thumbnail(PIL.Image.new("RGB", size)))
    assert img.format == "JPEG" and img.size == expected


def test_pixels_of_a_small_picture_stay_squares():
    pixels = np.zeros((8, 4, 3), np.uint8)
    pixels[2, 1] = 255
    large = np.asarray(opened(thumbnail(PIL.Image.fromarray(pixels))).convert("L")).astype(int)
    step = HEIGHT // 8
    square = large[2 * step : 3 * step, step : 2 * step]
    assert square.min() > 235 and np.median(large) < 10


def test_a_thumbnail_tells_nothing_of_its_file():
    file = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x010E] = "somebody's garden"
    PIL.Image.new("RGB", (64, 128)).save(file, "JPEG", exif=exif, comment=b"somebody's name", dpi=(72, 72))
    small = opened(thumbnail(PIL.Image.open(file)))
    assert "comment" not in small.info and "exif" not in small.info and not small.getexif()


def test_who_is_ahead_by_reciprocal_rank():
    ours, theirs = lists_of([1, 1, 5, 9, 2, 3, np.nan]), lists_of([2, 9, 5, 1, 1, 4, np.nan], "other")
    found = changes([ours, theirs])
    assert found.ahead == [[1, 0, 5], [3, 4]]  # 1 - 1/9, 1 - 1/2, 1/3 - 1/4
    assert found.alone == [2, 2] and found.same == 1 and found.missed == 2  # one without a match is none of these
    third = lists_of([2, 1, 2, 9, 2, 9, np.nan], "third")
    found = changes([ours, theirs, third])
    assert found.ahead == [[0, 5], [3, 4], [2]] and found.same == 1  # the second query is first in two of them
    assert found.alone == [1, 2, 0] and found.missed == 2


def test_only_lists_of_the_same_images_are_compared():
    ours, theirs = lists_of([1, 2]), lists_of([1, 2], "other")
    theirs.query = replace(theirs.query, names=["q0.png", "elsewhere.png"])
    with pytest.raises(ValueError, match=r"run B: other: .* differ in their name"):
        require_alike(ours, theirs, "run B: other")
    with pytest.raises(ValueError, match=r"run B: other: the protocol is .*single_shot.*, of run A .*market"):
        require_alike(ours, lists_of([1, 2], "other", protocol="single_shot"), "run B: other")


def test_what_is_shown_of_a_query():
    lists = lists_of([1, 4])
    first, second = listed(lists, Pictures(), [0, 1], count=5)
    assert first.name == "q0.png" and [one.kind for one in first.rows[0][1]] == ["query", *["miss"] * 3, "hit", "miss"]
    assert [one.kind for one in second.rows[0][1]][:2] == ["query", "restored"]
    assert first.facts[:4] == ["identity 3", "camera 0", "rate 4", "8 x 4 pixels"]
    hit = first.rows[0][1][4]
    assert hit.alt == "rank 4, hit: g3.png, identity 3, camera 1, distance 16.000" and hit.note == "4: 16.000"


def test_the_first_match_is_shown_however_late_it_comes():
    (first,) = listed(lists_of([1, 4]), Pictures(), [0], count=2)
    assert [one.kind for one in first.rows[0][1]] == ["query", "miss", "miss", "hit"]
    assert first.rows[0][1][-1].note == "4: 16.000"


def test_two_runs_lists_of_a_query():
    runs = {"run A: net": lists_of([1, 4]), "run B: other": lists_of([1, 2], "other")}
    (one,) = compared(runs, Pictures(), [1], count=2)
    assert [heading for heading, _ in one.rows] == [
        "", "run A: net: first match at rank 4", "run B: other: first match at rank 2"
    ]  # fmt: skip
    assert [len(shown) for _, shown in one.rows] == [2, 3, 3]  # the first match behind two misses
    (drawn,) = listed(lists_of([2.5], protocol="single_shot"), Pictures(), [0])
    assert drawn.facts[4] == "first match at rank 2.5 in the mean of the draws"
