"""VPFA as a job: learned after training on training images alone, once, in a folder of its own."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.config import ConfigError, config_hash
from torchreid_xres.engine.base import LAST
from torchreid_xres.features.features import FeatureSet, evaluate_features
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.run import Run
from torchreid_xres.jobs.tasks import panning, vpfa
from torchreid_xres.jobs.tasks.pair_features import (
    Rates,
    camera_gap,
    identity_means,
    resolution_direction,
    views_by_rate,
)
from torchreid_xres.jobs.tasks.panning import Settings, fit, load_panning, moved, rows_of, save_panning, searched
from torchreid_xres.metrics import rank_features
from torchreid_xres.models.vpfa import PANNINGS, PerRate

SMALL = {"hidden": 8, "epochs": 2, "batch_size": 8}
PLAIN = {"model__name": "tiny_net", "data__pairs": False, "train__max_epoch": 1}
RANKED = {"protocol": "market", "draws": 10, "seed": 0, "distance": "cosine", "normalize": False, "rerank": False}
ALL = ["tiny_net + mean direction", "tiny_net + VPFA by log rate", "tiny_net + VPFA"]


def pairs_of(identities=8, images=4, rates=(2.0, 4.0), noise=0.05, features=6, step=1.0):
    """Features of identities in which resolution is one direction, twice as far at rate 4 as at 2."""
    pid = np.repeat(np.arange(identities), images)
    high = F.one_hot(torch.as_tensor(pid) % features, features) + noise * torch.randn(len(pid), features)
    direction = torch.linspace(-0.5, 0.5, features)
    views = [high, *(high - step * np.log2(rate) * direction / 2 for rate in rates)]
    rate = np.tile([1.0, *rates], len(pid))
    rows = len(rate)
    return FeatureSet(
        features=torch.stack(views, dim=1).flatten(0, 1),
        pid=pid.repeat(1 + len(rates)),
        camid=np.tile(np.arange(images), identities).repeat(1 + len(rates)),
        rate=rate,
        low=rate > 1,
        size=np.full((rows, 2), 64),
        names=[f"{i // (1 + len(rates))}.png" for i in range(rows)],
        role="train",
        dataset="d",
        model="m",
        weights_sha256="w",
    )


def both_sides_low(pairs):
    """Half of each camera's images as queries, half as the gallery, of which every second one is low on each side."""
    image = np.arange(len(pairs)) // 3
    view = np.arange(len(pairs)) % 3  # as captured, at rate 2, at rate 4
    chosen = view == np.where(image % 2, 1 + image // 2 % 2, 0)
    second = image // 2 % 2 == 1
    return [replace(rows_of(pairs, chosen & (second == of_gallery)), role=role)
            for role, of_gallery in (("query", False), ("gallery", True))]  # fmt: skip


# -- learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PANNINGS))
def test_a_module_learns_the_way_back_to_high_resolution(name):
    pairs = pairs_of()
    module = fit(name, pairs, Settings(hidden=32, epochs=60, lr=3e-3, stepsize=20), seed=1)
    high, low = views_by_rate(pairs)
    same, after = views_by_rate(moved(module, pairs, Rates()))
    assert torch.equal(same, high)
    for rate, x in low.items():
        assert F.mse_loss(after[rate], high) < 0.1 * F.mse_loss(x, high)


def test_a_fit_is_repeatable_and_leaves_the_random_numbers_alone():
    pairs = pairs_of()
    state = torch.get_rng_state()
    one, two, other = (fit("conditioned", pairs, Settings(**SMALL), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.block.offset[0].weight, two.block.offset[0].weight)
    assert not torch.equal(one.block.offset[0].weight, other.block.offset[0].weight)


@pytest.mark.parametrize("kind", ["sample", "prototype"])
def test_a_target_is_the_same_image_or_the_prototype_of_its_identity(monkeypatch, kind):
    pairs = pairs_of(noise=0.3)
    high, low = views_by_rate(pairs)
    pid = torch.as_tensor(pairs.pid[pairs.rate == 1])
    target = torch.stack([high[pid == p].mean(dim=0) for p in pid]) if kind == "prototype" else high
    given = []
    monkeypatch.setattr(PerRate, "learn", lambda self, x, rate, target, train: given.extend((x, rate, target)))
    fit("perceptron", pairs, Settings(target=kind, hidden=4))
    assert torch.equal(given[0], torch.cat([high, *low.values()]))
    assert given[1].tolist() == [1.0] * 32 + [2.0] * 32 + [4.0] * 32
    assert torch.allclose(given[2], torch.cat([high, target, target]), atol=1e-6)  # what is not low stays


def test_settings_are_chosen_on_identities_that_the_fit_has_not_seen(monkeypatch):
    pairs = pairs_of(identities=12)
    fitted = []

    def spy(name, pairs, settings, **kwargs):
        fitted.append((set(pairs.pid.tolist()), settings.epochs))
        return fit(name, pairs, settings, **kwargs)

    monkeypatch.setattr(panning, "fit", spy)
    chosen, told = searched("conditioned", pairs, Settings(**SMALL, lr=3e-3), {"epochs": [1, 40]}, seed=0)
    assert [epochs for _, epochs in fitted] == [1, 40]
    assert all(len(pids) == 9 for pids, _ in fitted) and told["held_out"] == 3
    assert told["on"] == "training"
    figures = [one["mAP"] for one in told["tried"]]
    assert chosen.epochs == (1, 40)[int(np.argmax(figures))]
    with pytest.raises(ConfigError, match=r"vpfa\.search names \['rates'\]; allowed: target, hidden"):
        searched("mean", pairs, Settings(), {"rates": [[2]]})


def test_settings_are_chosen_on_the_validation_part_where_there_is_one(monkeypatch):
    pairs, other = pairs_of(identities=6), pairs_of(identities=4)
    apart = [replace(rows_of(other, other.low if role == "query" else ~other.low), role=role, part="validation",
                     pid=other.pid[other.low if role == "query" else ~other.low] + 100)
             for role in ("query", "gallery")]  # fmt: skip
    fitted = []

    def spy(name, pairs, settings, **kwargs):
        fitted.append(set(pairs.pid.tolist()))
        return fit(name, pairs, settings, **kwargs)

    monkeypatch.setattr(panning, "fit", spy)
    _, told = searched("conditioned", pairs, Settings(**SMALL), {"lr": [1e-3, 1e-2]}, apart=apart)
    assert fitted == [set(range(6))] * 2  # of all training identities, none of which is judged on
    assert told["on"] == "validation" and told["held_out"] == 4


def test_a_search_on_the_validation_part_moves_its_low_gallery_too():
    query, gallery = both_sides_low(other := pairs_of(identities=10, noise=0.15, features=12, step=3))
    pairs = replace(other, pid=other.pid + 100)
    apart = [replace(query, part="validation"), replace(gallery, part="validation")]
    _, told = searched("mean", pairs, Settings(), {"epochs": [1]}, apart=apart)
    _, by_size = searched("mean", pairs, Settings(), {"epochs": [1]}, apart=apart, rates=Rates(64, {"d"}))
    assert told["before"] < 85 and told["tried"][0]["mAP"] > 98
    assert by_size["tried"][0]["mAP"] == by_size["before"]  # of full size, so there is nothing to move


def test_a_search_after_a_training_with_a_validation_part_says_so(tiny_config):
    own = {"enabled": True, "modules": ["conditioned"], "rates": [2.0], "search": {"lr": [1e-3, 1e-2]}, **SMALL}
    records = run_job(tiny_config(**PLAIN, vpfa=own, data__validation=0.25))
    assert records[-1]["chosen"] == [{"what": "vpfa: lr", "on": "validation"}]
    assert records[-1]["search"]["held_out"] == 2 and records[-1]["mAP"] != records[-1]["search"]["before"]


@pytest.mark.parametrize(
    ("wrong", "message"), [({"target": "mean"}, r"vpfa\.target is 'mean'"), ({"epochs": 0}, r"vpfa\.epochs is a whole")]
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**wrong)


# -- the finding ---------------------------------------------------------------------------------------------


def test_the_common_direction_is_pearsons_of_identity_means():
    pairs = pairs_of(noise=0.4)
    pairs.features[pairs.low] += 0.3 * torch.randn(int(pairs.low.sum()), 6)
    found = resolution_direction(pairs)
    high, low = views_by_rate(pairs)
    pid = pairs.pid[pairs.rate == 1]
    for rate, x in low.items():
        means = np.stack([(high - x)[torch.as_tensor(pid == p)].mean(0).numpy() for p in np.unique(pid)])
        r = np.array([np.corrcoef(row, means.mean(0))[0, 1] for row in means])
        assert found[f"{rate:g}"]["share"] == pytest.approx(100 * (r > 0.4).mean())
        assert found[f"{rate:g}"]["pearson"] == pytest.approx(r.mean(), abs=1e-5)
    assert identity_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1])).tolist() == [[2.0], [5.0]]


