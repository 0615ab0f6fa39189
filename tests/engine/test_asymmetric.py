"""Training of the asymmetric query encoder: what moves, what is read and kept out, and that a run goes on exactly."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_net
import torch
from tiny_jobs import TINY, configured, ready_engine, same, untrained_run

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError, load_config
from torchreid_xres.data.base import CrossResolutionDataset
from torchreid_xres.engine.asymmetric import AsymmetricEngine
from torchreid_xres.engine.base import LAST, XresEngine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.run import Run

OWN = TINY | {"sr.name": "bicubic", "sr.options": {}, "model.name": "asymmetric", "train.epoch_batches": 2}
OWN |= {"loss.asymmetric.bank": 32, "data.transforms": ["random_flip"], "train.batch_size": 12}
LABELS = {"loss__asymmetric__id": 1.0, "loss__asymmetric__triplet": 1.0, "sampler__train_sampler": "IdentitySampler"}
LABELS |= {"sampler__num_instances": 3}


@pytest.fixture(scope="module")
def gallery(tiny_root, tmp_path_factory):
    """The folder of a run of a network of the zoo, untrained."""
    folder = tmp_path_factory.mktemp("gallery")
    return untrained_run(configured(OWN | {"model.name": tiny_net.STAGED}, tiny_root, folder, {}), folder)


@pytest.fixture
def config(gallery, tiny_root, tmp_path):
    """Return a function: changes to the configuration of a run on the gallery encoder's."""

    def make(**changes):
        keys = OWN | {"model.gallery_run": str(gallery)}
        return configured(keys, tiny_root, tmp_path / "run", changes)

    return make


@pytest.fixture
def engine_of(config):
    """Return a function: changes to an engine that is ready for a step."""

    def make(**changes):
        run = own_runs(cfg := config(**changes), 0, Path(cfg.data.save_dir))[-1]
        engine = ready_engine(run)
        engine.set_model_mode("train")
        return engine

    return make


def batch_of(engine):
    return next(iter(engine.train_loader))


def gradient(engine, data):
    torch.manual_seed(3)  # of the views
    engine.set_model_mode("train")
    engine.model.zero_grad()
    engine.losses(data)["loss"].backward()
    return {name: p.grad.clone() for name, p in engine.model.named_parameters() if p.grad is not None}


def weights(engine):
    return {name: value.clone() for name, value in engine.model.state_dict().items()}


# -- what a step does ----------------------------------------------------------------------------------------------


def test_the_gallery_encoder_is_the_other_run_s_and_never_moves(engine_of, gallery):
    engine = engine_of(train__lr=0.01)
    before, trained = weights(engine), checkpoint.load(gallery / LAST)["models"]["model"]
    kept = {name.removeprefix("gallery."): value for name, value in before.items() if name.startswith("gallery.")}
    assert all(torch.equal(value, trained[name]) for name, value in kept.items())
    assert kept.keys() == {name for name in trained if not name.startswith("classifier.")}
    for _ in range(2):
        engine.forward_backward(batch_of(engine))
    moved = {name for name, value in weights(engine).items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"query"}
    running = {name for name in before if name.startswith("query.") and "running" in name}
    assert running and running <= moved  # only the query encoder has seen the views


def test_the_loss_falls(engine_of):
    engine = engine_of(train__lr=0.002, data__camera__rates=[4.0, 4.0], data__transforms=[])
    engine.scheduler = None
    losses = [engine.forward_backward(batch_of(engine))["loss"] for _ in range(24)]
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[1:5])


def test_a_frozen_gallery_encoder_is_asked_once_of_whole_images(engine_of, monkeypatch):
    engine = engine_of()
    data, network = batch_of(engine), engine.model
    assert engine.train_loader.batch_size == len(data["pid"])  # as of any loader
    asked = []
    own = network.describe_gallery
    monkeypatch.setattr(network, "describe_gallery", lambda img: asked.append(len(img)) or own(img))
    before = torch.get_rng_state()
    engine.before_epoch()
    assert sum(asked) == len(engine._sharp) and torch.equal(torch.get_rng_state(), before)
    engine.losses(data)
    assert sum(asked) == len(engine._sharp)
    plain = next(iter(engine.as_captured(engine._sharp[:4])))
    with torch.no_grad():
        torch.testing.assert_close(engine._of_index(plain["impath"]), own(plain["img"]), rtol=1e-4, atol=1e-5)
    assert engine._of_index(["nowhere.png"]).abs().sum() == 0


