"""A gallery teaches a query encoder: its own files stay, a kill costs nothing, and what does not fit is refused."""

import hashlib
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import tiny_net
import torch
from adapted import with_threshold
from tiny_jobs import same

from torchreid_xres import checkpoint
from torchreid_xres.inference import Extractor
from torchreid_xres.inference.query_encoder import ABOUT, FOLDER, TRAINING, WEIGHTS, QueryEncoder
from torchreid_xres.search import Gallery, adapt
from torchreid_xres.search.adapt import default_steps, plan

STEPS = 12


@pytest.fixture(scope="module")
def extractor(run_of):
    return Extractor(run_of(tiny_net.STAGED), batch_size=8)


@pytest.fixture(scope="module")
def place(extractor, tiny_root, tmp_path_factory):
    """A gallery of 18 images that was adapted."""
    folder = tmp_path_factory.mktemp("adapted")
    images = shutil.copytree(tiny_root / "gallery", folder / "images")
    gallery = Gallery(folder / "gallery", extractor)
    gallery.update(images)
    before = content(gallery.folder)
    adapt.adapt(gallery, extractor, plan(gallery, extractor, STEPS))
    assert content(gallery.folder) == before
    return gallery.folder


@pytest.fixture
def gallery(place, tmp_path):
    """A copy of that gallery, which a test may spoil; the images are where they were."""
    return Gallery(shutil.copytree(place, tmp_path / "gallery"))


@pytest.fixture
def learned(gallery):
    return gallery.folder / FOLDER


def content(folder):
    """Return the hash of each file of a gallery that is not the query encoder's."""
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and FOLDER not in path.relative_to(folder).parts
    }


