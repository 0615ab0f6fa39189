"""A gallery's hits are accepted by its run's own evaluation, and by no other."""

import json
import shutil

import pytest
from tiny_jobs import TINY, configured, untrained_run

from torchreid_xres import checkpoint
from torchreid_xres.engine.base import LAST
from torchreid_xres.inference import Extractor
from torchreid_xres.jobs.run import Run
from torchreid_xres.search import Gallery
from torchreid_xres.search.acceptance import acceptance

# Queries as they are stored, as a search takes them.
WHOLE = TINY | {"test.dist_metric": "cosine", "test.evaluate": True, "data.options.folder": {}}


@pytest.fixture(scope="module")
def evaluated(tiny_root, tmp_path_factory):
    """A run's folder with a record in it."""
    folder = tmp_path_factory.mktemp("evaluated")
    untrained_run(configured(WHOLE, tiny_root, folder, {}), folder)
    Run.load(folder).evaluate()
    return folder


@pytest.fixture
def gallery(evaluated, tiny_root, tmp_path):
    run = shutil.copytree(evaluated, tmp_path / "run")
    made = Gallery(tmp_path / "gallery", Extractor(run))
    made.update(tiny_root / "gallery")
    return made


@pytest.fixture
def change(gallery):
    """Change parts of the run's record."""

    def write(**parts):
        path = gallery.weights.parent / "results" / "folder.json"
        record = json.loads(path.read_text())
        record["protocol"] |= parts.pop("protocol", {})
        path.write_text(json.dumps({key: value for key, value in (record | parts).items() if value is not None}))

    return write


@pytest.mark.parametrize("fpr", [0.01])
def test_as_many_are_accepted_as_in_the_evaluation(gallery, tiny_root, fpr):
    limit = acceptance(gallery, fpr)
    paths = sorted((tiny_root / "query").rglob("*.png"))
    hits = gallery.search(gallery.extractor(paths), top=len(gallery))
    pairs = [(path.parent.name == hit.path.parent.name, limit.accepts(hit))
             for path, found in zip(paths, hits, strict=True) for hit in found]  # fmt: skip
    right = [accepted for same, accepted in pairs if same]
    wrong = [accepted for same, accepted in pairs if not same]
    allowed = int(fpr * len(wrong))
    assert allowed - 1 <= sum(wrong) <= allowed  # batches of another size differ in the last bit
    assert 100 * sum(right) / len(right) == pytest.approx(limit.tpr, abs=100 / len(right) + 1e-6)
    assert limit.dataset == "folder" and limit.fpr == fpr and limit.score == 1 - limit.distance < 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"accept": None}, r"written before records held .* evaluate the run again .*test.evaluate True"),
        ({"accept": None, "tpr": None}, "tells nothing of verification"),
        ({"accept": {"fpr0.01": None, "fpr0.001": 0.1}}, "no pair that is accepted at the false positive rate 0.01"),
        ({"accept": {"fpr0.1": 0.1}}, "at the false positive rates 0.1, not at 0.01"),
        ({"protocol": {"distance": "euclidean"}}, "distance is euclidean there and cosine here"),
        ({"protocol": {"flip": True}}, "flip is True there and False here"),
        ({"protocol": {"rerank": True}}, "re-ranked distances, and a search does not re-rank"),
        ({"accept": {"fpr0.01": "near"}}, r"is damaged: accept\.fpr0\.01 is \"near\", which is not a number"),
        ({"accept": {"fpr0.01": float("nan")}}, r"is damaged: accept\.fpr0\.01 is NaN, which is not a number"),
        ({"tpr": {"fpr0.001": 5}}, r"is damaged: fpr0\.01 is .* in accept and not in tpr"),
        ({"accept": [1]}, r"is damaged: accept is \[1\], which is not an object"),
        ({"weights_sha256": "5"}, "made with other weights"),
        ({"tpr": {"fpr0.01": 1.0}}, "accepts 1 % of the pairs of one identity at .* rate 0.01, no more than"),
        ({"wrong_pairs": 99}, r"is of 99 pairs of different identities, .* on 100 at least"),
        ({"wrong_pairs": None, "query_images": 9, "gallery_images": 11}, "is of 99 pairs of different identities"),
    ],
)
def test_records_of_other_distances_are_refused(gallery, change, parts, message):
    change(**parts)
    with pytest.raises(ValueError, match=message):
        acceptance(gallery, 0.01)


def test_a_rate_takes_as_many_pairs_as_show_it(gallery, change):
    change(tpr={"fpr0.01": 50.0, "fpr0.001": 50.0}, wrong_pairs=270)
    with pytest.raises(ValueError, match=r"is of 270 pairs .* a false positive rate of 0.001 is measured on 1000"):
        acceptance(gallery, 0.001)
    change(wrong_pairs=1000)
    assert acceptance(gallery, 0.001).tpr == 50


def test_cosines_do_not_depend_on_the_length(gallery, change):
    change(protocol={"normalize": True})
    assert acceptance(gallery, 0.01).score < 1


def test_records_of_other_weights_are_refused(gallery):
    state = checkpoint.load(gallery.weights)
    next(iter(state["models"]["model"].values())).add_(1)
    checkpoint.save_atomic(state, gallery.weights)
    with pytest.raises(ValueError, match=r"\(epoch .* was made with other weights than .*last.pth.tar holds"):
        acceptance(gallery, 0.01)


def test_runs_without_a_record(gallery, tmp_path):
    run = gallery.weights.parent
    shutil.copy(run / "results" / "folder.json", run / "results" / "other.json")
    with pytest.raises(ValueError, match="was evaluated on folder, other: name one of them"):
        acceptance(gallery, 0.01)
    assert acceptance(gallery, 0.01, dataset="folder").dataset == "folder"
    moved = run.rename(tmp_path / "moved")
    assert acceptance(gallery, 0.01, moved, "folder") == acceptance(gallery, 0.01, moved / LAST, "folder")
    shutil.rmtree(moved / "results")
    with pytest.raises(FileNotFoundError, match="no run was evaluated there"):
        acceptance(gallery, 0.01, moved)
    (moved / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match="lies in no folder of a run"):
        acceptance(gallery, 0.01, moved)
