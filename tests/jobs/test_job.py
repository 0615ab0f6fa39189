import json
import time
from pathlib import Path

import pytest
import torch
from torchvision.transforms import RandomCrop

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.features.tables import accuracy_table
from torchreid_xres.jobs.fresh import ASIDE
from torchreid_xres.jobs.job import compared_runs, missed_figures, own_runs, run_job
from torchreid_xres.jobs.optimizers import build_scheduler
from torchreid_xres.jobs.run import Run
from torchreid_xres.models import build_model
from torchreid_xres.sr import build_front_end


def test_every_model_of_the_comparison_is_trained_once(tiny_config, monkeypatch):
    cfg = tiny_config(compare__models=["tiny_net"], train__max_epoch=1)
    trained = []
    real = Run.train
    monkeypatch.setattr(Run, "train", lambda self: trained.append(self.name) or real(self))
    first = run_job(cfg)
    assert [r["model"] for r in first] == ["tiny_net", "sr_reid (vdsr)"]
    assert run_job(cfg) == first
    assert trained == ["split0/tiny_net", "split0/sr_reid"]
    assert (Path(cfg.data.save_dir) / "config.yaml").exists()


def test_the_compared_model_sees_the_same_images_without_the_second_view(tiny_config):
    cfg = tiny_config(compare__models=["tiny_net"])
    stock = compared_runs(cfg, 0, Path(cfg.data.save_dir))[0].datamanager()
    ours = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].datamanager()
    assert "img_hr" not in stock.train_loader.dataset[0]
    assert "img_hr" in ours.train_loader.dataset[0]
    for role in ("query", "gallery"):
        a, b = (m.test_loader["folder"][role].dataset for m in (stock, ours))
        assert a.data == b.data and a.manifest.sha256 == b.manifest.sha256


def test_evaluation_alone_reads_the_runs_own_weights_or_given_ones(tiny_config, tmp_path):
    cfg = tiny_config(train__max_epoch=1)
    trained = run_job(cfg)[0]
    cfg.test.evaluate = True
    assert run_job(cfg)[0]["weights_sha256"] == trained["weights_sha256"]
    weights = Path(cfg.data.save_dir) / "split0" / "sr_reid" / "model" / "model.pth.tar-1"
    elsewhere = tiny_config(test__evaluate=True, model__load_weights=str(weights), data__save_dir=str(tmp_path / "e"))
    assert run_job(elsewhere)[0]["mAP"] == pytest.approx(trained["mAP"], abs=1e-6)


def test_with_no_epoch_what_was_loaded_is_evaluated_and_kept(tiny_config, tmp_path, monkeypatch):
    published = {
        "front_end": build_front_end("vdsr", depth=3, features=4, channels=3),
        "reid": build_model("tiny_net", num_classes=3, pretrained=False),
    }
    for name, network in published.items():
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    files = {"sr__weights": str(tmp_path / "front_end.pth"), "model__reid_weights": str(tmp_path / "reid.pth")}
    cfg = tiny_config(train__max_epoch=0, **files)
    monkeypatch.setattr(XresMixin, "train", lambda self, **_: pytest.fail("an epoch was trained"))
    (record,) = run_job(cfg)
    kept = checkpoint.load(Path(cfg.data.save_dir) / "split0" / "sr_reid" / LAST)["models"]["model"]
    for part, network in published.items():
        for name, weights in network.state_dict().items():
            assert "classifier" in name or torch.equal(kept[f"{part}.{name}"], weights)
    assert record["epoch"] == record["epochs"] == 0 and run_job(cfg) == [record]
    cfg.test.evaluate = True
    assert run_job(cfg)[0]["weights_sha256"] == record["weights_sha256"]
    monkeypatch.undo()
    assert run_job(tiny_config(train__max_epoch=1, **files))[0]["epoch"] == 1  # made longer


def test_evaluation_without_weights_says_what_is_needed(tiny_config):
    with pytest.raises(ConfigError, match=r"needs weights: name model\.load_weights"):
        run_job(tiny_config(test__evaluate=True))