def test_the_gap_is_between_the_cameras_of_each_identity():
    pairs = pairs_of(noise=0.4)
    pairs.features[pairs.low] += 0.3 * torch.randn(int(pairs.low.sum()), 6)
    pairs.pid[pairs.camid != 1] += 100 * (pairs.pid[pairs.camid != 1] == 3)  # 3: the low camera alone; 103: without it
    found = camera_gap(pairs, {1})
    x, high = pairs.features.numpy(), pairs.rate == 1
    gaps = []
    for p in set(range(8)) - {3}:
        own = pairs.pid == p
        blurred = x[own & ~high & (pairs.camid == 1)].mean(0)
        gaps.append(x[own & high & (pairs.camid != 1)].mean(0) - blurred)
    gap, offset = np.mean(gaps, axis=0), x[high].mean(0) - x[~high].mean(0)
    length = np.linalg.norm(x[high], axis=1).mean()
    assert found["gap"] == pytest.approx(np.linalg.norm(gap) / length, rel=1e-5)
    assert found["offset"] == pytest.approx(np.linalg.norm(offset) / length, rel=1e-5)
    cosine = gap @ offset / np.linalg.norm(gap) / np.linalg.norm(offset)
    assert found["cosine"] == pytest.approx(cosine, abs=1e-5)
    assert camera_gap(pairs, {0, 1, 2, 3}) == camera_gap(pairs, set()) == {}  # nothing to tell apart


