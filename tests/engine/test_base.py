import json
import math
import signal
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import python
from PIL import Image
from tiny_jobs import same

from torchreid_xres import checkpoint, host
from torchreid_xres.config import config_text
from torchreid_xres.engine.base import LAST, NotFiniteError
from torchreid_xres.jobs.job import own_runs, run_job


class StopHereError(Exception):
    pass


def trained(cfg, model="sr_reid"):
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    records = run.train()
    state = checkpoint.load(run.folder / LAST)
    assert 0 < state.pop("seconds") <= records[0]["train_seconds"] + 0.1
    assert 0 < state.pop("processor_seconds") <= records[0]["train_processor_seconds"] + 0.1
    return records, state


@pytest.mark.parametrize(
    "model, workers", [("sr_reid", 0), pytest.param("sr_reid", 2, marks=pytest.mark.slow), ("tiny_net", 0)]
)
@pytest.mark.parametrize("when", ["while training", "before the evaluation"])
def test_an_interrupted_run_ends_bit_for_bit_like_a_whole_one(tiny_config, tmp_path, monkeypatch, model, workers, when):
    changes = {"train__max_epoch": 3, "test__eval_freq": 1, "data__workers": workers, "model__name": model}
    whole_records, whole = trained(tiny_config(data__save_dir=str(tmp_path / "whole"), **changes), model)

    cfg = tiny_config(data__save_dir=str(tmp_path / "parts"), **changes)
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    engine = run.engine()

    def stop(self, *args, **kwargs):
        if self.epoch == 1:
            raise StopHereError
        return original(self, *args, **kwargs)

    hook = "forward_backward" if when == "while training" else "test"
    original = getattr(type(engine), hook)
    monkeypatch.setattr(type(engine), hook, stop)
    with pytest.raises(StopHereError):
        engine.run(**run._run_options())
    monkeypatch.setattr(type(engine), hook, original)
    torch.rand(7), np.random.rand(3)  # a new process would not have the same state either
    records, parts = trained(cfg, model)

    assert same(parts, whole)
    assert records[0]["cmc"] == whole_records[0]["cmc"] and records[0]["mAP"] == whole_records[0]["mAP"]