def test_weights_of_another_model_are_refused_in_evaluation(tiny_config, tmp_path):
    run_job(tiny_config(train__max_epoch=1, model__name="tiny_net", data__pairs=False))
    weights = tmp_path / "run" / "split0" / "tiny_net" / LAST
    cfg = tiny_config(test__evaluate=True, model__load_weights=str(weights), data__save_dir=str(tmp_path / "e"))
    with pytest.raises(ValueError, match=r"does not fit SRReID"):
        run_job(cfg)


def test_another_configuration_does_not_go_on_from_a_runs_state(tiny_config):
    run_job(tiny_config(train__max_epoch=1))
    with pytest.raises(ValueError, match=r"holds another experiment \(it differs in train.lr\)"):
        run_job(tiny_config(train__max_epoch=1, train__lr=0.1))


def test_a_fresh_start_removes_the_old_runs_by_name_and_nothing_else(tiny_config, tmp_path):
    cfg = tiny_config(train__max_epoch=1)
    run_job(cfg)
    home = Path(cfg.data.save_dir)
    other = tiny_config(train__max_epoch=1, data__save_dir=str(home / "other"))
    run_job(other)
    mine = ["split0_backup/last.pth.tar", "split1-notes/a.txt", "split0/notes.txt", "split3/a/last.pth.tar", "a.log"]
    for name in mine:
        (home / name).parent.mkdir(exist_ok=True, parents=True)
        (home / name).write_text("years")
    (new,) = run_job(tiny_config(train__max_epoch=1, model__name="tiny_net", data__pairs=False), fresh=True)
    assert new["model"] == "tiny_net" and not (home / "split0" / "sr_reid").exists()
    assert all((home / name).read_text() == "years" for name in mine) and not (home / ASIDE).exists()
    assert list(json.loads((home / "stages.json").read_text())["done"]) == ["split0/tiny_net"]
    assert len(run_job(other)) == 1


def test_a_fresh_start_needs_a_jobs_folder(tiny_config):
    home = Path(tiny_config().data.save_dir)
    (home / "split0" / "sr_reid").mkdir(parents=True)
    (home / "split0" / "sr_reid" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="was not made by a run"):
        run_job(tiny_config(), fresh=True)
    assert (home / "split0" / "sr_reid" / "thesis.txt").exists()


@pytest.mark.parametrize(
    "mistake",
    [{"data__root": "/none"}, {"train__batch_size": 4096}, {"model__resume": "/none.pth.tar"}, {"sr__scale": 0.5}],
)
def test_a_fresh_start_that_fails_leaves_the_old_job_as_it_was(tiny_config, mistake):
    cfg = tiny_config(train__max_epoch=1)
    records = run_job(cfg)
    home = Path(cfg.data.save_dir)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    wrong = tiny_config(train__max_epoch=1, stages={"a": {}, "b": {}})
    key, value = next(iter(mistake.items()))
    part, name = key.split("__")
    wrong[part][name] = value
    with pytest.raises((ValueError, OSError, TypeError)):
        run_job(wrong, fresh=True)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert run_job(cfg) == records


def test_expected_figures_are_checked_against_the_mean_of_the_splits(tiny_config):
    cfg = tiny_config(test__expected={"folder": {"rank1": 50.0, "mAP": 40.0}})
    records = [
        {"dataset": "folder", "model": "sr_reid (vdsr)", "stage": "", "rank1": 40.0, "mAP": 50.0},
        {"dataset": "folder", "model": "sr_reid (vdsr)", "stage": "", "rank1": 55.0, "mAP": 50.0},
        {"dataset": "folder", "model": "tiny_net", "stage": "", "rank1": 90.0, "mAP": 90.0},
    ]
    assert missed_figures(cfg, records) == ["folder rank1: 47.50 %, expected at least 50.00 %"]
    records = [record | {"mAP": float("nan")} for record in records]
    assert missed_figures(cfg, records)[1].startswith("folder mAP: nan %")
    cfg = tiny_config(test__expected={"market": {"rank1": 1.0}})
    with pytest.raises(ConfigError, match="names 'market', which is not among"):
        missed_figures(cfg, records)


