"""Ablation tables: what each row is, what it stands beside, and that a mended row does not pass for the old one."""

import json
import math
from argparse import Namespace
from itertools import combinations
from pathlib import Path

import pytest
import tiny_net
import torch
from tiny_jobs import untrained_run

from torchreid_xres import host
from torchreid_xres.config import config_text, load_config, stage_configs
from torchreid_xres.image import IMAGENET_STD
from torchreid_xres.jobs.job import own_runs

BASES = {
    "psh_rnet": "psh_rnet_mlr_market.yaml",
    "dgrl": "dgrl_mlr_market.yaml",
    "msifla": "msifla_mlr_cuhk03.yaml",
    "kgnet": "kgnet_veri776_x8.yaml",
}
# One configuration beside two figures of one paper: MLR-CUHK03 in the one table, MLR-Market-1501 in the other.
TWICE = {
    frozenset({"Table II, SR+ID", "Table III, SR+ID"}),
    frozenset({"Table II, SR+ID+PS", "Table III, SR+ID+PS"}),
    frozenset({"Table VII, {Seq1, Seq4, Seq5, l_c}", "Table III, SR+ID+PS"}),
}


@pytest.fixture(scope="module")
def ablation(benchmark_module):
    return benchmark_module("ablation")


@pytest.fixture(scope="module")
def row_of(ablation, repo):
    """Return a function: model, table and label to the row's configuration, of the last stage."""

    def make(model, table, label, base=None):
        found = ablation.all_tables()[model][table]
        row = next(row for row in found["rows"] if row["label"] == label)
        cfg = load_config(repo / "configs" / (base or BASES[model]), ablation.changes_of(found, row))
        return list(stage_configs(cfg).values())[-1]

    return make


@pytest.mark.parametrize("model", BASES)
def test_every_row_is_a_configuration(ablation, repo, model):
    for name, table in ablation.all_tables()[model].items():
        labels = [row["label"] for row in table["rows"]]
        assert len(set(labels)) == len(labels), name
        for row in table["rows"]:
            where = f"{name}: {row['label']}"
            assert set(row) == {"label", "changes", "paper", "quoted", "differs"}, where
            assert row["paper"].startswith("Table ") or (row["paper"] == "none" and set(row["quoted"]) == {None}), where
            assert len(row["quoted"]) == len(table["figures"]), where
            assert all(isinstance(text, str) and len(text) > 20 for text in row["differs"]), where
            assert len(set(row["differs"])) == len(row["differs"]), where
            whole = load_config(repo / "configs" / BASES[model], ablation.changes_of(table, row))
            for cfg in stage_configs(whole).values():
                assert cfg.model.name in host.model_factory(), where


@pytest.mark.parametrize("model", BASES)
def test_every_row_is_a_configuration_that_stands_beside_one_figure(ablation, repo, model):
    rows = []
    for name, table in ablation.tables_of(model).items():
        args = Namespace(config_file=f"configs/{BASES[model]}", opts=[], table=name)
        for row in table["rows"]:
            figures = dict(zip(table["figures"], row["quoted"], strict=True))
            told = " ".join(ablation.other_places(model, args, row))
            rows.append((name, row["paper"], figures, ablation.hashes(args, ablation.changes_of(table, row)), told))
    twice = set()
    for (name, paper, mine, sha256, told), (name2, paper2, theirs, sha2562, told2) in combinations(rows, 2):
        given = {key for key in mine.keys() & theirs.keys() if None not in (mine[key], theirs[key])}
        if sha256 == sha2562 and any(mine[key] != theirs[key] for key in given):
            assert name != name2, f"{paper} and {paper2} are one configuration"
            assert paper2 in told and paper in told2
            twice.add(frozenset({paper, paper2}))
    assert twice == (TWICE if model == "psh_rnet" else set())