# -- the stage -----------------------------------------------------------------------------------------------


def with_vpfa(**vpfa_keys):
    return {"vpfa__enabled": True, **{f"vpfa__{key}": value for key, value in {**SMALL, **vpfa_keys}.items()}}


@pytest.mark.slow
def test_a_finished_job_gets_vpfa_without_training_again(tiny_config, monkeypatch):
    job = {"train__max_epoch": 1, "compare__models": ["tiny_net"], "test__query_rates": [1.0, 4.0]}
    labels = [*ALL, *(label.replace("tiny_net", "sr_reid (vdsr)") for label in ALL)]
    before = run_job(tiny_config(**job))
    monkeypatch.setattr(Run, "train", lambda self: pytest.fail("trained again"))
    cfg = tiny_config(**job, **with_vpfa())
    records = run_job(cfg)
    assert records[:2] == before
    assert [r["model"] for r in records[2:]] == labels  # the compared model's, then the job's own
    for own, trained in zip(np.reshape(records[2:], (2, 3)), before, strict=True):
        for record in own:
            assert record["before"]["rank1"] == pytest.approx(trained["rank1"])
            assert record["before"]["mAP"] == pytest.approx(trained["mAP"])
            assert set(record["curve"]) == {"1", "4"} and set(record["direction"]) == {"2", "3", "4"}
            assert set(record["gap"]) == {"cosine", "offset", "gap"}
            assert record["curve"]["1"]["mAP"] == pytest.approx(trained["curve"]["1"]["mAP"])  # nothing is moved
    assert records[-1]["parameters"] > records[-3]["parameters"] == before[1]["parameters"]

    # Other settings are another stage; the training's folder still belongs to the same experiment.
    other = tiny_config(**job, **with_vpfa(modules=["mean"]))
    assert config_hash(other) == config_hash(cfg) == config_hash(tiny_config(**job))
    assert [r["model"] for r in run_job(other)[2:]] == [labels[0], labels[3]]
    assert run_job(cfg) == records