def test_splits_become_mean_and_deviation():
    base = {"dataset": "d", "model": "m", "parameters": 1_500_000, "train_seconds": 3, "by_rate": {}}
    records = [base | dict.fromkeys(("rank1", "rank5", "rank10", "mAP", "mINP"), x) for x in (50.0, 60.0)]
    table = accuracy_table(records)
    assert "55.0 ± 7.1" in table and "1.50" in table and table.count("\n") == 2


def test_several_splits_are_stages_of_one_job(tiny_config, monkeypatch):
    monkeypatch.setattr(Run, "train", lambda self: [{"split": self.split}])
    cfg = tiny_config(data__num_splits=3)
    assert [r["split"] for r in run_job(cfg)] == [0, 1, 2]
    done = json.loads((Path(cfg.data.save_dir) / "stages.json").read_text())["done"]
    assert list(done) == [f"split{i}/sr_reid" for i in range(3)]


@pytest.mark.parametrize("file", [LAST, "model/model.pth.tar-1"])
def test_a_longer_run_goes_on_from_another_runs_checkpoint(tiny_config, tmp_path, capsys, file):
    run_job(tiny_config(train__max_epoch=1, data__save_dir=str(tmp_path / "short")))
    resume = str(tmp_path / "short" / "split0" / "sr_reid" / file)
    long = {"data__save_dir": str(tmp_path / "long"), "model__resume": resume, "train__print_freq": 1}
    run_job(tiny_config(train__max_epoch=2, **long))
    shown = capsys.readouterr().out.split("=> Final test")[1]
    assert "epoch: [2/2]" in shown and "epoch: [1/2]" not in shown


def test_a_clock_set_back_between_two_starts_changes_nothing(tiny_config, tmp_path, monkeypatch):
    whole = run_job(tiny_config(data__save_dir=str(tmp_path / "whole")))
    cfg = tiny_config()
    real = XresMixin.train

    def stopped(self, *args, **kwargs):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(XresMixin, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_job(cfg)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    (record,) = run_job(cfg)
    assert record["weights_sha256"] == whole[0]["weights_sha256"] and record["cmc"] == whole[0]["cmc"]
    assert record["train_seconds"] > 0


STAGES = {"first": {"model": {"name": "tiny_net"}, "data": {"pairs": False}}, "second": {}}


def test_stages_run_in_order_each_in_its_folder_and_once(tiny_config):
    cfg = tiny_config(train__max_epoch=1, stages=STAGES, compare__models=["tiny_net"])
    records = run_job(cfg)
    assert [(r["model"], r["stage"]) for r in records] == [
        ("tiny_net", ""), ("tiny_net [first]", "first"), ("sr_reid [second]", "second"),
    ]  # fmt: skip
    for stage in STAGES:
        assert (Path(cfg.data.save_dir) / "split0" / "sr_reid" / stage / LAST).is_file()
    assert run_job(cfg) == records
    cfg.test.evaluate = True
    assert [r["weights_sha256"] for r in run_job(cfg)] == [records[-1]["weights_sha256"]]


def test_a_stage_starts_from_an_earlier_ones_folder(tiny_config):
    second = {"model": {"load_weights": "{first}/" + LAST}, "train": {"lr": 1e-12}}
    cfg = tiny_config(train__max_epoch=1, stages={"first": {}, "second": second})
    run_job(cfg)
    home = Path(cfg.data.save_dir) / "split0" / "sr_reid"
    weights = [checkpoint.load(home / stage / LAST)["models"]["model"] for stage in STAGES]
    for name, tensor in weights[0].items():
        if name.endswith("weight"):
            torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=0)