@pytest.mark.parametrize("base", ["psh_rnet_mlr_market.yaml", "psh_rnet_mlr_cuhk03_mini.yaml"])
def test_table_iv_is_bicubic_of_the_papers_strength_and_treats_high_images_alike(row_of, base):
    for label in ("bicubic", "SRCNN", "VDSR", "RCAN", "VDSR-CA"):
        cfg = row_of("psh_rnet", "front_ends", label, base)
        assert (cfg.model.name, cfg.model.reid, cfg.data.interpolation) == ("sr_reid", "resnet50", "bicubic")
        # The paper's 0.5 on normalised images, whose differences are those in [0, 1] over the deviation of a colour.
        assert cfg.loss.sr.weight == pytest.approx(0.5 * sum(1 / s for s in IMAGENET_STD) / 3, abs=1e-4)
        assert cfg.data.pairs and cfg.data.pair_rates == [2.0, 3.0, 4.0]


def test_table_iv_sends_no_image_of_rate_1_through_the_front_end(ablation, tiny_config):
    common = ablation.all_tables()["psh_rnet"]["front_ends"]["common"]
    changes = {k.replace(".", "__"): v for k, v in zip(common[::2], common[1::2], strict=True)}
    changes |= {"model__reid": tiny_net.NAME, "sr__name": "bicubic", "data__height": 64, "data__width": 32}
    cfg = tiny_config(**changes)
    engine = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine()
    rates = torch.cat([batch["rate_lr"] for batch in engine.train_loader])
    assert set(rates.tolist()) == {2.0, 3.0, 4.0}
    # At test a gallery image passes by: were it restored, a front end that answers zero would change its features.
    model, batch = engine.model.eval(), next(iter(engine.test_loader["folder"]["gallery"]))
    expected = engine.extract(batch)
    model.front_end.forward = lambda img, size=None: torch.zeros_like(img)
    torch.testing.assert_close(engine.extract(batch), expected)


@pytest.mark.parametrize("table", ["pooling", "heads"])
def test_tables_v_and_vi_are_measured_at_full_resolution(ablation, row_of, tiny_config, table):
    for row in ablation.all_tables()["psh_rnet"][table]["rows"]:
        cfg = row_of("psh_rnet", table, row["label"])
        assert cfg.data.options.mlr_market1501.variant == "official" and cfg.test.query_rates == []
        assert (cfg.model.name, cfg.data.rates, cfg.data.pairs) == ("hrnet_reid", [1.0], False)
    cfg = tiny_config(data__rates=[1.0], data__pairs=False)
    manager = own_runs(cfg, 0, Path(cfg.data.save_dir))[0].datamanager()
    for loader in (manager.train_loader, *manager.test_loader["folder"].values()):
        assert not any(bool(batch["low"].any()) or (batch["rate"] != 1).any() for batch in loader)
    assert row_of("psh_rnet", "heads", "HRNet-W32-C").model.options.head == "imagenet"


def test_kgnets_second_component_is_the_distillation_between_two_encoders(row_of):
    def facts(table, label):
        cfg = row_of("kgnet", table, label)
        options = cfg.model.options
        guided = {options.get("kgr", True), options.get("kga", True)}
        return options.get("dual", True), guided, cfg.loss.distill.weight

    assert facts("components", "Omni-SR + bag of tricks") == (True, {False}, 0)
    assert facts("components", "+ K2G") == (True, {True}, 0)
    assert facts("components", "+ TSD") == (True, {False}, 10)
    assert facts("components", "+ K2G + TSD") == (True, {True}, 10)
    assert facts("encoders", "single encoder")[0] is False
    assert facts("recovery", "+ Omni-SR") == (True, {False}, 0)  # Table 7 counts two ResNet-50


@pytest.mark.parametrize("table", ["baselines", "recovery"])
@pytest.mark.parametrize("base", ["kgnet_veri776_x8.yaml", "kgnet_vehicleid_x8.yaml", "kgnet_synth_vehicle.yaml"])
def test_kgnets_baselines_learn_from_low_images_alone(ablation, row_of, table, base):
    rows = ablation.all_tables()["kgnet"][table]["rows"]
    for row in rows if table == "baselines" else rows[:1]:
        cfg = row_of("kgnet", table, row["label"], base)
        data = cfg.data
        assert table == "recovery" or not cfg.train.staged_lr  # the new layers are those of KGNet
        assert not data.pairs and data.random_rates == [8.0, 8.0] and data.random_share == 1.0
        (name,) = data.sources
        assert name == "synth_vehicle" or data.options[name].train_low is True


