import numpy as np
import PIL.Image
import pytest
import torch
from PIL.ImageColor import getrgb

from torchreid_xres.config import load_config
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.jobs.run import ranking_options
from torchreid_xres.pictures.lists import RankedLists
from torchreid_xres.pictures.ranks import COLOURS, chosen_queries, marked, rank_cells

HOW = {"protocol": "market", "draws": 1, "seed": 0, "distance": "euclidean", "normalize": False, "rerank": False}


def features(values, pid, camid, role):
    count = len(values)
    return FeatureSet(
        features=torch.tensor(values)[:, None], pid=pid, camid=camid, rate=[4.0 if role == "query" else 1.0] * count,
        low=[role == "query"] * count, size=[[16, 8]] * count, names=list(map(str, range(count))), role=role,
        dataset="folder", model="net", weights_sha256="",
    )  # fmt: skip


@pytest.fixture
def lists():
    """Query 0 finds its own first, query 1 third, query 2 second; gallery image 3 is junk for query 0."""
    query = features([0.0, 9.0, 5.0], [1, 2, 3], [0, 0, 0], "query")
    gallery = features([0.2, 9.9, 5.4, 0.1, 8.9, 6.5, 7.5], [1, 7, 8, 1, 9, 3, 2], [1, 1, 1, 0, 1, 1, 1], "gallery")
    return RankedLists(query, gallery, HOW)


class Pictures:
    def seen(self, role, index):
        return PIL.Image.new("RGB", (8, 16), (10 * index, 0, 200 if role == "query" else 0))

    def restored(self, query):
        return PIL.Image.new("RGB", (32, 64), "white") if query == 1 else None


def test_queries_are_chosen(lists):
    assert chosen_queries(lists, "worst", 2) == [1, 2]
    assert chosen_queries(lists, "best", 9) == [0, 2, 1]
    drawn = chosen_queries(lists, "random", 9, seed=3)
    assert sorted(drawn) == [0, 1, 2] and drawn == chosen_queries(lists, "random", 9, seed=3)
    for choose, count, message in (("any", 1, "worst, best, random"), ("best", 0, "at least 1")):
        with pytest.raises(ValueError, match=message):
            chosen_queries(lists, choose, count)


def test_a_row_holds_the_query_its_restored_view_and_what_is_found(lists):
    cells, columns = rank_cells(lists, [0, 1], Pictures(), top=3, height=64)
    assert columns == 5 and len(cells) == 10
    query, restored, first, *_ = cells[:5]
    assert query.image.size == (32, 64) and query.image.getpixel((0, 0)) == (0, 0, 200)
    assert query.caption.splitlines() == ["query 16x8", "0", "x4, AP 1.000", "first hit 1"]
    assert restored.image is None and restored.caption == ""
    # Squared Euclidean. Not image 3, which is nearer, of the same identity and under the same camera.
    assert first.caption.splitlines() == ["1. hit", "0", "0.040"] and first.colour == COLOURS[True]
    assert [cell.colour for cell in cells[7:]] == [COLOURS[False], COLOURS[False], COLOURS[True]]
    assert cells[6].caption == "restored" and cells[6].image.size == (32, 64)
    with pytest.raises(ValueError, match="gallery image"):
        rank_cells(lists, [0], Pictures(), top=0)


def test_the_first_match_is_shown_however_late_it_comes(lists):
    cells, columns = rank_cells(lists, [0, 1], Pictures(), top=1, height=64)
    assert columns == 4 and cells[3] == (None, "", "")
    assert cells[7].colour == COLOURS[True] and cells[7].caption.splitlines()[0] == "3. hit"
    assert lists.first_match([1]) == [(3, lists.top([1], 3)[0][2])]


def test_without_a_restored_query_there_is_no_column_for_it(lists):
    cells, columns = rank_cells(lists, [0, 2], Pictures(), top=99)
    # Six gallery images are left to query 0, seven to query 2.
    assert columns == 1 + 7 and len(cells) == 16 and cells[7] == (None, "", "")


def test_marks_differ_in_shape_not_only_in_colour():
    img = PIL.Image.new("RGB", (40, 90), "grey")
    hit, miss = (np.asarray(marked(img, kind, 90)) for kind in (True, False))
    inked = [(pixels[:11, :11] == getrgb(COLOURS[kind])).all(2) for kind, pixels in ((True, hit), (False, miss))]
    assert inked[0].sum() > 8 and inked[1].sum() > 8 and (inked[0] != inked[1]).sum() > 8
    assert (hit[12:] == 128).all() and (np.asarray(img) == 128).all()


def test_the_protocol_is_the_runs_own():
    def protocol(*opts, dataset="folder"):
        return ranking_options(load_config(None, list(opts)), dataset)

    assert protocol(dataset="mlr_cuhk03")["protocol"] == "single_shot" and protocol()["protocol"] == "market"
    assert protocol("test.metric", "single_shot", "test.seed", "5")["seed"] == 5
    assert protocol("cuhk03.use_metric_cuhk03", "True", dataset="market1501")["protocol"] == "single_shot"
    assert protocol("test.dist_metric", "cosine", "test.normalize_feature", "True")["normalize"] is True
