"""Ablation tables: every row is a configuration that loads, and the table shows ours beside the paper's."""

import json
from pathlib import Path

import pytest
import yaml

from torchreid_xres.config import load_config, stage_configs
from torchreid_xres.jobs.job import own_runs

BASES = {
    "psh_rnet": "psh_rnet_mlr_market.yaml",
    "dgrl": "dgrl_mlr_market.yaml",
    "msifla": "msifla_mlr_cuhk03.yaml",
    "kgnet": "kgnet_veri776_x8.yaml",
}


@pytest.fixture(scope="module")
def ablation(benchmark_module):
    return benchmark_module("ablation")


def rows():
    text = (Path(__file__).parents[2] / "benchmarks" / "ablations.yaml").read_text(encoding="utf-8")
    for model, tables in yaml.safe_load(text).items():
        for name, table in tables.items():
            for row in table["rows"]:
                yield pytest.param(model, table, row, id=f"{model}-{name}-{row['label']}")


@pytest.mark.parametrize(("model", "table", "row"), list(rows()))
def test_every_row_is_a_configuration(repo, model, table, row):
    cfg = load_config(repo / "configs" / BASES[model], [*table.get("common", []), *row["changes"]])
    assert stage_configs(cfg)
    assert len(row["quoted"]) == len(table["figures"])


def test_rows_run_once_and_stand_beside_the_papers(ablation, repo, tmp_path, monkeypatch, capsys):
    seen = []

    def run_job(cfg, shared):
        loss = stage_configs(cfg)["student"].loss
        seen.append((loss.sr.weight, loss.ps.weight, cfg.train.seed))
        assert shared == tmp_path / "out" / "shared" and cfg.compare.models == []
        record = {"rank1": 50.0 + cfg.train.seed, "rank5": 1.0, "rank10": 2.0, "mAP": 40.0}
        return [{**record, "rank1": 0.0, "stage": "teacher"}, {**record, "stage": "student"}]

    monkeypatch.setattr(ablation, "run_job", run_job)
    config = str(repo / "configs" / "psh_rnet_mlr_cuhk03_mini.yaml")
    keep = tmp_path / "kept.json"
    argv = ["--config-file", config, "--table", "losses", "--seeds", "1", "2"]
    assert ablation.main([*argv, "--out", str(tmp_path / "out"), "--keep", str(keep)]) == 0
    assert seen == [(0, 0, 1), (0, 0, 2), (0.5, 0, 1), (0.5, 0, 2), (0.5, 0.5, 1), (0.5, 0.5, 2)]
    shown = capsys.readouterr().out
    assert "51.5 ± 0.7" in shown and "84.7" in shown and "quoted" in shown and "Table II" in shown
    kept = json.loads(keep.read_text())
    assert [row["label"] for row in kept["rows"]] == ["ID", "SR + ID", "SR + ID + PS"]
    config = "configs/psh_rnet_mlr_cuhk03_mini.yaml"
    assert kept["command"] == f"python benchmarks/ablation.py --config-file {config} --table losses --seeds 1 2"


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
        ("psh_rnet", ("losses", "ps_terms")),
        ("dgrl", ("losses", "components")),
        ("kgnet", ("components", "encoders", "recovery")),
    ],
)
def test_rows_share_all_stages_but_the_last(repo, model, names):
    tables = yaml.safe_load((repo / "benchmarks" / "ablations.yaml").read_text(encoding="utf-8"))[model]
    for name in names:
        runs = [
            own_runs(load_config(repo / "configs" / BASES[model], row["changes"]), 0, Path("log"))
            for row in tables[name]["rows"]
        ]
        assert len({tuple(run.sha256 for run in row[:-1]) for row in runs}) == 1
        assert len({row[-1].sha256 for row in runs}) == len(runs)
