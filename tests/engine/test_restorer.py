"""Training of the pyramid restorer in the host's loop."""

import json
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from torchreid_xres import checkpoint, host
from torchreid_xres.config import load_config
from torchreid_xres.data.base import dataset_options
from torchreid_xres.data.io import read_image
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.restorer import RestorerEngine, full_flags
from torchreid_xres.image import resize
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.run import build_scheduler
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.models.weights import load_weights
from torchreid_xres.sr.pyramid import Pyramid, training_pair


@pytest.fixture
def restorer_config(tiny_config):
    """Return a function: overrides to a configuration of a tiny restorer, three iterations an epoch."""

    def make(epoch_batches=3, **changes):
        options = {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4}
        return tiny_config(
            **{
                "model__name": "prpr_restorer",
                "model__options": options,
                "data__pairs": False,
                "data__transforms": ["random_flip"],
                "train__batch_size": 4,
                "train__epoch_batches": epoch_batches,
                **changes,
            }
        )

    return make


def engine_of(cfg):
    return own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()


def test_the_loss_is_the_sum_of_three_mean_absolute_errors(restorer_config):
    engine = engine_of(restorer_config())
    batch = next(iter(engine.train_loader))
    losses = engine.losses(batch)
    image = batch["img"] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    image += torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    low = resize(image, (8, 4)).clamp(0, 1)
    total = 0
    with torch.no_grad():
        restored = engine.model(low)
    for name, made, scale in zip(Pyramid._fields, restored, (2, 3, 4), strict=True):
        truth = resize(image, (8 * scale, 4 * scale)).clamp(0, 1)
        error = sum(abs(a - b) for a, b in zip(made.flatten().tolist(), truth.flatten().tolist(), strict=True))
        assert losses[name].item() == pytest.approx(error / truth.numel(), abs=1e-5)
        total += losses[name].item()
    assert losses["loss"].item() == pytest.approx(total)


def test_no_target_is_an_enlargement_of_a_file(restorer_config):
    """Files of 64x32 for a network of 256x48: the x4 head is to make the file itself of its quarter."""
    engine = engine_of(restorer_config(data__height=256, data__width=48, data__transforms=[]))
    assert engine.size == (64, 32) and engine.run_facts["target"] == [64, 32]
    batch = next(iter(engine.train_loader))
    files = torch.stack([to_tensor(read_image(path)) for path in batch["impath"]])
    lr, target = training_pair(engine._full(batch))
    assert lr.shape[2:] == (16, 8) and target.x4.shape == files.shape
    assert psnr(target.x4, files).min() > 26
    assert engine_of(restorer_config()).size == (32, 16)  # a smaller network sees less than the files hold


@pytest.mark.parametrize("batches", [1, 3, 25])  # 24 full-resolution images in batches of 4
def test_an_epoch_is_a_number_of_iterations_however_large_the_set(restorer_config, batches):
    engine = engine_of(restorer_config(epoch_batches=batches))
    seen = list(engine.train_loader)
    assert len(seen) == len(engine.train_loader) == batches
    names = [path for batch in seen for path in batch["impath"]]
    assert not any(low for batch in seen for low in batch["low"])
    for start in range(0, len(names) - 23, 24):
        assert len(set(names[start : start + 24])) == 24  # once each before any comes again


def test_pairs_bring_in_the_originals_of_images_the_protocol_makes_low(restorer_config):
    engine = engine_of(restorer_config(data__pairs=True))
    assert engine.run_facts["train_images"] == 48
    batch = next(iter(engine.train_loader))
    torch.testing.assert_close(engine._full(batch), engine.normalize.undo(batch["img_hr"]))


def test_an_image_that_is_low_by_nature_is_never_an_original(tiny_root):
    for pairs in (False, True):
        with dataset_options({"folder": {"synthetic": False, "lr_camera": "1"}, "*": {"pairs": pairs}}):
            dataset = host.init_image_dataset(
                "folder", root=str(tiny_root), transform=lambda image: image, mode="train", verbose=False
            )
        native = [dataset.rate_of[path] == "native" for path, *_ in dataset.train]
        assert any(native) and full_flags(dataset) == [not flag for flag in native]
        assert full_flags(dataset + dataset) == 2 * full_flags(dataset)


def test_too_few_full_resolution_images_are_refused(restorer_config):
    with pytest.raises(ValueError, match=r"24 of 48 training images are there at full resolution.* batch of 25.*pairs"):
        engine_of(restorer_config(train__batch_size=25))


