"""The benchmark of the field: suites that load, cells that run once, failures that stop nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from torchreid_xres.config import config_hash, padding_of, stage_configs
from torchreid_xres.jobs.command import part_pairs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SUITES = yaml.safe_load((BENCHMARKS / "suites.yaml").read_text(encoding="utf-8"))["suites"]
QUOTED = yaml.safe_load((BENCHMARKS / "quoted.yaml").read_text(encoding="utf-8"))
SMALL = ("synth_person", "synth_vehicle", "vehicle2cam", "cuhk03_mini")


@pytest.fixture(scope="module")
def accuracy(benchmark_module):
    return benchmark_module("accuracy")


@pytest.fixture(scope="module")
def suites(benchmark_module):
    return benchmark_module("suites")


@pytest.fixture(scope="module")
def collect(benchmark_module):
    return benchmark_module("collect")


@pytest.mark.parametrize("name", SUITES)
def test_every_row_is_a_configuration(suites, name):
    suite = suites.suite_of(name)
    for row in suite.rows.values():
        assert stage_configs(suites.configured(row, 1, []))
        assert row.against in suite.rows
    assert all(block in QUOTED for block in suite.quoted)


@pytest.mark.parametrize("name", SMALL)
def test_rows_of_a_suite_have_one_budget_and_one_protocol(suites, name):
    suite = suites.suite_of(name)
    assert {"osnet_x0_25", "resnet50", "bicubic", "rcan", "psh_rnet", "msifla", "dgrl", "prpr"} <= set(suite.rows)
    assert ("kgnet" in suite.rows) != ("kgnet" in suite.left_out)
    seen, seen_sizes, lengths = [], set(), set()
    of_their_own = {"augmented_seconds", "augmented_long", "dgrl_long", "hrnet_augmented", "psh_rnet_teacher"}
    for row in suite.rows.values():
        last = list(stage_configs(suites.configured(row, 1, [])).values())[-1]
        data = last.data
        if row.label not in of_their_own:
            lengths.add(last.train.max_epoch - last.loss.msifla.cascade_epochs)
        seen.append((
            tuple(data.sources), tuple(data.targets), data.kernel, data.interpolation, tuple(data.rates),
            tuple(data.transforms), data.pad, padding_of(last), str(data.options), last.train.batch_size,
            last.train.precision,
            last.test.flip, last.test.dist_metric, last.model.pretrained,
        ))  # fmt: skip
        if row.label != "hacnn":  # which takes one size only
            seen_sizes.add((data.height, data.width))
    assert len(set(seen)) == 1 and len(seen_sizes) == 1 and len(lengths) == 1


@pytest.mark.parametrize("name", SUITES)
def test_the_hosts_triplet_engine_is_given_the_identity_loss(suites, name):
    """Its weight is 0 by default: batches of identities under triplets alone are no strong baseline."""
    rows = suites.suite_of(name).rows.values()
    stages = [stage for row in rows for stage in stage_configs(suites.configured(row, 1, [])).values()]
    assert all(stage.loss.triplet.weight_x > 0 for stage in stages if stage.loss.name == "triplet")


def test_all_front_ends_have_a_row(suites):
    from torchreid_xres.sr import FRONT_ENDS

    rows = suites.suite_of("synth_person").rows.values()
    seen = {suites.configured(row, 1, []).sr.name for row in rows if row.kind == "front end"}
    assert set(FRONT_ENDS) - seen == {"edsr"}  # edsr_baseline at another size


def test_quoted_figures_are_complete():
    for block in QUOTED.values():
        assert all(len(row["values"]) == len(block["figures"]) and row["source"] for row in block["rows"])


@pytest.fixture
def fake_cells(collect, monkeypatch):
    seen = []

    def run_cell(row, cfg, out):
        seen.append((row.label, cfg.train.seed))
        if row.label == "vdsr":
            raise RuntimeError("no room")
        record = {"rank1": 50.0, "rank5": 60.0, "rank10": 70.0, "mAP": 40.0, "mINP": 10.0}
        record |= {"dataset": "d", "split_id": 0, "manifest": "m"}
        ap = [10.0 * cfg.train.seed, 20.0 + 5 * (row.label == "bicubic")]
        costs = dict.fromkeys(("parameters", "multiply_adds", "train_seconds", "train_speed", "extraction_speed"), 1.0)
        return {
            "records": [{**record, "by_rate": {}, "cmc": [1.0]}],
            "queries": {key: np.array(values) for key, values in
                        {"pid": [1, 2], "split": [0, 0], "rank1": [0.0, 100.0], "mAP": ap}.items()},
            "cost": costs,
            "origin": {"commit": "c", "processor": "p", "threads": 1, "precision": "fp32"},
        }  # fmt: skip

    monkeypatch.setattr(collect, "run_cell", run_cell)
    return seen


def test_kept_tables_are_shown_in_any_style(benchmark_module, capsys):
    assert benchmark_module("tables").main(["show", "first_round_span", "--style", "latex_booktabs"]) == 0
    shown = capsys.readouterr().out
    assert "\\toprule" in shown and "range\\_1" in shown and "$\\pm$" in shown and "±" not in shown
    assert benchmark_module("tables").main(["show", "first_round_span", "quickstart"]) == 2
    assert "first_round_span is neither, or not alone" in capsys.readouterr().err


def test_what_goes_into_a_paper(benchmark_module, tmp_path, capsys):
    tables, out = benchmark_module("tables"), tmp_path / "paper"
    argv = ["latex", "first_round_span", "--rows", "range_1", "as_published", "--label", "tab:span"]
    assert tables.main([*argv, "--out", str(out / "span.tex")]) == 0
    text = (out / "span.tex").read_text()
    assert text.index("range\\_1 &") < text.index("as\\_published &") and "\\label{tab:span}" in text
    for wrong, message in (
        (["latex", "first_round_span", "--rows", "range_2"], "no row 'range_2'; did you mean 'range_1'?"),
        (["latex", "first_round_span", "--columns", "rank_1"], "column 'rank_1'; did you mean 'rank1'?"),
        (["latex", "quickstart"], "quickstart is no suite with finished rows"),
        (["latex", str(out / "gone.json")], "no records are kept as"),
    ):
        assert tables.main(wrong) == 2
        assert message in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert tables.main(["figures", "first_round_vehicle2cam", "--rows", "bicubic", "dgrl", "--out", str(out)]) == 2
    shown = capsys.readouterr()  # which has no figures by query: the gains are drawn, without intervals
    assert "without an interval: bicubic, dgrl" in shown.out and shown.err.count("\n") == 1
    assert "no figures by query were kept of these rows" in shown.err
    drawn = sorted(path.name for path in out.glob("rank1*"))
    assert drawn == [f"rank1_gain_over_train_seconds.{ending}" for ending in ("pdf", "png", "svg")]


def test_cells_of_several_manifests_are_not_shown_together(collect):
    def cell(label, manifest, split=0):
        return {"label": label, "seed": 1, "records": [{"dataset": "d", "split_id": split, "manifest": manifest}]}

    of_both = collect.manifests_of([cell("a", "m"), cell("b", "m"), cell("a", "n", 1)])
    assert of_both == {("d", 0): "m", ("d", 1): "n"}
    told = r"cells of d, split 0, are of several manifests, the first of each: m \(a, seed 1\); n \(c, seed 1\)"
    with pytest.raises(ValueError, match=told):
        collect.manifests_of([cell("a", "m"), cell("b", "m"), cell("c", "n")])


def test_cells_run_once_and_failures_are_told(accuracy, fake_cells, tmp_path, capsys):
    keep = tmp_path / "kept.json"
    argv = ["--suite", "synth_person", "--out", str(tmp_path), "--keep", str(keep), "--root", "/elsewhere"]
    argv += ["--seeds", "1", "2", "--only", "augmented", "bicubic", "vdsr", "train.max_epoch", "3"]
    assert accuracy.main(argv) == 0
    labels = ["augmented", "bicubic", "vdsr"]
    assert fake_cells == [(label, seed) for seed in (1, 2) for label in labels]
    shown = capsys.readouterr().out
    assert "- vdsr, seed 1: RuntimeError: no room" in shown and "- kgnet: it needs" in shown
    kept = json.loads(keep.read_text())
    assert [(row["label"], row["seeds"]) for row in kept["rows"]] == [("augmented", [1, 2]), ("bicubic", [1, 2])]
    gain = kept["rows"][1]["difference"]["mAP"]
    assert gain["points"] == 2.5 and gain["low"] <= 2.5 <= gain["high"] and "cmc" not in kept["rows"][0]["records"][0]
    assert "elsewhere" not in keep.read_text()
    assert kept["command"].endswith("--only augmented bicubic vdsr train.max_epoch 3")
    assert kept["about"].endswith("Changed in every row: train.max_epoch 3.")
    fake_cells.clear()
    assert accuracy.main(argv) == 0
    assert fake_cells == [("vdsr", 1), ("vdsr", 2)]
    fake_cells.clear()
    everything = argv[: argv.index("--only")]
    cells = sorted(tmp_path.glob("cells/bicubic_*.npz"))
    assert len(cells) == 2
    # Of all rows those that were run, with the failures; the changed key makes other cells.
    assert accuracy.main([*everything, "--finished", "train.max_epoch", "3"]) == 0
    so_far = json.loads(keep.read_text())
    assert so_far.pop("command").endswith("--finished train.max_epoch 3") and kept.pop("command")
    with np.load(keep.with_suffix(".npz")) as arrays:
        assert list(arrays["bicubic/2/mAP"]) == [20.0, 25.0]
    assert so_far == kept
    # Elsewhere, a collected result is gone on with: what is in it is not run again, and all comes out as it went in.
    elsewhere = [str(tmp_path / "elsewhere") if one == str(tmp_path) else one for one in argv]
    assert accuracy.main(["--with", str(keep), *elsewhere]) == 0
    assert fake_cells == [("vdsr", 1), ("vdsr", 2)]
    gone_on = json.loads(keep.read_text())
    assert gone_on.pop("command") and gone_on == kept
    with np.load(keep.with_suffix(".npz")) as arrays:
        assert list(arrays["bicubic/2/mAP"]) == [20.0, 25.0]
    fake_cells.clear()
    assert accuracy.main([*everything, "--finished"]) == 1 and not fake_cells
    assert accuracy.main([*argv[:-1], "4"]) == 0  # another configuration
    assert len(fake_cells) == 6
    fake_cells.clear()
    assert accuracy.main([*argv[:-5], "resnet50", "bicubic"]) == 0
    assert set(fake_cells) == {(label, seed) for label in ("resnet50", "bicubic") for seed in (1, 2)}


def test_a_collected_result_of_another_suite_is_not_gone_on_with(accuracy, tmp_path, capsys):
    kept = BENCHMARKS / "results" / "accuracy_vehicle2cam.json"
    assert accuracy.main(["--suite", "synth_person", "--out", str(tmp_path), "--with", str(kept), "--finished"]) == 2
    assert "is of the suite vehicle2cam, not synth_person" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_nothing_finished_is_told(accuracy, fake_cells, tmp_path, capsys):
    assert accuracy.main(["--suite", "synth_person", "--out", str(tmp_path), "--finished"]) == 1
    shown = capsys.readouterr().out
    assert "\n\nNo cell is finished.\n\n" in shown and "\n\n\n" not in shown and not fake_cells


def test_keys_without_a_dot_are_no_rows(accuracy):
    args = accuracy.parse(["--suite", "x", "--seeds", "1", "use_gpu", "False", "--only", "bicubic", "task", "train"])
    part_pairs(args, ("seeds", "only"))
    assert (args.seeds, args.only, args.opts) == (["1"], ["bicubic"], ["task", "train", "use_gpu", "False"])


def test_a_row_that_cannot_be_configured_stops_nothing(accuracy, fake_cells, tmp_path, capsys):
    argv = ["--suite", "synth_person", "--seeds", "1", "--only", "bicubic", "sr.nam", "x"]
    for more in ([], ["--finished"]):
        out = tmp_path / f"cells{len(more)}"
        assert accuracy.main(["--out", str(out), *more, *argv]) == 1
        assert "did you mean" in capsys.readouterr().err
        assert len(list(out.rglob("*.json"))) == 1 - len(more)


TINY = """
groups:
  stock: {osnet_x0_25: {config: _base_/small_machine.yaml, changes: {model.name: osnet_x0_25, data.pairs: false}}}
  front_ends: {bicubic: {config: _base_/small_machine.yaml, changes: {sr.name: bicubic}}}
  ensembles:
    two: {config: _base_/small_machine.yaml, changes: {model.name: osnet_x0_25, data.pairs: false}, members: 2}