def test_rows_run_once_and_stand_beside_the_papers(ablation, repo, tmp_path, monkeypatch, capsys):
    seen = []

    def run_job(cfg, shared):
        loss = stage_configs(cfg)["student"].loss
        seen.append((loss.sr.weight, loss.ps.weight, cfg.train.seed))
        assert shared == tmp_path / "out" / "shared" and cfg.compare.models == []
        record = {"rank1": 50.0 + cfg.train.seed, "rank5": 1.0, "rank10": 2.0, "mAP": 40.0, "seed": cfg.train.seed}
        record["config_sha256"] = own_runs(cfg, 0, tmp_path)[-1].sha256
        return [{**record, "rank1": 0.0, "stage": "teacher"}, {**record, "stage": "student"}]

    monkeypatch.setattr(ablation, "run_job", run_job)
    config = str(repo / "configs" / "psh_rnet_mlr_cuhk03_mini.yaml")
    keep = tmp_path / "kept.json"
    argv = ["--config-file", config, "--table", "losses", "--seeds", "1", "2"]
    assert ablation.main([*argv, "--out", str(tmp_path / "out"), "--keep", str(keep)]) == 0
    assert seen == [(0, 0, 1), (0, 0, 2), (0.5, 0, 1), (0.5, 0, 2), (0.5, 0.5, 1), (0.5, 0.5, 2)]
    shown = capsys.readouterr().out
    assert "51.5 ± 0.7" in shown and "84.7" in shown and "quoted" in shown and "Table II, SR+ID+PS" in shown
    assert "1. VDSR-CA stays before the network" in shown and "earlier state" not in shown
    assert "by its configuration the row is also that of Table III, SR+ID, quoted with rank-1 88.9" in shown
    kept = json.loads(keep.read_text())
    assert [row["label"] for row in kept["rows"]] == ["ID", "SR + ID", "SR + ID + PS"]
    config = "configs/psh_rnet_mlr_cuhk03_mini.yaml"
    assert kept["command"] == f"python benchmarks/ablation.py --config-file {config} --table losses --seeds 1 2"


def test_a_table_of_restoration_records_psnr_and_ssim(ablation, tiny_config, tiny_root, tmp_path, monkeypatch):
    cfg = tiny_config(data__rates=[4.0], data__save_dir=str(tmp_path / "job"))
    (tmp_path / "mine.yaml").write_text(config_text(cfg))

    def run_job(cfg, shared):
        untrained_run(cfg, own_runs(cfg, 0, Path(cfg.data.save_dir), shared)[-1].folder)
        return [{"dataset": "folder", "stage": "", "split_id": 0, "rank1": 1.0}]

    monkeypatch.setattr(ablation, "run_job", run_job)
    config = str(tmp_path / "mine.yaml")
    (plain,) = ablation.run_row(config, [], tmp_path / "out", ["rank1"])
    assert "psnr" not in plain
    (record,) = ablation.run_row(config, [], tmp_path / "out", ["psnr", "ssim", "rank1"])
    assert 10 < record["psnr"] < 60 and 0 < record["ssim"] < 1 and math.isclose(record["rank1"], 1.0)


def kept_table(rows, **more):
    command = "python benchmarks/ablation.py --config-file configs/kgnet_synth_vehicle.yaml --table components"
    return {"table": "components", "source": "old", "figures": ["mAP", "rank1", "rank5", "rank10"], "command": command,
            "rows": rows, **more}  # fmt: skip


