"""DGRL's stages: the restorer learns, low views are restored once, and the losses are equations 5 to 13."""

import json
import math
import shutil
from pathlib import Path

import pytest
import tiny_net
import torch
from PIL import Image
from tiny_jobs import ready_engine
from torch.nn import functional as F
from torchvision.transforms.functional import to_tensor

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError
from torchreid_xres.data.degrade import degrade_image, degrade_tensor
from torchreid_xres.data.protocol import draw_rate
from torchreid_xres.data.restored import picture_name
from torchreid_xres.engine.base import LAST, XresEngine
from torchreid_xres.engine.dgrl import DGRLEngine
from torchreid_xres.image import resize
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.models.weights import load_weights

SR = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
STAGES = {
    "restorer": {
        "model": {"name": "dgrl_restorer", "options": None},
        "sampler": {"train_sampler": "RandomSampler"},
        "data": {"height": 24, "width": 12},
        "train": {"lr": 0.01},
    },
    "restore": {
        "task": "restore_pairs",
        "model": {"name": "dgrl_restorer", "options": None, "load_weights": "{restorer}/" + LAST},
    },
    "joint": {"sr": {"weights": "{restorer}/" + LAST}, "loss": {"dgrl": {"restored": "{restore}"}}},
}
CHANGES = {
    "model__name": "dgrl",
    "model__reid": tiny_net.STAGED,  # which it takes apart
    "model__options": {"dim": 16, "groups": 3, "hidden": 8},
    "stages": STAGES,
    "data__transforms": ["random_flip", "pad_crop", "random_erase"],
    "data__pad": 2,
    "sr__name": "rcan",
    "sr__options": SR,
    "sampler__train_sampler": "IdentitySampler",
    "sampler__num_instances": 3,
    "train__batch_size": 12,
    "train__max_epoch": 1,
}


@pytest.fixture
def config(tiny_config):
    """Return a function: changes to a configuration of all stages."""
    return lambda **changes: tiny_config(**{**CHANGES, **changes})


@pytest.fixture
def engine_of(config):
    """Return a function: changes to the joint stage's engine alone, ready for a step; views are restored on the fly."""

    def make(**changes):
        cfg = config(**{"stages": {}, **changes})
        run = own_runs(cfg, 0, Path(cfg.data.save_dir))[-1]
        engine = ready_engine(run)
        return engine

    return make


# -- losses --------------------------------------------------------------------------------------------------------


def slow_terms(output, data, smoothing=0.1):
    """Equations 5 to 12 with plain loops; the sums over images as means."""
    pids = 2 * data["pid"].tolist()
    count = len(pids)
    f_h, f_s = (view.shallow.flatten().tolist() for view in output)
    differences = [abs(a - b) for a, b in zip(f_h, f_s, strict=True)]
    l1 = sum(0.5 * d * d if d < 1 else d - 0.5 for d in differences) / len(differences)  # eq. 5
    ids, wrts, probabilities = [], [], []
    for branch in range(len(output.hr.logits)):
        logits = output.hr.logits[branch].tolist() + output.sr.logits[branch].tolist()
        features = torch.cat((output.hr.features[branch], output.sr.features[branch])).detach()
        p = [[math.exp(s) / sum(map(math.exp, row)) for s in row] for row in logits]  # eq. 10
        probabilities.append(p)
        classes, total = len(p[0]), 0.0
        for row, pid in zip(p, pids, strict=True):  # eq. 6
            for n in range(classes):
                q = 1 - (classes - 1) / classes * smoothing if n == pid else smoothing / classes
                total -= q * math.log(row[n])
        ids.append(total / count)
        total = 0.0
        for a in range(count):  # eq. 8
            d = [float((features[a] - features[b]).norm()) for b in range(count)]
            near = [d[b] for b in range(count) if pids[b] == pids[a]]
            far = [d[b] for b in range(count) if pids[b] != pids[a]]
            hard = sum(x * math.exp(x) for x in near) / sum(math.exp(x) for x in near)
            easy = sum(x * math.exp(-x) for x in far) / sum(math.exp(-x) for x in far)
            total += math.log(1 + math.exp(hard - easy))
        wrts.append(total / count)
    kl = 0.0
    for i, p_i in enumerate(probabilities):  # eq. 11 and 12
        for j, p_j in enumerate(probabilities):
            if i != j:
                for a, b in zip(p_i, p_j, strict=True):
                    kl += sum(y * math.log(y / x) for x, y in zip(a, b, strict=True)) / count
    return {
        "l1": l1,
        "id": ids[0] + 0.5 * sum(ids[1:]),  # eq. 7
        "wrt": wrts[0] + 0.5 * sum(wrts[1:]),  # eq. 9
        "kl": kl,
    }