suites:
  tiny:
    about: coloured bands
    seeds: [1]
    against: osnet_x0_25
    groups: {stock: stock, front end: front_ends, ensemble: ensembles}
    common:
      data: {sources: [folder], targets: [folder], height: 32, width: 16}
      data.options.folder: {synthetic: true, lr_camera: "1"}
      model: {reid_weights: "", pretrained: false}
      train: {max_epoch: 1, batch_size: 16, precision: fp32}
      test: {ranks: [1, 5, 10], batch_size: 5}
      vpfa: {hidden: 8, epochs: 1, modules: [mean, perceptron]}
      use_gpu: false
"""


@pytest.mark.slow
def test_a_whole_suite(accuracy, suites, benchmark_module, tiny_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_module("provenance"), "COMMIT", "0" * 12)  # not that of changed files
    (tmp_path / "suites.yaml").write_text(TINY, encoding="utf-8")
    monkeypatch.setattr(suites, "SUITES", tmp_path / "suites.yaml")
    argv = ["--suite", "tiny", "--root", str(tiny_root), "--out", str(tmp_path), "--style", "latex_booktabs"]
    argv += ["--keep", str(tmp_path / "kept.json")]
    assert accuracy.main(argv) == 0
    plain = json.loads((tmp_path / "kept.json").read_text())
    assert not plain["vpfa"] and not plain["failed"] and len(plain["manifests"]) == 1
    for row in plain["rows"]:
        # What is compared are the very figures of the record.
        own = next(tmp_path.glob(f"cells/{row['label']}_1_*.json"))
        with np.load(own.with_suffix(".npz")) as arrays:
            for key in ("rank1", "mAP"):
                assert arrays[f"queries/{key}"].mean() == pytest.approx(row["records"][0][key], abs=1e-2)
            assert set(arrays["queries/split"]) == {0} and (arrays["queries/magnification"] > 0).all()
        cost = row["costs"][0]
        assert cost["parameters"] > 1e5 and min(cost.values()) > 0
        assert row["cells"][0]["threads"] >= 1 and "(" in row["cells"][0]["processor"]
    assert plain["rows"][0]["difference"] is None and plain["rows"][1]["difference"]["against"] == "osnet_x0_25"
    # The modules come on top of what is trained.
    state = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("runs/*/split0/*/last.pth.tar"))]
    given = next(tmp_path.glob("runs/bicubic_*/split0/*/features"))
    assert accuracy.main([*argv, "--row", f"mine={given}"]) == 0
    # A row of one's own, to be sent, checked, and run once more.
    (tmp_path / "own.yaml").write_text("model: {name: osnet_x0_5, pretrained: false}\ndata: {pairs: false}\n")
    own = ["--suite", "tiny", "--root", str(tiny_root), "--out", str(tmp_path / "other"), "--only", "osnet_x0_25"]
    own += ["--row", f"own={tmp_path / 'own.yaml'}", "--submit", str(tmp_path / "s")]
    own += ["train", "{max_epoch: 1, batch_size: 16, precision: fp32}", "use_gpu", "false", "test.batch_size", "5"]
    assert accuracy.main(own) == 0 and accuracy.main(["check", str(tmp_path / "s")]) == 0
    again = ["verify", "--suite", "tiny", "--root", str(tiny_root), "--kept", str(tmp_path / "kept.json")]
    assert accuracy.main([*again, "--cell", "bicubic:1", "--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out.count(": the same\n") == 2
    rows = {row["label"]: row for row in json.loads((tmp_path / "kept.json").read_text())["rows"]}
    assert rows["mine"]["records"][0]["mAP"] == pytest.approx(rows["bicubic"]["records"][0]["mAP"], abs=1e-6)
    assert rows["mine"]["costs"] == [] and rows["mine"]["records"][0]["magnification"]["low"] > 0
    assert rows["two"]["costs"][0]["parameters"] > 1.9 * rows["osnet_x0_25"]["costs"][0]["parameters"]
    assert accuracy.main([*argv, "--vpfa", "--only", "osnet_x0_25", "bicubic"]) == 0
    assert state == [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("runs/*/split0/*/last.pth.tar"))]
    moved = json.loads((tmp_path / "kept.json").read_text())
    plain["rows"] = plain["rows"][:2]
    assert moved["rows"] == plain["rows"]
    assert [list(row["difference"]) for row in moved["vpfa"]] == [["mean direction", "VPFA"]] * 2
    for row, base in zip(moved["vpfa"], moved["rows"], strict=True):
        for module, told in row["difference"].items():
            after = row["records"][module][0]["mAP"]
            assert told["mAP"]["points"] == pytest.approx(after - base["records"][0]["mAP"], abs=1e-2)
    shown = capsys.readouterr().out
    assert r"\toprule" in shown and "mean direction" in shown


def test_vpfa_moves_low_images_of_the_gallery_too(benchmark_module, suites, tiny_config, mixed_root, tmp_path):
    cells = benchmark_module("cells")
    natural = {"data__root": str(mixed_root), "data__options.folder": {"synthetic": False, "lr_camera": "1"}}
    one_step = {"model__name": "tiny_net", "data__pairs": False, "train__max_epoch": 1, "vpfa__modules": ["mean"]}
    cfg = tiny_config(**natural, **one_step, data__pair_rates=[2.0, 4.0])
    row = suites.Row("tiny_net", "stock", "", [], "tiny_net", [1])
    parts = cells.run_vpfa(row, cfg, tmp_path)["parts"]
    (record,) = parts["mean direction"]["records"]
    queries = parts["mean direction"]["queries"]
    assert queries["mAP"].mean() == pytest.approx(record["mAP"], abs=1e-4)
    assert queries["mAP"].mean() != pytest.approx(parts["before"]["queries"]["mAP"].mean(), abs=1e-3)


def test_a_row_of_ones_own_stands_under_the_suites_protocol(accuracy, suites, fake_cells, tmp_path, capsys):
    own, keep = tmp_path / "own.yaml", tmp_path / "kept.json"
    own.write_text("model: {name: osnet_x0_5}\ndata: {transforms: [random_flip]}\n")
    argv = ["--suite", "synth_person", "--out", str(tmp_path), "--keep", str(keep), "--only", "augmented"]
    assert accuracy.main([*argv, "--seeds", "1", "2", "--row", f"own={own}"]) == 0
    assert sorted(fake_cells) == [("augmented", 1), ("augmented", 2), ("own", 1), ("own", 2)]
    rows = {row["label"]: row for row in json.loads(keep.read_text())["rows"]}
    assert rows["own"]["difference"]["against"] == "augmented" and rows["own"]["kind"] == "given"
    suite = suites.suite_of("synth_person")
    cfg = suites.configured(suites.given_row(suite, f"own={own}"), 3, [])
    assert cfg.data.rates == [4.0, 6.0, 8.0] and cfg.data.height == 128 and cfg.data.sources == ["synth_person"]
    assert cfg.model.name == "osnet_x0_5" and cfg.data.transforms == ["random_flip"] and cfg.train.seed == 3
    own.write_text("data: {rates: [2.0]}\n")
    assert accuracy.main([*argv, "--row", f"own={own}"]) == 2
    assert "has data.rates [2.0], and synth_person is measured with [4.0, 6.0, 8.0]" in capsys.readouterr().err
    for text, told in {  # what is said is meant, also where it is what a configuration has by default
        "data: {height: 256, width: 128}\n": "has data.height 256, and synth_person is measured with 128",
        "stages: {a: {data: {rates: [2.0]}}}\n": "has stages.a.data.rates [2.0], and",
        "data: {validation: 0.2, part: validation}\n": "has data.part validation, and",
    }.items():
        own.write_text(text)
        assert accuracy.main([*argv, "--row", f"own={own}"]) == 2
        assert told in capsys.readouterr().err
    wrong = {"own": "--row is LABEL=CONFIG", "bicubic=x": "has a row of that name", "own=x.yaml": "x.yaml"}
    for text, told in wrong.items():
        assert accuracy.main([*argv, "--row", text]) == 2
        assert told in capsys.readouterr().err


def test_networks_of_an_ensemble_have_seeds_of_their_own(suites):
    suite = suites.suite_of("cuhk03_mini")
    four = stage_configs(suites.configured(suite.rows["ensemble_4"], 2, []))
    two = stage_configs(suites.configured(suite.rows["ensemble_2"], 2, []))
    assert [own.train.seed for own in four.values()][:4] == [201, 202, 203, 204]
    assert [own.train.seed for own in two.values()][:2] == [201, 202]
    assert four["fused"].task == "fuse" and four["fused"].fusion.weights == [1.0] * 4
    assert two["fused"].fusion.branches == ["{n1}", "{n2}"]
    assert suites.start_of(suites.configured(suite.rows["ensemble_2"], 1, [])) == "osnet_x0_25_msmt17.pth"
    assert suites.start_of(suites.configured(suite.rows["asymmetric"], 1, [])) == "osnet_x0_25_msmt17.pth"
    assert suites.start_of(suites.configured(suite.rows["resnet50"], 1, [])) == "random"
    assert suites.start_of(suites.configured(suite.rows["hrnet_reid"], 1, [])) == "random"
    assert suites.start_of(suites.configured(suite.rows["bicubic"], 1, [])) == "osnet_x0_25_msmt17.pth"


def test_users_errors_are_one_line(accuracy, capsys):
    assert accuracy.main(["--suite", "nine"]) == 2
    assert "there is no suite 'nine'; there are: synth_person" in capsys.readouterr().err
    assert accuracy.main(["--suite", "synth_person", "--only", "resnet51"]) == 2
    assert "resnet51; there are: osnet_x0_25" in capsys.readouterr().err
    assert accuracy.main(["--suite", "synth_person", "--list"]) == 0
    assert "bicubic: front end, configs/_base_/small_machine.yaml, against augmented; 3 s" in capsys.readouterr().out
    assert accuracy.main(["--suite", "cuhk03_mini", "--list"]) == 0
    told = capsys.readouterr().out
    assert "augmented: baseline, configs/_base_/small_machine.yaml, against augmented; 5 seeds, " in told
    assert "processor seconds each" in told and "rows were not measured yet" in told


@pytest.mark.parametrize("kept", sorted((BENCHMARKS / "results").glob("accuracy_*.json")), ids=lambda path: path.stem)
def test_the_kept_cells_are_of_the_rows_as_they_are_configured(suites, kept):
    result = json.loads(kept.read_text(encoding="utf-8"))
    rows = suites.suite_of(result["suite"]).rows
    assert result["rows"]
    for row in result["rows"]:
        for cell in row["cells"]:
            now = config_hash(suites.configured(rows[row["label"]], cell["seed"], []))
            assert cell["config_sha256"] == now, f"{row['label']}, seed {cell['seed']}"