@pytest.mark.slow
def test_moved_queries_are_ranked_under_the_runs_own_protocol(tiny_config):
    cfg = tiny_config(**PLAIN, **with_vpfa(search={"epochs": [1, 2]}), test__flip=True, test__dist_metric="cosine")
    *_, record = run_job(cfg)
    (home,) = (Path(cfg.data.save_dir) / "split0" / "tiny_net").glob("vpfa-*")
    module, about = load_panning(home / "perceptron.pth.tar")
    assert about["record"]["search"]["tried"] == record["search"]["tried"] and len(record["search"]["tried"]) == 2
    kept = {role: FeatureSet.load(home.parent / "features" / f"{role}.npz") for role in ("query", "gallery")}
    query = kept["query"]
    # Flipped features are sums of two; the module learned from means.
    x = module(query.features / 2, torch.as_tensor(np.where(query.low, query.rate, 1)))
    distance = 1 - F.normalize(x) @ F.normalize(kept["gallery"].features).T
    nearest = kept["gallery"].pid[distance.argmin(dim=1).numpy()]
    assert record["rank1"] == pytest.approx(100 * np.mean(nearest == query.pid))
    assert json.loads((home / "results" / "folder_perceptron.json").read_text())["rank1"] == record["rank1"]

    cfg.test.evaluate = True
    assert run_job(cfg)[-1]["mAP"] == pytest.approx(record["mAP"])