def test_a_kill_in_the_middle_of_an_epoch_leaves_the_last_good_state(tiny_config, tmp_path):
    cfg = tiny_config(train__max_epoch=4)
    (tmp_path / "cfg.yaml").write_text(config_text(cfg))
    script = """
        import os, signal, sys, tiny_jobs
        from torchreid_xres.config import load_config
        from torchreid_xres.engine import base
        from torchreid_xres.jobs.job import run_job
        write = base.checkpoint.save_atomic
        def torn(state, path):
            if state["epoch"] == 3:
                real = base.checkpoint.torch.save
                def half(state, file):
                    real(state, file); file.flush(); file.truncate(1000)
                    os.kill(os.getpid(), signal.SIGKILL)
                base.checkpoint.torch.save = half
            write(state, path)
        base.checkpoint.save_atomic = torn
        run_job(load_config(sys.argv[1]))
    """
    done = python("-c", textwrap.dedent(script), "cfg.yaml", cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    last = Path(cfg.data.save_dir) / "split0" / "sr_reid" / LAST
    assert checkpoint.load(last)["epoch"] == 2
    run_job(cfg)
    assert checkpoint.load(last)["epoch"] == 4


@pytest.mark.parametrize("model", ["sr_reid", "tiny_net"])
def test_a_loss_that_is_not_finite_stops_the_run_with_names(tiny_config, model):
    cfg = tiny_config(train__lr=1e30, train__optim="sgd", model__name=model)
    with pytest.raises(NotFiniteError, match=r"loss = (nan|inf).* in epoch \d, batch \d .*train\.lr"):
        run_job(cfg)


def test_our_engines_stop_before_a_bad_loss_reaches_the_weights(tiny_config, monkeypatch):
    cfg = tiny_config()
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    engine = run.engine()
    before = {k: v.clone() for k, v in engine.model.state_dict().items() if "running" not in k and "num_b" not in k}
    real = type(engine).losses
    monkeypatch.setattr(type(engine), "losses", lambda s, d: real(s, d) | {"loss": real(s, d)["loss"] * math.nan})
    with pytest.raises(NotFiniteError):
        engine.run(**run._run_options())
    assert same(before, {k: engine.model.state_dict()[k] for k in before})
    with pytest.raises(NotFiniteError, match=r"triplet = nan .*All 4 are of one identity, and a triplet needs two"):
        engine._check_finite({"triplet": math.nan}, {"impath": ["a.png"] * 4, "pid": torch.zeros(4)})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_moves_every_part_but_a_frozen_front_end(tiny_config, frozen):
    cfg = tiny_config(train__max_epoch=1, sr__frozen=frozen, sr__name="fsrcnn", sr__options={})
    engine = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()
    before = {k: v.detach().clone() for k, v in engine.model.named_parameters()}
    engine.run(save_dir=cfg.data.save_dir, max_epoch=1, ranks=[1])
    still = [k for k, v in engine.model.named_parameters() if torch.equal(v, before[k])]
    assert still == ([k for k in before if k.startswith("front_end.")] if frozen else [])


@pytest.mark.parametrize(("model", "pairs"), [("tiny_net", False), ("sr_reid", True)])
def test_clipping_bounds_the_step_of_every_engine(tiny_config, model, pairs):
    def length(**changes):
        cfg = tiny_config(
            model__name=model, data__pairs=pairs,
            train__optim="sgd", train__lr=1.0, train__weight_decay=0.0, sgd__momentum=0.0, **changes,
        )  # fmt: skip
        engine = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()
        before = [p.detach().clone() for p in engine.model.parameters()]
        engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, Path(cfg.data.save_dir)
        engine.set_model_mode("train")
        engine.forward_backward(next(iter(engine.train_loader)))
        moved = [p.detach() - b for p, b in zip(engine.model.parameters(), before, strict=True)]
        return math.sqrt(sum(float(m.pow(2).sum()) for m in moved))

    assert length() > 0.1
    assert length(train__clip_grad=0.01) == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_trains_and_evaluates(tiny_config):
    (record,) = run_job(tiny_config(train__precision="bf16"))
    assert 0 < record["mAP"] <= 100


def test_the_scale_of_fp16_outlives_a_stop(tiny_config):
    first, second = (own_runs(tiny_config(), 0, Path(tiny_config().data.save_dir))[0].engine() for _ in range(2))
    first.epoch = 0
    for engine, scale in ((first, 8.0), (second, 65536.0)):
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # what a GPU has
    first.scaler.scale(torch.ones(()))  # from now on it has a state
    second._restore(first._state())
    assert second.scaler.get_scale() == 8.0
    off = torch.amp.GradScaler("cpu", enabled=False).state_dict()
    assert second._restore(first._state() | {"scaler": off}) == 1  # a run at another precision


def test_fp16_is_refused_where_nothing_scales_the_loss(tiny_config):
    cfg = tiny_config()
    cfg.train.precision = "fp16"
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()


def test_the_record_says_what_was_evaluated_and_how(tiny_config):
    cfg = tiny_config(test__query_rates=[1.0, 4.0], test__metric="single_shot", test__draws=3)
    (record,) = run_job(cfg)
    folder = Path(cfg.data.save_dir) / "split0" / "sr_reid"
    assert record["dataset"] == "folder" and record["model"] == "sr_reid (vdsr)"
    assert record["protocol"]["protocol"] == "single_shot" and record["protocol"]["draws"] == 3
    assert (record["query_images"], record["gallery_images"], record["gallery_identities"]) == (18, 18, 6)
    assert record["manifest"] == json.loads((folder / "manifest_folder.json").read_text())["sha256"]
    assert len(record["cmc"]) == 50 and record["cmc"][0] == pytest.approx(record["rank1"], abs=1e-3)
    assert sum(part["queries"] for part in record["by_rate"].values()) == 18
    assert set(record["curve"]) == {"1", "4"}
    assert sum(part["queries"] for part in record["by_camera"].values()) == 18
    for part in (record, *record["by_rate"].values()):
        assert set(part["tpr"]) == {"fpr0.01", "fpr0.001"}
        assert 0 <= part["tpr"]["fpr0.001"] <= part["tpr"]["fpr0.01"] <= 100
        assert set(part["accept"]) == {"fpr0.01", "fpr0.001"}
        assert 0 <= part["accept"]["fpr0.01"] <= 2  # cosine distances
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"]
    written = json.loads((folder / "results" / "folder.json").read_text())
    assert written["weights_sha256"] == record["weights_sha256"]


def test_by_rate_figures_average_to_the_whole(tiny_config):
    (record,) = run_job(tiny_config(test__metric="market"))
    parts = record["by_rate"].values()
    assert len(parts) > 1
    mean = sum(p["queries"] * p["mAP"] for p in parts) / sum(p["queries"] for p in parts)
    assert mean == pytest.approx(record["mAP"], abs=1e-6)


def test_the_hosts_own_evaluation_gives_the_same_figures(tiny_config):
    """Our _evaluate against the host's, on the same features (features of a plain host model)."""
    cfg = tiny_config(model__name="tiny_net", data__pairs=False)
    engine = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()
    engine.set_model_mode("eval")
    loaders = engine.test_loader["folder"]
    ours = engine._evaluate("folder", loaders["query"], loaders["gallery"], save_dir=cfg.data.save_dir, ranks=[1])
    theirs = host.Engine._evaluate(engine, "folder", loaders["query"], loaders["gallery"], ranks=[1])
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_reranking_runs_in_evaluation(tiny_config):
    cfg = tiny_config()
    plain = run_job(cfg)[0]
    cfg.test.evaluate = True
    assert run_job(cfg)[0]["mAP"] == pytest.approx(plain["mAP"], abs=1e-4)
    cfg.test.rerank = True
    (record,) = run_job(cfg)
    assert record["protocol"]["rerank"] is True and 0 < record["mAP"] <= 100


def test_ranked_lists_are_drawn_of_what_was_seen_and_how_it_was_ranked(tiny_config, monkeypatch):
    cfg = tiny_config(train__max_epoch=1, data__options={"folder": {"synthetic": True, "lr_camera": "1"}})
    run_job(cfg)
    cfg.test.evaluate = cfg.test.rerank = cfg.test.visrank = True
    drawn = {}

    def draw(distances, dataset, data_type, **how):
        query, gallery = dataset
        sizes = {Image.open(path).size for path, *_ in query}
        names = {Path(path).stem for path, *_ in query}
        drawn.update(distances=distances, sizes=sizes, gallery=len(gallery), names=names)

    monkeypatch.setattr("torchreid_xres.engine.evaluation.host.visualize_ranked_results", draw)
    monkeypatch.setattr(
        "torchreid_xres.engine.evaluation.reranked_distances", lambda qf, gf, metric: np.full((len(qf), len(gf)), 7.0)
    )
    run_job(cfg)
    assert drawn["gallery"] == 18 and (drawn["distances"] == 7).all()  # not the features' own
    assert {"008_c1_0", "013_c1_2"} <= drawn["names"] and len(drawn["names"]) == 18
    assert drawn["sizes"] <= {(16, 32), (10, 21), (8, 16)} and len(drawn["sizes"]) > 1  # of 32x64, at the rates 2 to 4
