import json
import shutil

import PIL.Image
import pytest
import torch
from tiny_jobs import TINY, configured, untrained_run

from torchreid_xres.features.features import FeatureSet
from torchreid_xres.jobs.extraction import engine_features, trained_engine
from torchreid_xres.pictures.restored import restorations
from torchreid_xres.pictures.seen import trained_model
from torchreid_xres.pictures.sheet import GAP

METHODS = {
    "sr_reid": {},
    "msifla": {"data.pairs": False, "model.options": {"widths": [4, 8]}, "sr.name": "bicubic", "sr.options": {}},
    "kgnet": {
        "data.height": 64, "data.width": 64, "data.pair_rates": [2.0, 4.0], "sr.name": "omni_sr", "sr.scale": 4,
        "sr.options": {"features": 8, "groups": 1, "blocks": 1},
        "model.options": {
            "hourglass": {"stacks": 1, "depth": 2, "width": 8}, "kgr_blocks": 1, "hourglass_weights": "nor there",
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, tiny_root):
    """Return a function: a method's name to the folder of a run that is done, of random weights."""
    folders = {}

    def make(name):
        if name not in folders:
            start = {"model.reid": "osnet_x0_25", "model.reid_weights": "no longer there"}
            keys = TINY | METHODS[name] | start | {"model.name": name}
            folder = tmp_path_factory.mktemp(name)
            folders[name] = untrained_run(configured(keys, tiny_root, folder, {}), folder)
        return folders[name]

    return make


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_ranks(tool, run_of, tmp_path, capsys):
    out = tmp_path / "ranks.png"
    argv = ["ranks", str(run_of("sr_reid")), "--count", "3", "--top", "4", "--height", "64", "--out", str(out)]
    assert tool.main([*argv, "--worst"]) == 0
    worst = rows_of(capsys.readouterr().out)
    assert len(worst) == 3 and [float(row[3]) for row in worst] == sorted(float(row[3]) for row in worst)
    picture = PIL.Image.open(out)
    columns, rows = 2 + 4, 3  # query, restored, four of the gallery
    assert (picture.width - GAP) % columns == 0 and (picture.height - GAP) % rows == 0
    assert tool.main([*argv, "--best", "--dataset", "folder"]) == 0
    best = rows_of(capsys.readouterr().out)
    assert float(best[0][3]) >= float(worst[-1][3])
    assert best[0][0] != worst[0][0] or len({row[3] for row in best + worst}) == 1  # all alike on this processor


def test_features_of_another_data_set_are_extracted_anew(run_of, tiny_root):
    folder = run_of("sr_reid")
    run, engine = trained_engine(folder)
    found = engine_features(run, engine, ("query",))["query"]
    path = folder / "features" / "query.npz"
    kept = FeatureSet.load(path)
    for changed in ({"dataset": "another"}, {"manifest_sha256": "of other images"}):
        other = FeatureSet(**{**vars(kept), **changed, "features": torch.zeros_like(kept.features)})
        other.save(path)
        again = engine_features(*trained_engine(folder, "folder", tiny_root), ("query",))["query"]
        assert again.dataset == "folder" and torch.equal(again.features, found.features)


def test_restored(tool, run_of, tiny_root, tmp_path, capsys):
    out = tmp_path / "restored.png"
    argv = ["restored", str(run_of("sr_reid")), str(tiny_root / "gallery"), "--count", "2", "--rates", "4", "2"]
    assert tool.main([*argv, "--out", str(out), "--height", "48"]) == 0
    rows = rows_of(capsys.readouterr().out)
    trained = trained_model(run_of("sr_reid"))
    paths = sorted((tiny_root / "gallery").rglob("*.png"))
    quality = [restorations(trained, PIL.Image.open(path), (4, 2)).quality() for path in (paths[0], paths[9])]
    found = torch.tensor([[float(figure) for figure in row[1:]] for row in rows])
    # PSNR of the enlarged and the restored image, then SSIM of both.
    torch.testing.assert_close(found, torch.stack(quality).mean(0).mT.flatten(1).float(), atol=0.006, rtol=0)
    assert [row[0] for row in rows] == ["x4", "x2"]
    assert (PIL.Image.open(out).width - GAP) % 5 == 0


def test_activations(tool, run_of, tiny_root, tmp_path, capsys):
    out = tmp_path / "activations.jpg"
    argv = ["activations", str(run_of("sr_reid")), str(tiny_root / "gallery"), "--count", "3", "--out", str(out)]
    assert tool.main(argv) == 0
    # 18 images of 6 identities: every sixth is another one.
    names = [line.rsplit("/", 1)[1][:3] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert names == ["008", "010", "012"] and PIL.Image.open(out).format == "JPEG"


def test_embedding(tool, run_of, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    out = tmp_path / "embedding.svg"
    argv = ["embedding", str(run_of("sr_reid")), "--identities", "4", "--perplexity", "5", "--out", str(out)]
    assert tool.main(argv) == 0
    assert capsys.readouterr().out == f"24 images of 4 identities, sr_reid (vdsr) on folder\nnext: look at {out}\n"
    assert out.read_text(encoding="utf-8").startswith("<?xml")


def test_curves(tool, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = []
    for seed in (1, 3):
        figures = {"1": {"rank1": 60.0 + seed, "mAP": 50.0}, "2": {"rank1": 40.0, "mAP": 30.0}}
        record = {"dataset": "folder", "model": "net", "rank1": 1.0, "curve": figures, "by_rate": {}}
        record["by_rate"]["2"] = {**figures["2"], "queries": 4}
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps(record))
    out = tmp_path / "curves.pdf"
    argv = ["curves", *map(str, files), f"other={files[0]}", "--out", str(out)]
    assert tool.main(argv) == 0
    assert rows_of(capsys.readouterr().out)[0] == ["folder", "net", "2", "rank-1", "62.0 ± 1.4", "40.0 ± 0.0"]
    assert out.read_bytes().startswith(b"%PDF")
    assert tool.main([*argv, "--queries", "drawn"]) == 0
    assert rows_of(capsys.readouterr().out)[-1] == ["folder", "other", "1", "mAP", "30.0"]
    assert tool.main([*argv, "--against", "magnification"]) == 2
    assert "holds no magnification by rate; it was made before it was kept" in capsys.readouterr().err


def test_scales(tool, run_of, tiny_root, tmp_path, capsys):
    out = tmp_path / "scales.png"
    argv = ["scales", str(run_of("msifla")), str(tiny_root / "gallery"), "--out", str(out), "--count", "2"]
    assert tool.main(argv) == 0
    shown = capsys.readouterr().out
    assert "scale 1/3" in shown and "x4" in shown
    assert PIL.Image.open(out).size == (2 * (48 + 4 * 20 + 4), 16 + 5 * 36 + 4)


def test_what_is_beside_the_images_is_told(tool, run_of, tiny_root, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(tiny_root / "gallery" / "008", folder / "x.jpg")
    files = sorted((folder / "x.jpg").iterdir())
    shutil.copy(files[0], folder / "a.PNG")
    (folder / "._a.PNG").write_bytes(b"resource fork")
    (folder / "@eaDir").mkdir()
    argv = ["activations", str(run_of("sr_reid")), str(folder), "--out", str(tmp_path / "a.png"), "--count", "9"]
    assert tool.main(argv) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[:-1] == [str(path) for path in (folder / "a.PNG", *files)]
    assert f"{folder}: {1 + len(files)} images; left out: 1 hidden, e.g. ._a.PNG; 1 of a system" in shown.err


def test_guidance(tool, run_of, tiny_root, tmp_path, capsys):
    out = tmp_path / "guidance.png"
    argv = ["guidance", str(run_of("kgnet")), str(tiny_root / "gallery"), "--out", str(out), "--count", "3"]
    assert tool.main(argv) == 0
    assert [row[0][:3] for row in rows_of(capsys.readouterr().out)] == ["008", "010", "012"]
    assert PIL.Image.open(out).size == (13 * 68 + 4, 16 + 3 * 68 + 4)


def test_a_picture_that_is_read_is_not_drawn_over(tool, tmp_path, capsys):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    for images in (tmp_path, tmp_path / "a.png"):
        assert tool.main(["restored", "no run", str(images), "--out", str(tmp_path / "a.png")]) == 2
        assert "a.png is there already" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before


def test_it_says_what_it_lacks(tool, run_of, tiny_root, tmp_path, capsys):
    run, empty, broken = run_of("sr_reid"), tmp_path / "empty", tmp_path / "broken.png"
    empty.mkdir()
    broken.write_bytes(b"no picture")
    for argv, message in (
        (("scales", run, tiny_root), "is a run of sr_reid"),
        (("guidance", run_of("msifla"), tiny_root), "is a run of msifla"),
        (("restored", run, empty), "no images"),
        (("restored", run, broken), "broken.png: cannot be read"),
        (("restored", run, tiny_root, "--rates", "0.5"), "at least 1"),
        (("restored", run, tiny_root, "--count", "0"), "--count is 0"),
        (("activations", empty, tiny_root), "is no folder of a run"),
        (("ranks", run, "--top", "0"), "--top 0 must be at least 1"),
        (("ranks", run, "--root", empty), "without the folder train"),
        (("curves", empty / "gone.json"), "gone.json"),
    ):
        out = tmp_path / "never.png"
        assert tool.main([*map(str, argv), "--out", str(out)]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in said and not out.exists(), argv