def test_a_stopped_stage_goes_on_with_what_it_had(tiny_config, monkeypatch):
    cfg = tiny_config(**PLAIN, **with_vpfa())

    def killed(name, *args, **kwargs):
        if name == "perceptron":
            raise KeyboardInterrupt
        return fit(name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(vpfa, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            run_job(cfg)
    home = Path(cfg.data.save_dir) / "split0" / "tiny_net"
    pairs = (home / "features" / "pairs.npz").stat().st_mtime_ns
    learned = []
    monkeypatch.setattr(Run, "train", lambda self: pytest.fail("trained again"))
    monkeypatch.setattr(vpfa, "fit", lambda name, *args, **kwargs: learned.append(name) or fit(name, *args, **kwargs))
    records = run_job(cfg)
    assert learned == ["perceptron"] and [r["model"] for r in records[1:]] == ALL
    assert (home / "features" / "pairs.npz").stat().st_mtime_ns == pairs


@pytest.mark.slow
def test_any_trained_run_and_any_stage_can_be_named(tiny_config, tmp_path):
    run_job(tiny_config(**PLAIN))
    trained = tmp_path / "run" / "split0" / "tiny_net"
    elsewhere = {"data__save_dir": str(tmp_path / "vpfa"), **{f"vpfa__{key}": value for key, value in SMALL.items()}}
    records = run_job(tiny_config(task="vpfa", vpfa__run=str(trained), vpfa__rates=[3.0, 1.0], **elsewhere))
    assert [r["model"] for r in records] == ["tiny_net (before)", *ALL]
    assert set(records[0]["direction"]) == {"3"}

    stages = {"net": {}, "moved": {"task": "vpfa", "vpfa": {"run": "{net}", "modules": ["mean"]}}}
    records = run_job(tiny_config(**PLAIN | elsewhere | {"data__save_dir": str(tmp_path / "both"), "stages": stages}))
    assert [r["stage"] for r in records] == ["net", "moved, before", "moved"]


def test_low_images_are_moved_on_both_sides(tiny_config, monkeypatch):
    """Moving the queries alone leaves them far from the low half of the gallery."""
    pairs = pairs_of(identities=10, noise=0.15, features=12, step=3)
    query, gallery = both_sides_low(pairs)

    def toy(run):
        return opened(run)._replace(pairs=pairs, query=query, gallery=gallery, rates=Rates())

    opened = vpfa.opened
    monkeypatch.setattr(vpfa, "opened", toy)
    monkeypatch.setattr(vpfa, "ranking_options", lambda *_: RANKED)
    *_, record = run_job(tiny_config(**PLAIN, **with_vpfa(modules=["mean"])))
    module = fit("mean", pairs)
    how = {key: RANKED[key] for key in ("protocol", "draws", "seed", "normalize")} | {"metric": "cosine"}
    alone = evaluate_features(moved(module, query, Rates()), gallery, **how)
    assert record["before"]["mAP"] + 8 < alone["mAP"] < record["mAP"] - 4 and record["mAP"] > 98
    set_high = [replace(part, low=np.zeros(len(part), bool)) for part in (query, gallery)]
    query, gallery = set_high
    with pytest.raises(ConfigError, match="VPFA moves low-resolution images, and the test of d has none"):
        run_job(tiny_config(**PLAIN, **with_vpfa(modules=["perceptron"])))


def test_low_images_of_a_gallery_are_moved_at_the_rate_that_their_size_tells(tiny_config, mixed_root, monkeypatch):
    """Camera 1 has half the side by nature; on both sides of the test are images of both cameras."""
    told = defaultdict(list)

    def spy(module, features, rates):
        told[features.role].append(rates.of(features))
        return moved(module, features, rates)

    monkeypatch.setattr(vpfa, "moved", spy)
    natural = {"data__root": str(mixed_root), "data__options.folder": {"synthetic": False, "lr_camera": "1"}}
    job = PLAIN | natural | {"data__pair_rates": [2.0, 4.0], "test__query_rates": [1.0, 2.0]}
    cfg = tiny_config(**job, **with_vpfa(modules=["mean"]))
    *_, record = run_job(cfg)
    assert [set(rates) for rates in told["gallery"]] == [{1.0, 2.0}]
    assert [set(rates) for rates in told["query"]] == [{1.0, 2.0}, {1.0, 2.0}, {1.0, 4.0}]
    (home,) = (Path(cfg.data.save_dir) / "split0" / "tiny_net").glob("vpfa-*")
    module, _ = load_panning(home / "mean.pth.tar")
    kept = {role: FeatureSet.load(home.parent / "features" / f"{role}.npz") for role in ("query", "gallery")}
    x = {role: module(part.features, torch.as_tensor(np.where(part.low, 2.0, 1.0))) for role, part in kept.items()}
    query, gallery = kept.values()
    labels = (query.pid, gallery.pid, query.camid, gallery.camid)
    assert record["mAP"] == pytest.approx(100 * rank_features(x["query"], x["gallery"], *labels).mAP())
    assert record["curve"]["1"]["mAP"] == pytest.approx(record["mAP"])


def test_queries_at_a_rate_that_cannot_be_are_refused(tiny_config):
    cfg = tiny_config(**PLAIN)
    run_job(cfg)
    _, engine = trained_engine(Path(cfg.data.save_dir) / "split0" / "tiny_net")
    query = replace(pairs_of(), role="query", dataset="market1501")
    with pytest.raises(ValueError, match="'market1501', a set of torchreid, cannot be put at a rate"):
        vpfa.queries_at(engine, query, 2.0)
    with pytest.raises(ValueError, match="rate"):
        vpfa.queries_at(engine, replace(query, dataset="folder"), 0.5)


def test_a_run_that_makes_no_low_views_gets_those_of_its_low_images(tiny_config):
    *_, record = run_job(tiny_config(**PLAIN, data__pair_rates=[1.0], **with_vpfa(modules=["mean"])))
    assert set(record["direction"]) == {"2", "3", "4"}


def test_what_cannot_be_moved_is_refused(tiny_config, tmp_path):
    (run,) = own_runs(tiny_config(task="vpfa", vpfa__modules=["median"]), 0, tmp_path)
    with pytest.raises(ConfigError, match=r"names \['median'\]; allowed: conditioned, mean, perceptron"):
        run.work()
    (run,) = own_runs(tiny_config(task="vpfa", vpfa__run=str(tmp_path)), 0, tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder of a run"):
        run.work()
    run_job(tiny_config(**PLAIN))
    trained = tmp_path / "run" / "split0" / "tiny_net"
    (run,) = own_runs(tiny_config(task="vpfa", vpfa__run=str(trained), vpfa__rates=[1.0]), 0, tmp_path)
    with pytest.raises(ValueError, match=r"need a rate above 1, not \[1\.0\]"):
        run.work()
    config = trained / "config.yaml"
    config.write_text(config.read_text().replace("pictures: ''", "pictures: elsewhere"))
    with pytest.raises(ConfigError, match=r"was trained on data\.pictures"):
        run.work()
    assert (trained / LAST).is_file()


def test_a_file_that_is_no_module_is_named(tmp_path):
    torch.save({"models": {}}, tmp_path / "mean.pth.tar")
    with pytest.raises(ValueError, match="holds no module of VPFA"):
        load_panning(tmp_path / "mean.pth.tar")


def test_a_module_that_is_not_finite_is_neither_kept_nor_read(tmp_path, monkeypatch):
    module = fit("mean", pairs_of())
    for tensor in module.state_dict().values():
        tensor.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the module mean holds NaN or infinity, in .*; a smaller vpfa\.lr may help"):
        save_panning(module, "mean", tmp_path / "mean.pth.tar")
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr("torchreid_xres.jobs.tasks.panning.require_finite", lambda *_: None)
    save_panning(module, "mean", tmp_path / "mean.pth.tar")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"mean\.pth\.tar holds NaN or infinity, .*; remove it to learn it again"):
        load_panning(tmp_path / "mean.pth.tar")