def test_the_total_is_equations_5_to_13(engine_of):
    engine = engine_of()
    engine.set_model_mode("train")
    data = next(iter(engine.train_loader))
    seen = []
    engine.model.register_forward_hook(lambda _, args, output: seen.append((args, output)))
    losses = {name: value.item() for name, value in engine.losses(data).items()}
    (hr, sr), output = seen[0]
    torch.testing.assert_close(hr, data["img_hr"])
    sizes = [  # of the low views: what the camera saw, or the original divided by the drawn rate
        size if low else [int(side // rate) for side in size]
        for size, low, rate in zip(data["size"].tolist(), data["low"].tolist(), data["rate_lr"].tolist(), strict=True)
    ]
    low = data["low"].tolist()
    torch.testing.assert_close(sr, engine.model.restore(data["img_lr"], data["rate_lr"].tolist(), sizes, low))
    assert not torch.allclose(sr, data["img_lr"])
    expected = slow_terms(output, data)
    expected["loss"] = 5 * expected["l1"] + expected["id"] + expected["wrt"] + expected["kl"]  # eq. 13
    assert {name: losses[name] for name in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["l1", "id", "wrt", "kl"])
def test_each_loss_can_be_switched_off(engine_of, name):
    engine = engine_of(**{f"loss__dgrl__{name}": 0.0})
    engine.set_model_mode("train")
    losses = engine.losses(next(iter(engine.train_loader)))
    assert set(losses) == {"loss", "acc", "l1", "id", "wrt", "kl"} - {name}
    weighed = {"l1": 5.0, "id": 1.0, "wrt": 1.0, "kl": 1.0}
    total = sum(weighed[key] * value for key, value in losses.items() if key in weighed)
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-5)


def test_without_any_loss_or_pairs_it_is_said(engine_of):
    with pytest.raises(ConfigError, match=r"loss\.dgrl\.l1, id, wrt and kl"):
        engine_of(**{f"loss__dgrl__{name}": 0.0 for name in ("l1", "id", "wrt", "kl")})
    with pytest.raises(ValueError, match=r"set data\.pairs True"):
        engine_of(data__pairs=False)


def test_without_sides_there_is_one_branch_and_no_mutual_loss(engine_of):
    engine = engine_of(**{"model__options": {**CHANGES["model__options"], "sides": False}})
    engine.set_model_mode("train")
    data, seen = next(iter(engine.train_loader)), []
    engine.model.register_forward_hook(lambda _, args, output: seen.append(output))
    losses = engine.losses(data)
    assert "kl" not in losses
    expected = slow_terms(seen[0], data)
    assert losses["id"].item() == pytest.approx(expected["id"], rel=1e-4)
    assert losses["wrt"].item() == pytest.approx(expected["wrt"], rel=1e-4)


def test_a_step_moves_everything_but_the_restorer(engine_of):
    engine = engine_of(train__lr=0.01)
    engine.set_model_mode("train")
    before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    for _ in range(2):  # what lies behind a layer that starts at zero moves in the second
        engine.forward_backward(next(iter(engine.train_loader)))
    still = {name for name, p in engine.model.named_parameters() if torch.equal(p, before[name])}
    fixed = {name for name, p in engine.model.named_parameters() if not p.requires_grad}
    assert {name.partition(".")[0] for name in fixed} == {"restorer", "heads"} and len(fixed) > 20
    assert still == fixed


def test_an_image_that_is_low_by_nature_goes_through_the_sr_stem_alone(engine_of):
    engine = engine_of(data__options__folder={"synthetic": False, "lr_camera": "1"})
    engine.set_model_mode("train")
    data, seen = next(iter(engine.train_loader)), []
    engine.model.register_forward_hook(lambda _, args, output: seen.append((args, output)))
    low = data["low"]
    assert low.any() and not low.all() and (data["rate_lr"][low] == 1).all()
    losses = engine.losses(data)
    (hr, sr), output = seen[0]
    torch.testing.assert_close(hr, data["img_hr"][~low])
    assert len(sr) == len(data["pid"])
    l1 = F.smooth_l1_loss(output.sr.shallow[~low], output.hr.shallow)
    assert losses["l1"].item() == pytest.approx(l1.item(), rel=1e-5)
    only = {key: value[low] if torch.is_tensor(value) else value for key, value in data.items()}
    found = engine.losses(only)
    assert "l1" not in found and found["loss"].isfinite()


# -- the first two stages ------------------------------------------------------------------------------------------


def restorer_engine(config, tmp_path, **changes):
    return own_runs(config(**changes), 0, tmp_path)[0].engine()


def test_the_restorer_learns_from_pieces_at_full_resolution(config, tmp_path):
    engine = restorer_engine(config, tmp_path)
    assert len(engine.train_loader.dataset) == 48 and engine.run_facts["train_images"] == 48
    batch = next(iter(engine.train_loader))
    assert batch["img"].shape == (12, 3, 24, 12)
    img, path = batch["img"][0], batch["impath"][0]
    whole = to_tensor(Image.open(path))
    spots = [(i, j) for i in range(64 - 24 + 1) for j in range(32 - 12 + 1)]
    views = [whole[:, i : i + 24, j : j + 12] for i, j in spots]
    assert any(torch.equal(img, v) or torch.equal(img, v.flip(-1)) for v in views)


def test_what_is_low_by_nature_teaches_nothing(config, tmp_path):
    engine = restorer_engine(config, tmp_path, data__options__folder={"synthetic": False, "lr_camera": "1"})
    assert len(engine.train_loader.dataset) == 24
    assert not any("_c1_" in path for _, path in engine.train_loader.dataset.images)


def test_the_restorers_loss_is_the_mean_over_all_rates(config, tmp_path):
    engine = restorer_engine(config, tmp_path)
    hr = torch.rand(6, 3, 24, 12)
    torch.manual_seed(3)
    loss = engine.losses({"img": hr})["loss"].item()
    torch.manual_seed(3)
    drawn, total = [(2, 3, 4)[i] for i in torch.randint(3, (6,)).tolist()], 0.0
    assert len(set(drawn)) > 1
    for image, rate in zip(hr, drawn, strict=True):
        low = image.unfold(1, rate, rate).unfold(2, rate, rate).mean((-1, -2))  # pixel area
        with torch.no_grad():
            total += float((engine.model.train().nets[f"x{rate}"](low[None])[0] - image).abs().sum())
    assert loss == pytest.approx(total / hr.numel(), rel=1e-4)


def test_pieces_that_cannot_be_down_sampled_are_refused(config, tmp_path):
    stages = {**STAGES, "restorer": {**STAGES["restorer"], "data": {"height": 20, "width": 12}}}
    with pytest.raises(ValueError, match=r"pieces of 20x12 pixels .* at each of the rates 2, 3, 4"):
        restorer_engine(config, tmp_path, stages=stages)


def test_the_restorer_learns_sharp_edges(config, tmp_path):
    engine = restorer_engine(config, tmp_path, sr__options={**SR, "features": 8, "reduction": 4})
    engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, tmp_path
    engine.set_model_mode("train")

    def blocks():
        return torch.rand(8, 3, 4, 2).round().repeat_interleave(6, dim=2).repeat_interleave(6, dim=3)

    for _ in range(120):
        engine.forward_backward({"img": blocks(), "impath": ["drawn"]})
    engine.set_model_mode("eval")
    truth = blocks()
    low = degrade_tensor(truth, (6, 3))
    with torch.no_grad():
        made = engine.model(low, 4)
    assert psnr(made, truth).mean() > psnr(resize(low, (24, 12)).clamp(0, 1), truth).mean() + 0.5


def test_the_restorers_record_stands_beside_bicubic(config, tmp_path):
    run = own_runs(config(), 0, tmp_path)[0]
    record = run.train()[0]
    assert record["images"] == 18 and record["model"] == "dgrl_restorer [restorer]"
    assert json.loads((run.folder / "results" / "folder.json").read_text())["psnr_x2"] == record["psnr_x2"]
    net = run.engine().model
    load_weights(net, run.folder / LAST, strict=True)
    paths = [path for path, *_ in run.datamanager().test_loader["folder"]["gallery"].dataset.gallery]
    truth = torch.stack([to_tensor(Image.open(path))[:, 20:44, 10:22] for path in paths])  # the middle
    for rate in (2, 3, 4):
        low = degrade_tensor(truth, (24 // rate, 12 // rate))
        with torch.no_grad():
            made = net.eval()(low, rate)
        for key, image in ((f"x{rate}", made), (f"bicubic_x{rate}", resize(low, (24, 12)).clamp(0, 1))):
            assert record[f"psnr_{key}"] == pytest.approx(psnr(image, truth).mean().item(), abs=1e-3)
            assert record[f"ssim_{key}"] == pytest.approx(ssim(image, truth).mean().item(), abs=1e-4)


def restored_by(config, tmp_path, **changes):
    """Return the run of the second stage beside an untrained restorer, done."""
    first, second, _ = own_runs(config(**changes), 0, tmp_path)
    model = first.engine().model
    for p in model.parameters():  # far from the bicubic image
        torch.nn.init.normal_(p, std=0.1)
    checkpoint.save_atomic({"models": {"model": model.state_dict()}}, first.folder / LAST)
    return second, model.eval()


def test_each_training_image_is_restored_at_its_rate(config, tmp_path):
    run, model = restored_by(config, tmp_path)
    record = run.work()[0]
    assert (record["images"], record["restored"]) == (48, 48)
    dataset = run.datamanager().train_loader.dataset
    rates = set()
    for path, *_ in dataset.train:
        name, low = picture_name(dataset, path), "_c1_" in path
        rate = dataset.rate_of[path] if low else draw_rate(name, 0, (2, 3, 4))
        rates.add((low, rate))
        seen = to_tensor(degrade_image(Image.open(path), rate))[None]
        with torch.no_grad():
            expected = seen if rate == 2 else model(seen, rate, size=(32, 16))  # at 2 it is as large as wanted
        made = to_tensor(Image.open(run.folder / name))[None]
        assert (made - expected).abs().max() <= 0.5 / 255 + 1e-4
        plain = resize(seen, (32, 16)).clamp(0, 1)
        assert ((made - plain).abs().max() > 2 / 255) == (rate > 2)  # it was restored
    assert len(rates) == 6


def test_what_is_low_by_nature_is_restored_by_how_narrow_it_is(config, tmp_path):
    stages = {**STAGES, "restore": {**STAGES["restore"], "data": {"height": 160, "width": 80}}}
    run, model = restored_by(
        config, tmp_path, stages=stages, data__options__folder={"synthetic": False, "lr_camera": "1"}
    )
    run.work()
    dataset = run.datamanager().train_loader.dataset
    path = next(path for path, *_ in dataset.train if "_c1_" in path)
    with torch.no_grad():  # 80 / 32 = 2.5, by ratio nearer to 3
        expected = model(to_tensor(Image.open(path))[None], 3, size=(160, 80))
    assert (to_tensor(Image.open(run.folder / picture_name(dataset, path)))[None] - expected).abs().max() < 0.51 / 255


def test_restoring_goes_on_where_it_stopped_and_begins_anew_where_something_changed(config, tmp_path):
    run, _ = restored_by(config, tmp_path)
    run.work()
    pictures = sorted(run.folder.glob("folder/**/*.png"))
    assert len(pictures) == 48
    before = {p: p.read_bytes() for p in pictures}
    for p in pictures[:5]:
        p.unlink()
    pictures[7].write_bytes(b"kept as it is")
    assert run.work()[0]["restored"] == 48  # by all calls
    assert all(p.read_bytes() == before[p] for p in pictures[:5]) and pictures[7].read_bytes() == b"kept as it is"
    restored_by(config, tmp_path, train__seed=3)
    assert run.work()[0]["restored"] == 48
    assert pictures[7].read_bytes() != b"kept as it is"
    assert any(p.read_bytes() != before[p] for p in pictures)


def test_restoring_needs_a_trained_restorer(config, tmp_path):
    cfg = config(stages={}, task="restore_pairs")
    with pytest.raises(ConfigError, match=r"needs model\.name dgrl_restorer and its weights"):
        own_runs(cfg, 0, tmp_path)[0].work()


# -- all of it -----------------------------------------------------------------------------------------------------


def test_the_stages_follow_each_other_and_training_reads_the_pictures(config, monkeypatch):
    restored = []
    real = DGRLEngine._restored
    monkeypatch.setattr(DGRLEngine, "_restored", lambda self, data: restored.append(1) or real(self, data))
    cfg = config(test__query_rates=[2.0, 4.0])
    records = run_job(cfg)
    assert [r["stage"] for r in records] == ["restorer", "restore", "joint"]
    assert restored == []
    last = records[-1]
    assert last["model"] == "dgrl [joint]" and last["feature_dim"] == 16 and set(last["curve"]) == {"2", "4"}
    # The last stage holds the restorer that the first one trained.
    runs = own_runs(cfg, 0, Path(cfg.data.save_dir))
    trained, whole = (checkpoint.load(runs[i].folder / LAST)["models"]["model"] for i in (0, 2))
    assert all(torch.equal(value, whole[f"restorer.{name}"]) for name, value in trained.items())
    # So it is all that an evaluation needs.
    for run in runs[:2]:
        shutil.rmtree(run.folder)
    cfg.test.evaluate = True
    again = run_job(cfg)[0]
    assert (again["rank1"], again["mAP"], again["curve"]) == (last["rank1"], last["mAP"], last["curve"])


@pytest.mark.slow
def test_a_stopped_run_ends_like_a_whole_one(config, tmp_path, monkeypatch):
    whole = run_job(config(train__max_epoch=2, data__save_dir=str(tmp_path / "whole")))
    real = XresEngine.forward_backward

    def stop(self, data):
        if isinstance(self, DGRLEngine) and self.epoch == 1:
            raise KeyboardInterrupt
        return real(self, data)

    cfg = config(train__max_epoch=2, data__save_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(XresEngine, "forward_backward", stop)
        run_job(cfg)
    resumed = run_job(cfg)
    assert resumed[-1]["weights_sha256"] == whole[-1]["weights_sha256"]
