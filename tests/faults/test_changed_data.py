"""A data set that changes under a run: said which files, and no run goes on with other images than it began with."""

import json
import shutil

import pytest
from PIL import Image

from torchreid_xres import checkpoint
from torchreid_xres.data.protocol import Manifest
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.jobs.job import run_job
from torchreid_xres.jobs.run import Run

A_TRAINING_IMAGE = "train/003/003_c1_1.png"


class StopHereError(Exception):
    pass


@pytest.fixture
def root(tiny_root, tmp_path):
    """A copy of the images, to be changed."""
    return shutil.copytree(tiny_root, tmp_path / "set")


@pytest.fixture
def stopped(tiny, root, tmp_path, monkeypatch):
    """The configuration of a job that was stopped in its second epoch."""
    cfg = tiny(tmp_path / "run", data__root=str(root), test__eval_freq=-1, train__max_epoch=2)
    train = XresMixin.train

    def stop(self, *args, **kwargs):
        if self.epoch == 1:
            raise StopHereError
        train(self, *args, **kwargs)

    monkeypatch.setattr(XresMixin, "train", stop)
    with pytest.raises(StopHereError):
        run_job(cfg)
    monkeypatch.setattr(XresMixin, "train", train)
    return cfg


def change(root, how):
    path = root / A_TRAINING_IMAGE
    if how == "missing":
        path.unlink()
    elif how == "changed":
        Image.open(path).rotate(180).save(path)
    else:
        shutil.copy(path, path.with_name("003_c1_7.png"))


@pytest.mark.parametrize("how", ["missing", "changed", "new"])
def test_a_run_does_not_go_on_with_other_images(stopped, root, tmp_path, how):
    home = tmp_path / "run" / "split0" / "sr_reid"
    before = (home / LAST).read_bytes(), (home / "manifest_folder.json").read_bytes()
    shutil.copytree(root, tmp_path / "kept")
    change(root, how)
    first = A_TRAINING_IMAGE.replace("_1.", "_7.") if how == "new" else A_TRAINING_IMAGE
    told = rf"folder is not what .* began with: 1 images are {how}, the first is {first}"
    with pytest.raises(ValueError, match=told):
        run_job(stopped)
    assert before == ((home / LAST).read_bytes(), (home / "manifest_folder.json").read_bytes())
    if how == "missing":  # put back, the run goes on
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "kept", root)
        run_job(stopped)
        assert checkpoint.load(home / LAST)["epoch"] == 2


def test_an_image_that_goes_while_the_run_reads_is_named(tiny, root, tmp_path, monkeypatch):
    cfg = tiny(tmp_path / "run", data__root=str(root), data__cache_mb=0)
    train = XresMixin.train

    def spoil(self, *args, **kwargs):
        change(root, "missing")
        train(self, *args, **kwargs)

    monkeypatch.setattr(XresMixin, "train", spoil)
    with pytest.raises(FileNotFoundError, match=rf"{A_TRAINING_IMAGE}: there is no such image file"):
        run_job(cfg)


@pytest.mark.parametrize("image", [A_TRAINING_IMAGE, "query/009/009_c1_0.png"])
def test_no_record_is_made_of_images_that_changed_under_the_run(tiny, root, tmp_path, monkeypatch, image):
    cfg = tiny(tmp_path / "run", data__root=str(root), train__max_epoch=1)
    train = XresMixin.train

    def spoil(self, *args, **kwargs):
        train(self, *args, **kwargs)
        Image.open(root / image).rotate(180).save(root / image)

    monkeypatch.setattr(XresMixin, "train", spoil)
    told = rf"folder has changed while the run was using it: of 1 images the first is {image}, which is changed\. Put"
    with pytest.raises(ValueError, match=told):
        run_job(cfg)
    assert not list((tmp_path / "run").rglob("results/*.json"))


def test_a_stage_does_not_build_on_one_that_learned_from_other_images(tiny, root, tmp_path, monkeypatch):
    cfg = tiny(
        tmp_path / "run", data__root=str(root), train__max_epoch=1,
        stages={"first": {}, "second": {"model": {"load_weights": "{first}/last.pth.tar"}}},
    )  # fmt: skip
    work = Run.work

    def spoil(self):
        found = work(self)
        change(root, "changed")
        return found

    monkeypatch.setattr(Run, "work", spoil)
    told = rf"folder is not what the run in .*first began with: 1 images are changed, the first is {A_TRAINING_IMAGE}"
    with pytest.raises(ValueError, match=told):
        run_job(cfg)


def test_an_evaluation_on_other_images_says_so_and_keeps_the_trainings_manifest(stopped, root, tmp_path, caplog):
    home = tmp_path / "run" / "split0" / "sr_reid"
    trained = Manifest.load(home / "manifest_folder.json")
    (root / "gallery" / "009" / "009_c2_2.png").unlink()
    stopped.test.evaluate = True
    with caplog.at_level("WARNING"):
        (record,) = run_job(stopped)
    told = "1 images are missing, the first is gallery/009/009_c2_2.png"
    assert f"folder is not as in the training: {told}" in caplog.text
    assert Manifest.load(home / "manifest_folder.json").sha256 == trained.sha256
    assert record["manifest"] == Manifest.load(home / "results" / "manifest_folder.json").sha256 != trained.sha256
    assert json.loads((home / "results" / "folder.json").read_text())["manifest"] == record["manifest"]


def test_a_set_that_is_only_trained_on_leaves_its_manifest_too(tiny, root, tmp_path, monkeypatch):
    monkeypatch.setattr(XresMixin, "run", lambda *_, **__: None)
    cfg = tiny(
        tmp_path / "run", data__root=str(root), data__targets=["synth_person"],
        data__options__synth_person={"train_identities": 4, "test_identities": 4, "images_per_camera": 1},
    )  # fmt: skip
    run_job(cfg)
    names = sorted(path.name for path in (tmp_path / "run" / "split0" / "sr_reid").glob("manifest_*"))
    assert names == ["manifest_folder.json", "manifest_synth_person.json"]


def test_differences_name_what_else_has_changed():
    def made(**changes):
        image = {"rate": 2.0, "sha256": "a"}
        facts = {"dataset": "d", "options": {"x": 1}, "split_id": 0, "kernel": "bicubic", "rates": [2.0, 3.0]}
        facts |= {"query_rate": None, "seed": 0, "images": {"a": image, "b": image}, "counts": {}}
        return Manifest(**facts | changes)

    assert made().differences(made()) == "" and made().differences(made(rates=(2.0, 3.0))) == ""
    assert made().differences(made(kernel="area")) == 'kernel: "area" instead of "bicubic"'
    now = made(seed=1, images={"a": {"rate": 3.0, "sha256": "a"}, "c": {"rate": 2.0, "sha256": "a"}})
    assert made().differences(now) == (
        "1 images are missing, the first is b; 1 images are new, the first is c; "
        "1 images are at another rate, the first is a; seed: 1 instead of 0"
    )