def test_a_job_takes_an_equal_stage_from_the_shared_folder(tiny_config, tmp_path, monkeypatch):
    trained = []
    real = Run.train
    monkeypatch.setattr(Run, "train", lambda self: trained.append(self.stage) or real(self))
    records = []
    for name, rate in (("a", 1e-3), ("b", 1e-4)):
        stages = {"first": {}, "second": {"model": {"load_weights": "{first}/" + LAST}, "train": {"lr": rate}}}
        cfg = tiny_config(train__max_epoch=1, stages=stages, data__save_dir=str(tmp_path / name))
        records.append(run_job(cfg, shared=tmp_path / "shared"))
    assert trained == ["first", "second", "second"]
    assert records[0][0] == records[1][0] and records[0][1]["config_sha256"] != records[1][1]["config_sha256"]


def test_a_stage_that_uses_another_depends_on_its_configuration(tiny_config):
    def hashes(rate):
        second = {"model": {"load_weights": "{first}/" + LAST}}
        cfg = tiny_config(stages={"first": {"train": {"lr": rate}}, "second": second})
        return [run.sha256 for run in own_runs(cfg, 0, Path("run"))]

    a, b = hashes(1e-3), hashes(1e-4)
    assert a[0] != b[0] and a[1] != b[1] and hashes(1e-3) == a


def test_a_wrong_stage_is_refused_before_anything_runs(tiny_config):
    with pytest.raises(ConfigError, match=r"unknown key 'stages\.first\.train\.lrr'|unknown key 'train\.lrr'"):
        tiny_config(stages={"first": {"train": {"lrr": 1}}})
    with pytest.raises(ConfigError, match=r"stages\.first uses \{later\}, which is no earlier stage; there are: none"):
        tiny_config(stages={"first": {"model": {"load_weights": "{later}/x"}}, "later": {}})
    with pytest.raises(ConfigError, match=r"train\.precision is 'fp8'"):
        tiny_config(stages={"first": {"train": {"precision": "fp8"}}})


@pytest.mark.parametrize(
    ("shape", "rates"),
    [("constant", [0.1, 0.1, 1.0, 1.0, 0.01]), ("linear", [0.1, 0.55, 1.0, 1.0, 0.01])],
)
def test_a_warm_up_comes_before_the_schedule(tiny_config, shape, rates):
    cfg = tiny_config(
        train__lr=1.0, train__warmup_epochs=2, train__warmup_shape=shape, train__stepsize=[4], train__gamma=0.01
    )
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = build_scheduler(cfg, optimizer)
    seen = []
    for _ in rates:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx(rates)


def test_the_mirrored_image_changes_the_descriptor_and_nothing_else(tiny_config, tmp_path):
    plain, mirrored = (
        own_runs(tiny_config(test__flip=flip), 0, tmp_path)[0].engine() for flip in (False, True)
    )
    mirrored.model.load_state_dict(plain.model.state_dict())
    loader = plain.test_loader["folder"]["query"]
    for engine in (plain, mirrored):
        engine.model.eval()
    with torch.no_grad():
        alone, facts = plain._features(loader, False)
        both, facts_flip = mirrored._features(loader, False)
        batch = next(iter(loader))
        expected = plain.extract(batch) + plain.extract({**batch, "img": batch["img"].flip(-1)})
    assert not torch.allclose(alone, both)
    torch.testing.assert_close(both[: len(expected)], expected, atol=1e-4, rtol=1e-4)
    assert all((facts[key] == facts_flip[key]).all() for key in facts)


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({}, "reflect"), ({"data__padding": "official"}, "constant"), ({"data__pairs": False}, "constant"),
        ({"data__pairs": False, "data__padding": "reflect"}, "reflect"),
    ],
)  # fmt: skip
def test_the_border_of_pairs_is_mirrored_and_that_of_single_images_black(tiny_config, changes, mode):
    cfg = tiny_config(data__transforms=["pad_crop"], compare__models=["tiny_net"], **changes)
    for runs, expected in ((own_runs, mode), (compared_runs, "constant" if cfg.data.pairs else mode)):
        (run,) = runs(cfg, 0, Path(cfg.data.save_dir))
        (crop,) = (step for step in run.datamanager().transform_tr.transforms if isinstance(step, RandomCrop))
        assert crop.padding_mode == expected