def picture(height, seed=0):
    pixels = torch.randint(0, 256, (3, height, height // 2), generator=torch.Generator().manual_seed(seed))
    return pixels.to(torch.uint8)


def test_what_is_kept_and_that_the_loss_falls(place, extractor):
    assert sorted(path.name for path in (place / FOLDER).iterdir()) == [ABOUT, WEIGHTS]
    found = QueryEncoder.read(place / FOLDER)
    assert found.about["gallery_sha256"] == extractor.about["weights_sha256"]
    assert found.about["images"] == {"learned": 15, "held_out": 3, "low": 0, "gone": 0}
    assert found.about["magnifications"] == [1.0, 8.0] and "torch" in found.about["versions"]
    losses = found.about["losses"]
    assert len(losses) == STEPS and sum(losses[-4:]) < sum(losses[:4])
    # The images are 64 high, the input 32: enlarged 4 times they have the 8 pixels that show somebody, 6 times not.
    report = found.about["report"]
    assert [part["magnification"] for part in report] == [1, 2, 3, 4] and all(part["images"] == 3 for part in report)
    sharp = report[0]["before"]
    assert sharp["cosine"] > 0.99 and sharp["rank"] == 1 and sharp["first"] == 100


def test_another_caution_finds_the_threshold_anew_and_learns_nothing(gallery, extractor, learned, monkeypatch):
    before, seen = QueryEncoder.read(learned), []
    real = adapt.calibrate

    def calibrated(*args, caution):
        seen.append(caution)
        return real(*args, caution=caution)

    monkeypatch.setattr(adapt, "calibrate", calibrated)
    monkeypatch.delattr(adapt._Adaptation, "learn")
    planned = plan(gallery, extractor, STEPS)
    found = adapt.adapt(gallery, extractor, planned, caution=0.25)
    assert seen == [0.25] and found.about["routing"]["caution"] == 0.25
    assert (found.about["threshold"] or 1e9) <= (before.about["threshold"] or 1e9)
    assert found.about["losses"] == before.about["losses"] and found.about["steps"] == STEPS
    weights = {name for name in before.state if name not in ("threshold", "length")}
    assert all(torch.equal(found.state[name], before.state[name]) for name in weights)
    assert adapt.adapt(gallery, extractor, planned, caution=0.25).about == QueryEncoder.read(learned).about
    assert len(seen) == 1
    with pytest.raises(ValueError, match="caution is a share, from 0 to 1, not 2"):
        adapt.adapt(gallery, extractor, planned, caution=2)


def test_a_stopped_adaptation_goes_on_to_the_same_bits(place, extractor, tmp_path, monkeypatch):
    gallery = Gallery(shutil.copytree(place, tmp_path / "gallery", ignore=shutil.ignore_patterns(FOLDER)), extractor)
    planned = plan(gallery, extractor, STEPS)
    monkeypatch.setattr(adapt, "EVERY", 3)
    step, taken = adapt._Adaptation._step, []

    def killed(self, number, *args):
        if number == 5 and 5 not in taken:
            taken.append(5)
            raise KeyboardInterrupt
        taken.append(number)
        return step(self, number, *args)

    monkeypatch.setattr(adapt._Adaptation, "_step", killed)
    random = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        adapt.adapt(gallery, extractor, planned)
    with pytest.raises(FileNotFoundError, match="is not finished; xres search adapt goes on"):
        QueryEncoder.read(gallery.folder / FOLDER)
    assert torch.equal(torch.get_rng_state(), random)
    torch.rand(3)  # whatever else the process draws
    adapt.adapt(gallery, extractor, planned)
    assert taken == [0, 1, 2, 3, 4, 5, *range(3, STEPS)]
    whole, parts = (QueryEncoder.read(folder / FOLDER) for folder in (place, gallery.folder))
    assert same(whole.state, parts.state) and same(whole.about["losses"], parts.about["losses"])
    assert whole.about["report"] == parts.about["report"] and whole.about["threshold"] == parts.about["threshold"]

    adapt.adapt(gallery, extractor, planned)  # there is nothing to do
    assert len(taken) == 6 + STEPS - 3
    adapt.adapt(gallery, extractor, plan(gallery, extractor, 1))
    assert taken[-1] == 0 and QueryEncoder.read(gallery.folder / FOLDER).about["steps"] == 1


def test_a_state_of_another_plan_or_a_damaged_one_is_begun_anew(gallery, learned, extractor, caplog):
    for state in (b"no state", {"key": "another", "done": 1}):
        (learned / ABOUT).unlink()
        if isinstance(state, bytes):
            (learned / TRAINING).write_bytes(state)
        else:
            checkpoint.save_atomic(state, learned / TRAINING)
        adapt.adapt(gallery, extractor, plan(gallery, extractor, 1))
        assert "the adaptation begins anew" in caplog.text and not (learned / TRAINING).exists()
        caplog.clear()


def test_a_sharp_query_is_answered_as_without_and_a_low_one_by_the_query_encoder(gallery, learned, run_of):
    with_threshold(learned, 2.0)
    plain = Extractor(run_of(tiny_net.STAGED))
    both = Extractor(run_of(tiny_net.STAGED), query_encoder=learned)
    assert both.about == plain.about and plain.query_encoder is None
    sharp, low = picture(17), picture(16)  # the input is 32 high
    assert torch.equal(both(sharp), plain(sharp))
    assert both.by_query_encoder([both.prepare(sharp), both.prepare(low)]).tolist() == [False, True]
    assert not plain.by_query_encoder([plain.prepare(low)]).any()
    assert not torch.allclose(both(low), plain(low), atol=1e-3)
    together = both([low, sharp])
    torch.testing.assert_close(together, torch.cat((both(low), plain(sharp))), rtol=1e-4, atol=1e-5)
    assert torch.equal(both(low, role="gallery"), plain(low, role="gallery"))
    assert gallery.search(together, top=3)[1][0].name == gallery.search(plain(sharp), top=3)[0][0].name

    with pytest.raises(ValueError, match="updated by an extractor without a query encoder"):
        Gallery(gallery.folder, both).update(gallery.images)


def test_features_of_both_are_of_one_length(gallery, learned, run_of):
    """As the Euclidean distances of a gallery without normalised features need it."""
    run = run_of(tiny_net.STAGED, **{"test.normalize_feature": False})
    with_threshold(learned, 0.0)
    plain, both = Extractor(run), Extractor(run, query_encoder=learned)
    wanted = plain([gallery.images / name for name in plan(gallery, plain).held_out]).norm(dim=1).mean().item()
    assert wanted < 0.9
    assert both([picture(20), picture(9)]).norm(dim=1).tolist() == pytest.approx([wanted] * 2, rel=1e-4)


def test_a_smaller_query_encoder(gallery, extractor):
    found = adapt.adapt(gallery, extractor, plan(gallery, extractor, 2, (24, 16)))
    assert found.about["query_size"] == [24, 16] and found.about["size"] == [32, 16]
    both = gallery.make_extractor(query_encoder=found.folder)
    assert both.model.query_size == (24, 16) and both(picture(9)).shape == (1, 512)


SLOW = (pytest.param(name, marks=pytest.mark.slow) for name in ("kgnet", "msifla"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sr_reid", "dgrl", *SLOW])
def test_our_methods_learn_and_come_back(name, run_of, tiny_root, tmp_path):
    extractor = Extractor(run_of(name), batch_size=16, full_size=(64, 32))
    gallery = Gallery(tmp_path / "gallery", extractor)
    gallery.update(tiny_root / "gallery")
    found = adapt.adapt(gallery, extractor, plan(gallery, extractor, 1))
    with_threshold(found.folder, 0.0)
    both = gallery.make_extractor(query_encoder=found.folder)
    assert both(picture(8)).shape == extractor(picture(8)).shape
    assert torch.equal(both(picture(8), role="gallery"), extractor(picture(8), role="gallery"))


def test_a_network_that_has_no_features_in_training_is_told(run_of, tiny_root, tmp_path):
    extractor = Extractor(run_of("prpr"), batch_size=16)
    gallery = Gallery(tmp_path / "gallery", extractor)
    gallery.update(tiny_root / "gallery")
    with pytest.raises(ValueError, match=r"PRPR gives no features in training; name .* of asymmetric"):
        adapt.adapt(gallery, extractor, plan(gallery, extractor, 1))


# -- what is wrong -------------------------------------------------------------------------------------------------


def test_a_half_written_or_damaged_one_is_none(learned):
    about = json.loads((learned / ABOUT).read_text())
    (learned / ABOUT).write_text(json.dumps(about | {"weights_sha256": "0" * 64}))
    with pytest.raises(FileNotFoundError, match=r"was not finished: about\.json is of other weights"):
        QueryEncoder.read(learned)
    (learned / ABOUT).write_text(json.dumps(about)[:-50])
    with pytest.raises(ValueError, match=r"about\.json is damaged"):
        QueryEncoder.read(learned)
    (learned / ABOUT).write_text(json.dumps(about))
    (learned / WEIGHTS).write_bytes((learned / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ValueError, match=WEIGHTS):
        QueryEncoder.read(learned)
    (learned / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {WEIGHTS}"):
        QueryEncoder.read(learned)


def test_one_of_another_network_is_refused_by_its_hash(learned, run_of):
    with pytest.raises(ValueError, match=r"follows osnet_tiny with the weights \w{12}, and these are \w{12}"):
        Extractor(run_of(tiny_net.STAGED, **{"train.seed": 5}), query_encoder=learned)
    with pytest.raises(ValueError, match="its gallery encoder's input is 32x16, and this one's 64x32"):
        Extractor(run_of(tiny_net.STAGED, **{"data.height": 64, "data.width": 32}), query_encoder=learned)


def test_a_changed_gallery_says_which_share_is_new(gallery, learned, extractor, tmp_path):
    found = QueryEncoder.read(learned)
    assert found.share_of_others(gallery.matrix) == 0
    assert found.share_of_others(np.concatenate((gallery.matrix, np.random.rand(6, 512).astype(np.float32)))) == 0.25
    assert extractor(picture(8)).shape == Extractor(extractor.weights, query_encoder=learned)(picture(8)).shape


def test_images_that_are_low_already_are_refused(extractor, tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        PIL.Image.new("RGB", (8, 16), (20 * number, 9, 9)).save(images / f"{number}.png")
    gallery = Gallery(tmp_path / "gallery", extractor)
    gallery.update(images)
    with pytest.raises(ValueError, match=r"^0 % of the 12 images .* at least 32x16 / 1\.41, and 20 % are needed"):
        plan(gallery, extractor)
    for number in range(12, 16):
        PIL.Image.new("RGB", (16, 32), (10 * number, 9, 9)).save(images / f"{number}.png")
    gallery.update(images)
    with pytest.raises(ValueError, match=r"^4 sharp images are too few .* at least 10"):
        plan(gallery, extractor)
    for number in range(16, 26):
        PIL.Image.new("RGB", (16, 32), (10 * number, 9, 9)).save(images / f"{number}.png")
    gallery.update(images)
    (images / "25.png").unlink()
    planned = plan(gallery, extractor)
    assert (planned.low, planned.gone, planned.few) == (12, 1, True)
    learned = adapt.adapt(gallery, extractor, plan(gallery, extractor, 1))
    PIL.Image.new("RGB", (8, 16), "red").save(images / "low.png")
    gallery.update(images)
    assert learned.share_of_others(gallery.matrix) > 0
    monkeypatch.setattr(adapt._Adaptation, "_step", lambda *_: pytest.fail("of these nothing new is learned"))
    assert adapt.adapt(gallery, extractor, plan(gallery, extractor, 1)).share_of_others(gallery.matrix) == 0
    assert len(planned.learned) + len(planned.held_out) == 13 and planned.steps == default_steps(13)
    for file in images.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="of the gallery's 26 images none is in"):
        plan(gallery, extractor)


def test_what_cannot_be_adapted(gallery, learned, extractor, run_of, monkeypatch):
    with pytest.raises(ValueError, match="steps is 0"):
        plan(gallery, extractor, 0)
    with pytest.raises(ValueError, match="has a query encoder already"):
        plan(gallery, Extractor(run_of("asymmetric")))
    with pytest.raises(ValueError, match="has a query encoder already"):
        plan(gallery, Extractor(extractor.weights, query_encoder=learned))
    gallery.weights = gallery.weights.with_name("gone.pth.tar")
    with pytest.raises(FileNotFoundError, match=r"there is no run or checkpoint at .*gone\.pth\.tar"):
        gallery.make_extractor()


def test_a_folder_that_cannot_be_written_to_is_said_before_learning(gallery, learned, extractor, monkeypatch):
    monkeypatch.setattr(adapt._Adaptation, "_step", lambda *_: pytest.fail("learning began"))
    shutil.rmtree(learned)
    learned.write_text("a file")
    with pytest.raises(OSError, match=f"{FOLDER} cannot be written to"):
        adapt.adapt(gallery, extractor, plan(gallery, extractor, 1))