def test_a_row_that_was_mended_since_stands_beside_no_figure(ablation):
    record = {"mAP": 48.6, "rank1": 44.5, "rank5": 90.6, "rank10": 98.4, "seed": 1, "config_sha256": "other"}
    old = ["stages.kgnet.model.options.dual", False, "stages.kgnet.loss.distill.weight", 0]
    quoted = [55.8, 82.6, 90.9, 94.3]
    rows = [
        {"label": "+ K2G", "changes": old, "quoted": quoted, "records": [record]},
        {"label": "gone", "changes": [], "quoted": quoted, "records": [record]},
        {"label": "+ K2G + TSD", "changes": [], "quoted": [1.0] * 4, "records": [record]},
    ]
    found = ablation.as_of_now(kept_table(rows))
    mended, gone, same = found["rows"]
    for row in (mended, gone):
        assert row["quoted"] == [None] * 4 and not row["paper"] and row["records"] == [record]
        assert len(row["differs"]) == 1 and row["differs"][0].startswith("measured before this row was mended, with ")
    assert "stages.kgnet.model.options.dual false stages.kgnet.loss.distill.weight 0:" in mended["differs"][0]
    assert same["quoted"] == [57.0, 83.4, 92.6, 95.3] and same["paper"] == "Table 4, K2G and TSD"
    assert "measured under an earlier state of configs/kgnet_synth_vehicle.yaml" in same["differs"][-1]
    assert found["source"].endswith("Table 4, VeRi-776 x8")
    shown = ablation.ablation_table(found)
    assert "55.8" not in shown and "1. measured before this row was mended" in shown


@pytest.mark.parametrize("gpu", [False, True])
def test_a_record_of_todays_configuration_is_no_old_one(ablation, repo, gpu):
    changes = ["train.seed", 7, "use_gpu", gpu, "data.root", "x"]
    cfg = load_config(repo / "configs" / "kgnet_synth_vehicle.yaml", changes)
    record = {"mAP": 1.0, "seed": 7, "config_sha256": own_runs(cfg, 0, repo)[-1].sha256}
    row = {"label": "+ K2G + TSD", "changes": [], "quoted": [1.0] * 4, "records": [record]}
    (found,) = ablation.as_of_now(kept_table([row]))["rows"]
    assert not any("earlier state" in text for text in found["differs"]) and found["quoted"][0] == 57.0


def test_a_kept_table_that_is_no_more_is_all_old(ablation):
    record = {"mAP": 1.0, "rank1": 1.0, "seed": 1, "config_sha256": "other"}
    kept = kept_table([{"label": "a", "changes": ["train.lr", 1.0], "quoted": [9.0] * 4, "records": [record]}])
    kept["command"] = kept["command"].replace("components", "nine")
    (row,) = ablation.as_of_now(kept)["rows"]
    assert row["quoted"] == [None] * 4 and "with train.lr 1.0: no row of the paper" in row["differs"][0]


def test_an_unknown_table_lists_those_there_are(ablation, repo, capsys):
    config = str(repo / "configs" / "psh_rnet_mlr_market.yaml")
    assert ablation.main(["--config-file", config, "--table", "nine"]) == 2
    told = capsys.readouterr().err
    assert "no table 'nine' for 'psh_rnet'. There are:" in told and "ps_terms: 3 rows" in told
    assert ablation.main(["--config-file", config]) == 2
    assert "--table is needed. There are:" in capsys.readouterr().err
    assert ablation.main(["--config-file", config, "--list"]) == 0
    assert ablation.main(["--config-file", str(repo / "configs" / "quickstart.yaml"), "--list"]) == 2
    assert "no ablation table for 'sr_reid'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("psh_rnet", ("losses", "restoration", "ps_terms")),
        ("dgrl", ("losses", "components")),
        ("kgnet", ("components", "encoders", "recovery")),
    ],
)
def test_rows_share_all_stages_but_the_last(ablation, repo, tmp_path, model, names):
    for name in names:
        runs = [
            own_runs(load_config(repo / "configs" / BASES[model], row["changes"]), 0, tmp_path)
            for row in ablation.tables_of(model)[name]["rows"]
        ]
        assert len({tuple(run.sha256 for run in row[:-1]) for row in runs}) == 1
        assert len({row[-1].sha256 for row in runs}) == len(runs)