def test_the_record_tells_psnr_and_ssim_beside_bicubic(restorer_config):
    cfg = restorer_config(train__max_epoch=2)
    record = run_job(cfg)[0]
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    assert json.loads((run.folder / "results" / "folder.json").read_text())["psnr_x4"] == record["psnr_x4"]
    assert record["model"] == "prpr_restorer" and record["epoch_batches"] == 3 and record["images"] == 18

    engine = run.engine()
    load_weights(engine.model, run.folder / LAST, strict=True)
    engine.model.eval()
    images = torch.cat([batch["img"] for batch in engine.test_loader["folder"]["gallery"]])
    lr, target = training_pair(engine.normalize.undo(images))
    with torch.no_grad():
        restored = engine.model(lr)
    for name, made, truth in zip(Pyramid._fields, restored, target, strict=True):
        bicubic = resize(lr, truth.shape[-2:]).clamp(0, 1)
        for key, image in ((name, made), (f"bicubic_{name}", bicubic)):
            assert record[f"psnr_{key}"] == pytest.approx(psnr(image, truth).mean().item(), abs=1e-3)
            assert record[f"ssim_{key}"] == pytest.approx(ssim(image, truth).mean().item(), abs=1e-4)


def test_training_improves_on_the_untrained_restorer(restorer_config):
    cfg = restorer_config(epoch_batches=100, train__max_epoch=1, train__lr=2e-2)
    record = run_job(cfg)[0]
    assert record["psnr_x4"] > record["psnr_bicubic_x4"] + 0.2


def test_evaluation_alone_repeats_the_runs_figures(restorer_config):
    cfg = restorer_config(train__max_epoch=1)
    trained = run_job(cfg)[0]
    cfg.test.evaluate = True
    assert run_job(cfg)[0]["psnr_x3"] == pytest.approx(trained["psnr_x3"], abs=1e-6)


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("hook", ["forward_backward", "test"])
def test_an_interrupted_run_ends_bit_for_bit_like_a_whole_one(restorer_config, tmp_path, monkeypatch, hook):
    # 7 batches: more than a round of the 6 that the set has
    changes = {"epoch_batches": 7, "train__max_epoch": 3, "test__eval_freq": 1}
    whole = own_runs(restorer_config(data__save_dir=str(tmp_path / "whole"), **changes), 0, tmp_path / "whole")[0]
    whole.train()

    run = own_runs(restorer_config(data__save_dir=str(tmp_path / "parts"), **changes), 0, tmp_path / "parts")[0]
    original = getattr(RestorerEngine, hook)

    def stop(self, *args, **kwargs):
        if self.epoch == 1 and (hook == "test" or self.batch_idx == 4):
            raise StopHereError
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RestorerEngine, hook, stop)
    with pytest.raises(StopHereError):
        run.train()
    monkeypatch.setattr(RestorerEngine, hook, original)
    torch.rand(7)
    run.train()
    a, b = (checkpoint.load(r.folder / LAST)["models"]["model"] for r in (whole, run))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_published_schedule_halves_by_iterations(repo):
    cfg = load_config(repo / "configs" / "_base_" / "prpr_restorer.yaml")
    length = RestorerEngine.engine_options(cfg)["epoch_batches"]
    assert cfg.train.max_epoch * length == 5000 and cfg.train.batch_size == 32
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=cfg.train.lr)
    scheduler = build_scheduler(cfg, optimizer)
    halved, last = [], cfg.train.lr
    for epoch in range(cfg.train.max_epoch):
        rate = optimizer.param_groups[0]["lr"]
        if rate != last:
            assert rate == pytest.approx(last / 2)
            halved.append(epoch * length)
        last = rate
        optimizer.step()
        scheduler.step()
    assert halved == [2500, 4000, 4500, 4750]


def test_the_trunk_starts_from_the_file_named_as_front_end_weights(restorer_config, tmp_path):
    cfg = restorer_config()
    first = engine_of(cfg).model
    torch.save({"models": {"model": first.state_dict()}}, tmp_path / "first.pth.tar")
    cfg.sr.weights = "{root}/first.pth.tar"
    cfg.train.seed = 7
    cfg.data.root, root = str(tmp_path), cfg.data.root
    options = RestorerEngine.model_options(cfg)
    assert options == {"trunk_weights": str(tmp_path / "first.pth.tar")}
    cfg.data.root, cfg.sr.weights = root, options["trunk_weights"]
    second = engine_of(cfg).model
    assert torch.equal(second.trunk.first.weight, first.trunk.first.weight)
    assert not torch.equal(second.heads["x2"][0].weight, first.heads["x2"][0].weight)