TURNED = [
    {"absolute": 2.0}, {"absolute": 0.0}, {"relational": 2.0}, {"relational": 0.0}, {"temperature": 0.2},
    {"id": 1.0}, {"triplet": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("changes", TURNED, ids=str)
def test_every_setting_of_the_loss_changes_the_gradient(changes, engine_of):
    plain = engine_of(sampler__train_sampler="IdentitySampler", sampler__num_instances=3)
    data = batch_of(plain)
    keys = {f"loss__asymmetric__{key}": value for key, value in changes.items()}
    changed = engine_of(sampler__train_sampler="IdentitySampler", sampler__num_instances=3, **keys)
    found, other = gradient(plain, data), gradient(changed, data)
    name = "query.conv1.conv.weight"
    assert name in found and not torch.allclose(found[name], other[name], rtol=1e-3)


CAMERA = [
    {"rates": [1.0, 2.0]}, {"share": 0.2}, {"kernels": ["lanczos"]}, {"blur": 1.0}, {"noise": 1.0}, {"jpeg": 1.0},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", CAMERA, ids=str)
def test_every_setting_of_the_camera_changes_the_views(changes, engine_of):
    plain = engine_of()
    data = batch_of(plain)
    changed = engine_of(**{f"data__camera__{key}": value for key, value in changes.items()})
    name = "query.conv1.conv.weight"
    assert not torch.allclose(gradient(plain, data)[name], gradient(changed, data)[name], rtol=1e-3)


def test_a_frozen_classifier_stays_and_its_gradient_reaches_the_query_encoder(engine_of):
    frozen = engine_of(**LABELS, loss__asymmetric__classifier="frozen", train__lr=0.01)
    trained = engine_of(**LABELS, train__lr=0.01)
    before = weights(frozen)["classifier.weight"]
    assert torch.equal(weights(trained)["classifier.weight"], before)  # both begin with the gallery encoder's own
    for engine in (frozen, trained):
        engine.forward_backward(batch_of(engine))
    assert torch.equal(weights(frozen)["classifier.weight"], before)
    assert not torch.equal(weights(trained)["classifier.weight"], before)


@pytest.mark.parametrize("mode", ["trained", "shared"])
def test_the_one_run_forms_train_both(mode, engine_of):
    engine = engine_of(**LABELS, loss__asymmetric__gallery=mode, train__lr=0.01)
    before = weights(engine)
    losses = engine.forward_backward(batch_of(engine))
    moved = {name.partition(".")[0] for name, value in weights(engine).items() if not torch.equal(value, before[name])}
    assert moved == {"gallery", "classifier", *(["query"] if mode == "trained" else [])}
    assert {"absolute", "relational", "id", "triplet", "acc"} <= losses.keys()


def test_the_sharp_view_is_not_drawn_to_the_degraded_one(engine_of):
    engine = engine_of(loss__asymmetric__gallery="trained")
    found = gradient(engine, batch_of(engine))
    assert found and all(name.startswith("query.") for name in found)


def test_a_mean_gallery_encoder_is_followed_and_follows(engine_of):
    engine = engine_of(**LABELS, loss__asymmetric__gallery="trained", loss__asymmetric__momentum=0.9, train__lr=0.01)
    mean, own = engine.average.module, engine.model.gallery
    before = {name: value.clone() for name, value in mean.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    data = batch_of(engine)
    for _ in range(2):
        engine.forward_backward(data)
    name = "conv1.conv.weight"
    moved, far = (mean.state_dict()[name] - before[name]).norm(), (own.state_dict()[name] - before[name]).norm()
    assert 0 < moved < 0.25 * far
    plain = engine_of(**LABELS, loss__asymmetric__gallery="trained")
    plain.model.load_state_dict(engine.model.state_dict())
    other = gradient(plain, data)["query.conv1.conv.weight"]
    assert not torch.allclose(gradient(engine, data)["query.conv1.conv.weight"], other, rtol=1e-3)


# -- what is learned from ------------------------------------------------------------------------------------------


def test_without_labels_no_identity_is_read(config, tmp_path, monkeypatch):
    cfg = config(train__max_epoch=1)
    ended = run_job(cfg)[0]
    real = CrossResolutionDataset.__getitem__

    def confused(self, index):
        item = real(self, index)
        return item | {"pid": (7 * index) % 8} if self.mode == "train" else item

    monkeypatch.setattr(CrossResolutionDataset, "__getitem__", confused)
    again = run_job(config(train__max_epoch=1, data__save_dir=str(tmp_path / "confused")))[0]
    assert again["weights_sha256"] == ended["weights_sha256"] and ended["labels"] is False
    assert not any("classifier" in name for name in checkpoint.load(last_of(cfg))["models"]["model"])


def last_of(cfg):
    return next(Path(cfg.data.save_dir).rglob(LAST))


def test_some_images_are_kept_out_by_their_names(engine_of):
    engine = engine_of(loss__asymmetric__held_out=0.25)
    kept = {engine.datamanager.train_loader.dataset.train[i][0] for i in engine.held_out}
    assert len(kept) == 12 and engine.run_facts["train_images"] == 36
    seen = {path for _ in range(20) for path in batch_of(engine)["impath"]}
    assert not seen & kept and len(seen) == 36
    other = engine_of(loss__asymmetric__held_out=0.25, train__seed=9)
    assert other.held_out == engine.held_out
    drawn = engine_of(loss__asymmetric__held_out=0.25, **LABELS)
    seen = {path for _ in range(20) for path in batch_of(drawn)["impath"]}
    assert not seen & kept and drawn.held_out == engine.held_out


def test_what_is_low_by_nature_is_left_out_or_teaches_its_identity(engine_of):
    natural = {"data__options__folder": {"synthetic": False, "lr_camera": "1"}}
    engine = engine_of(**natural, loss__asymmetric__held_out=0.0)
    assert engine.run_facts["train_images"] == 24
    assert not any("_c1_" in path for _ in range(5) for path in batch_of(engine)["impath"])
    labelled = engine_of(**natural, **LABELS)
    data = batch_of(labelled)
    assert data["low"].any() and not any("_c1_" in path for path in [
        labelled.datamanager.train_loader.dataset.train[i][0] for i in labelled.held_out
    ])  # fmt: skip
    rows = torch.where(data["low"])[0].tolist()
    low = {key: value[rows] if torch.is_tensor(value) else [value[row] for row in rows] for key, value in data.items()}
    assert "absolute" not in labelled.losses(low)


def test_the_sharp_view_of_a_low_image_is_its_original(engine_of, monkeypatch):
    engine = engine_of(data__transforms=[])
    data, seen = batch_of(engine), []
    monkeypatch.setattr(type(engine.camera), "views", lambda self, images, sizes: seen.append(sizes) or (images, sizes))
    calls = []
    engine.model.register_forward_hook(lambda _, args, output: calls.append(args))
    engine.losses(data)
    assert torch.equal(calls[0][1], data["img_hr"]) and data["low"].any()
    assert ((seen[0] - torch.tensor([64, 32])).abs() <= 2).all()  # as captured, up to the rounding of its low view's
    plain = engine_of(data__transforms=[], data__pairs=False)
    data = batch_of(plain)
    assert not data["low"].any()  # without pairs a low image has no original
    plain.losses(data)


def test_the_range_of_rates_is_said(engine_of, caplog):
    engine = engine_of(data__camera__rates=[1.0, 16.0])
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            engine.losses(batch_of(engine))
    said = [r.getMessage() for r in caplog.records if "queries are made" in r.getMessage()]
    assert said == [
        "queries are made at rates 1 to 16 and have at least 8 pixels of height, which limits the rate of 12 of the "
        "first 12 images"
    ]


# -- runs ----------------------------------------------------------------------------------------------------------


def test_a_job_finds_the_threshold_keeps_it_and_stands_alone(config, gallery, tmp_path):
    other = tmp_path / "gallery"
    shutil.copytree(gallery, other)
    cfg = config(model__gallery_run=str(other), data__height=48, data__width=24, test__query_rates=[4.0])
    record = run_job(cfg)[0]
    assert record["input"] == [32, 16]  # the gallery encoder's, whatever was asked for
    routing = record["routing"]
    assert routing["images"] == 5 and set(routing["by_rate"]["8"]) == {"views", "magnification", "cosine", "agreement"}
    state = checkpoint.load(last_of(cfg))["models"]["model"]
    assert state["threshold"].item() == pytest.approx(routing["threshold"] or 3.4e38, rel=1e-3)
    assert state["length"].item() > 0 and state["length"].item() != 1
    folder = last_of(cfg).parent
    kept = load_config(folder / "config.yaml")
    assert kept.model.gallery_run == "" and kept.model.reid == tiny_net.STAGED and kept.data.height == 32
    assert json.loads((folder / "results" / "folder.json").read_text())["routing"] == json.loads(json.dumps(routing))
    shutil.rmtree(other)
    cfg.test.evaluate = True
    again = run_job(cfg)[0]
    assert (again["rank1"], again["mAP"], again["curve"]) == (record["rank1"], record["mAP"], record["curve"])
    assert again["routing"] == {"threshold": routing["threshold"]}
    assert Run.load(folder).cfg.model.reid_weights == str(other / LAST)


def test_one_of_our_methods_is_the_gallery_encoder(config, tiny_root, tmp_path):
    keys = TINY | {"model.name": "msifla", "model.options": {"widths": [4, 8]}, "data.pairs": False, "test.flip": True}
    folder = untrained_run(configured(keys, tiny_root, tmp_path / "msifla", {}), tmp_path / "msifla")
    cfg = config(model__gallery_run=str(folder), model__options={"query": "osnet_x0_25", "query_size": [24, 16]})
    run = own_runs(cfg, 0, tmp_path / "own")[0]
    engine = run.engine()
    assert type(engine.model.gallery).__name__ == "MSIFLA" and engine.flip
    assert run.cfg.model.options.reid_options.widths == [4, 8] and run.cfg.model.options.query_size == [24, 16]
    engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, run.folder
    engine.set_model_mode("train")
    assert engine.forward_backward(batch_of(engine))["loss"] > 0


@pytest.mark.slow
def test_a_stopped_run_ends_like_a_whole_one(config, tmp_path, monkeypatch):
    how = {**LABELS, "loss__asymmetric__gallery": "trained", "loss__asymmetric__momentum": 0.9, "train__max_epoch": 2}
    how |= {"data__camera__noise": 0.5, "data__camera__jpeg": 0.5, "train__epoch_batches": 1, "train__batch_size": 6}
    whole = config(**how, data__save_dir=str(tmp_path / "whole"))
    run_job(whole)
    real = XresEngine.forward_backward

    def stop(self, data):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return real(self, data)

    cfg = config(**how, data__save_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(XresEngine, "forward_backward", stop)
        run_job(cfg)
    run_job(cfg)
    one, other = (checkpoint.load(last_of(job)) for job in (whole, cfg))
    for part in ("models", "optimizers", "asymmetric", "random"):
        assert same(one[part], other[part]), part
    assert one["asymmetric"].keys() == {"loss", "average"}


@pytest.mark.slow
def test_a_run_stopped_before_its_evaluation_still_finds_the_threshold(config, tmp_path, monkeypatch):
    whole = config(train__max_epoch=1, data__save_dir=str(tmp_path / "whole"))
    record = run_job(whole)[0]
    cfg = config(train__max_epoch=1, data__save_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AsymmetricEngine, "_calibrate", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        run_job(cfg)
    again = run_job(cfg)[0]
    assert again["routing"] == record["routing"] and again["weights_sha256"] == record["weights_sha256"]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"model__gallery_run": ""}, "needs one that was trained: set model.gallery_run"),
        ({"loss__asymmetric__momentum": 0.9}, "momentum is of a gallery encoder that learns, and it is frozen"),
        ({"loss__asymmetric__absolute": 0.0, "loss__asymmetric__relational": 0.0}, "asymmetric needs a loss: one of"),
        ({"sampler__train_sampler": "RandomIdentitySampler"}, "leaves images out, which RandomIdentitySampler cannot"),
        (
            {
                "model__gallery_run": "", "loss__asymmetric__gallery": "trained", "loss__asymmetric__id": 1.0,
                "loss__asymmetric__classifier": "frozen",
            },
            "classifier frozen needs the gallery encoder's",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(changes, told, engine_of):
    with pytest.raises(ConfigError, match=told):
        engine_of(**changes)


def test_a_run_that_is_not_there(engine_of, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder of a run"):
        engine_of(model__gallery_run=str(tmp_path / "none"))


@pytest.mark.slow
def test_bad_crops_are_found_more_often_and_sharp_ones_as_often(shared_data, tmp_path):
    """The archive without labels, in short: half of the sides, 200 steps, one half of CUHK03's persons to find."""
    ours = load_config("configs/asymmetric_unlabelled_mlr_cuhk03_mini.yaml", [
        "data.root", str(shared_data), "data.height", "256", "data.width", "128", "data.rates", "[1.0, 8.0]",
        "data.options", "{mlr_cuhk03: {layout: one_pair, test_persons: 372}}", "test.query_rates", "[]",
        "model.options", "{query_size: [128, 64]}", "train.max_epoch", "4", "train.precision", "fp32",
    ])  # fmt: skip
    found = {}
    for label, epochs in (("before", 0), ("after", 4)):
        cfg = ours.clone()
        cfg.merge_from_list(["train.max_epoch", epochs, "data.save_dir", str(tmp_path / label)])
        if not epochs:
            cfg.model.name = cfg.model.reid
            cfg.model.load_weights, cfg.model.options, cfg.data.pairs = cfg.model.reid_weights, None, False
        (record,) = run_job(cfg)
        found[label] = {rate: part["rank1"] for rate, part in record["by_rate"].items()}
    assert found["after"]["8"] >= 1.3 * found["before"]["8"]
    assert found["after"]["1"] >= found["before"]["1"] - 0.5
