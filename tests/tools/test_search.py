"""tools/search.py as a user calls it: build, query, add, and what it says when something is wrong."""

import io
import json
import shutil
import sys

import PIL.Image
import pytest
import torch
from adapted import with_threshold
from archive import box_of, street
from tiny_jobs import untrained_run

from torchreid_xres import checkpoint
from torchreid_xres.config import config_text, load_config
from torchreid_xres.data.io import read_image
from torchreid_xres.engine.base import LAST
from torchreid_xres.inference import published
from torchreid_xres.inference.network import host_config
from torchreid_xres.inference.query_encoder import ABOUT, FOLDER, TRAINING
from torchreid_xres.models import build_model
from torchreid_xres.search import Gallery
from torchreid_xres.search.acceptance import Acceptance

TINY = ["data.height", "32", "data.width", "16", "sr.name", "vdsr", "sr.options", "{depth: 3, features: 4}",
        "test.dist_metric", "cosine", "model.name", "sr_reid"]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return untrained_run(load_config(None, TINY), tmp_path_factory.mktemp("run"))


@pytest.fixture
def images(tiny_root, tmp_path):
    return shutil.copytree(tiny_root / "gallery", tmp_path / "images")


def test_build_query_add_query(run_tool, run_folder, images, tmp_path):
    place = tmp_path / "gallery"
    (images / "notes.txt").touch()
    (images / "bad.png").write_text("no picture")
    status, out, err = run_tool("build", run_folder, images, "--gallery", place)
    assert status == 0 and "18 images by sr_reid (vdsr); 18 new, 0 changed, 0 gone, 1 that cannot be used" in out
    assert f"{images}: 19 images; left out: 1 other files, e.g. notes.txt" in err
    assert "left out: bad.png: cannot be read as an image" in err

    known = images / "010" / "010_c2_1.png"
    found, sheet = tmp_path / "found.json", tmp_path / "sheet.png"
    status, out, _ = run_tool("query", known, "--gallery", place, "--top", 3, "--out", found, "--out", sheet)
    record = json.loads(found.read_text())
    assert status == 0 and "query: 64x32, full resolution for 32x16" in out and "| 010/010_c2_1.png" in out
    assert record["query"] == {"file": str(known), "box": None, "size": [64, 32], "rate": 0.5, "low": False}
    assert [hit["rank"] for hit in record["hits"]] == [1, 2, 3]
    assert record["hits"][0]["file"] == str(known) and record["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert record["metric"] == "cosine" and record["images"] == 18
    assert PIL.Image.open(sheet).width > 3 * 96

    read_image(known).resize((8, 16)).save(images / "small.png")
    status, out, _ = run_tool("build", run_folder, images, "--gallery", place)
    assert status == 0 and "19 images by sr_reid (vdsr); 1 new, 0 changed, 0 gone" in out
    low = tmp_path / "low.png"
    status, out, _ = run_tool("query", images / "small.png", "--gallery", place, "--out", low)
    assert status == 0 and "query: 16x8, low resolution, 2.0 times smaller than 32x16" in out
    assert "small.png" in out.splitlines()[3]


def test_pictures_that_are_gone_or_damaged_are_told_and_the_hits_stand(run_tool, run_folder, images, tmp_path):
    place, page, query = tmp_path / "gallery", tmp_path / "hits.html", tmp_path / "query.png"
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    shutil.copy(images / "010" / "010_c2_1.png", query)
    (images / "010" / "010_c2_1.png").unlink()
    for path in images.glob("011/*.png"):
        path.write_bytes(path.read_bytes()[:40])
    status, out, _ = run_tool("query", query, "--gallery", place, "--top", 18, "--out", page)
    assert status == 0 and "| 010/010_c2_1.png" in out
    gone = images / "010" / "010_c2_1.png"
    assert f"1 of 18 pictures found are no longer where they were, e.g. {gone}" in out
    assert page.read_text().count(">gone<") == 1 + 3
    status, out, _ = run_tool("query", query, "--gallery", place)
    assert status == 0 and "no longer where they were" in out


def test_hits_near_enough_are_marked(run_tool, tool, run_folder, images, tmp_path, monkeypatch):
    place, known, found = tmp_path / "gallery", images / "010" / "010_c2_1.png", tmp_path / "found.json"
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    query = ("query", known, "--gallery", place, "--top", 18, "--out", found)
    status, _, err = run_tool(*query, "--accept", 0.01)
    assert status == 2 and "no run was evaluated there" in err and not found.exists()
    assert run_tool(*query, "--dataset", "folder")[0] == 2
    run_tool(*query)
    scores = [hit["score"] for hit in json.loads(found.read_text())["hits"]]
    limit = Acceptance(0.01, 80.0, 1 - scores[4], scores[4], "folder")
    monkeypatch.setattr("torchreid_xres.search.acceptance.acceptance", lambda gallery, fpr, weights, dataset: limit)
    status, out, _ = run_tool(*query, "--accept", 0.01, "--out", tmp_path / "sheet.png")
    record = json.loads(found.read_text())
    assert status == 0 and "accepted: 5 of 18" in out and "80.0 % of the pairs of one identity and at most 1 %" in out
    assert [hit["accepted"] for hit in record["hits"]] == [True] * 5 + [False] * 13
    assert [line.split("|")[4].strip() for line in out.splitlines()[3:21]] == ["yes"] * 5 + ["no"] * 13
    assert record["accept"]["distance"] == limit.distance and record["accept"]["dataset"] == "folder"
    colours = PIL.Image.open(tmp_path / "sheet.png").convert("RGB").getcolors(1 << 20)
    assert (0, 128, 0) in {colour for _, colour in colours}


@pytest.mark.slow
def test_an_adapted_gallery_answers_low_queries_by_itself(run_tool, tool, run_folder, images, tmp_path, capsys):
    query_encoder = sys.modules["search_query"].query_encoder
    place, found, low = tmp_path / "gallery", tmp_path / "found.json", tmp_path / "low.png"
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    low_image = read_image(images / "010" / "010_c2_1.png").resize((6, 12))
    low_image.save(low)
    (place / FOLDER).mkdir()  # as one that was refused leaves it
    assert query_encoder(Gallery(place)) is None and not capsys.readouterr().err
    (place / FOLDER / TRAINING).touch()
    assert query_encoder(Gallery(place)) is None and "not finished; xres search adapt" in capsys.readouterr().err
    status, out, err = run_tool("adapt", "--gallery", place, "--steps", 1)
    assert status == 0 and "18 images are few to learn from: below 200" in err
    assert "| enlarged " in out and "| 1 times " in out and f"next: xres search query PICTURE --gallery {place}" in out
    with_threshold(place / FOLDER, 2.0)
    sharp, how = images / "010" / "010_c2_1.png", ("--gallery", place, "--top", 3, "--out", found)
    records = []
    for more in ((), ("--no-adapt",)):
        status, out, _ = run_tool("query", sharp, *how, *more)
        records.append(json.loads(found.read_text()))
        assert status == 0 and ("answered by" in out) == ("query_encoder" in records[-1]) == (not more)
    assert records[0]["hits"] == records[1]["hits"]
    status, out, err = run_tool("query", low, sharp, *how)
    record = json.loads(found.read_text())
    first, second = (line for line in out.splitlines() if line.startswith("query: "))
    assert status == 0 and not err and first.endswith("; enlarged 2.7 times, answered by the query encoder")
    assert second.endswith("full resolution for 32x16; enlarged 0.5 times, answered by the gallery encoder")
    assert [one["query"]["encoder"] for one in record["queries"]] == ["query", "gallery"]
    assert record["queries"][0]["query"]["magnification"] == pytest.approx(32 / 12)
    assert record["query_encoder"]["threshold"] == 2

    for file in (images / "008", images / "009"):
        shutil.rmtree(file)
    for number in range(4):
        low_image.save(images / f"{number}.png")
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    status, out, err = run_tool("query", low, *how)
    assert status == 0 and "answered by the query encoder" in out
    assert "25 % of the gallery's images came or changed since it was adapted" in err
    about = json.loads((place / FOLDER / ABOUT).read_text())
    for change, told in (
        ({"gallery_sha256": "0" * 64}, "with the weights 000000000000, and these are"),
        ({"weights_sha256": "0" * 64}, "was not finished"),
    ):
        (place / FOLDER / ABOUT).write_text(json.dumps(about | change))
        status, out, err = run_tool("query", low, *how)
        assert status == 0 and told in err and err.startswith("without query encoder: ") and "answered by" not in out


def test_many_queries_are_answered_as_one_by_one(run_tool, tool, run_folder, images, tmp_path, monkeypatch):
    place, found, asked = tmp_path / "gallery", tmp_path / "found.json", tmp_path / "asked"
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    shutil.copytree(images / "009", asked / "deep")
    (asked / "._b.png").touch()
    (asked / "b.png").write_text("no picture")
    alone = images / "008" / "008_c2_0.png"
    how = ("--gallery", place, "--top", 3, "--out", found)
    files = [alone, *sorted((asked / "deep").iterdir())]
    singles = []
    for file in files:
        assert run_tool("query", file, *how)[0] == 0
        singles.append(json.loads(found.read_text()))
    make = Gallery.make_extractor  # two batches of the five pictures
    monkeypatch.setattr(Gallery, "make_extractor", lambda *args, **kwargs: make(*args, **kwargs, batch_size=3))
    status, out, err = run_tool("query", alone, asked, *how, "--out", tmp_path / "sheets" / "hits.png")
    record = json.loads(found.read_text())
    told, left_out = err.splitlines()
    assert status == 0 and left_out.startswith("left out: ") and "b.png: cannot be read" in left_out
    assert told == f"{asked}: {len(files)} images; left out: 1 hidden, e.g. ._b.png"
    assert [line for line in out.splitlines() if line.startswith("query: ")] == [
        f"query: {file}, 64x32, full resolution for 32x16" for file in files
    ]
    assert set(record) == set(singles[0]) - {"query", "hits"} | {"queries"}
    for one, single in zip(record["queries"], singles, strict=True):
        assert one["query"] == single["query"]
        assert [hit["file"] for hit in one["hits"]] == [hit["file"] for hit in single["hits"]]
        scores = [hit["score"] for hit in single["hits"]]
        assert [hit["score"] for hit in one["hits"]] == pytest.approx(scores, abs=1e-5)
    drawn = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert drawn == ["hits_1.png", "hits_3.png", "hits_4.png", "hits_5.png"]  # the second could not be read

    for argv, message in (
        ((alone, asked, "--box", 0, 0, 8, 8), "--box is a part of one picture"),
        ((asked / "b.png", tmp_path / "no.png"), "none of the 2 pictures can be read"),
        ((alone, place), "no images in"),
    ):
        status, out, err = run_tool("query", *argv, "--gallery", place)
        assert status == 2 and message in err and not out, argv


def test_a_box_of_a_scene(run_tool, run_folder, images, tmp_path):
    place, scene = tmp_path / "gallery", PIL.Image.new("RGB", (300, 200), "white")
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    scene.paste(read_image(images / "009" / "009_c2_0.png"), (120, 70))
    scene.save(tmp_path / "scene.png")
    query = ("query", tmp_path / "scene.png", "--gallery", place)
    status, out, _ = run_tool(*query, "--box", 120, 70, 32, 64)
    assert status == 0 and "009/009_c2_0.png" in out.splitlines()[3] and "query: 64x32" in out
    status, out, err = run_tool(*query, "--box", 290, -10, 20, 30)
    assert status == 2 and "reaches out of the picture" in err and "inside of it is 290 0 10 20" in err and not out
    status, _, err = run_tool(*query, "--box", 300, 70, 32, 64)
    assert status == 2 and "lies outside of the picture, which is 300 wide and 200 high" in err


def test_a_checkpoint_of_torchreid(run_tool, images, tmp_path):
    weights = tmp_path / "osnet.pth"
    checkpoint.save_atomic(build_model("osnet_x0_25", 5, pretrained=False).state_dict(), weights)
    place = tmp_path / "gallery"
    how = ("--model", "osnet_x0_25", "--size", 32, 16, "--full-size", 64, 32)
    status, out, _ = run_tool("build", weights, images, "--gallery", place, *how)
    assert status == 0 and "18 images by osnet_x0_25" in out
    status, out, _ = run_tool("query", images / "008" / "008_c2_0.png", "--gallery", place)
    assert status == 0 and "008/008_c2_0.png" in out.splitlines()[3] and "full resolution for 64x32" in out
    assert run_tool("build", weights, images, "--gallery", place, "--size", 32, 16)[0] == 2


def test_two_commands_with_weights_by_their_name(run_tool, images, tmp_path, monkeypatch):
    place, weights = tmp_path / "gallery", tmp_path / "weights" / "osnet_x0_25_msmt17.pth"
    picture = images / "008" / "008_c2_0.png"
    weights.parent.mkdir()
    checkpoint.save_atomic(build_model("osnet_x0_25", 5, pretrained=False).state_dict(), weights)
    asked = []

    def fetched(name, folder=""):
        asked.append((name, str(folder)))
        return published.Published(weights, host_config("osnet_x0_25", (256, 128)))

    monkeypatch.setattr("torchreid_xres.inference.published.fetch_network", fetched)
    how = ("--gallery", place, "--size", 32, 16, "--weights", weights.parent)
    status, out, err = run_tool("build", images, *how, "--model", "osnet_x0_25_msmt17")
    assert status == 0 and "18 images by osnet_x0_25; 18 new" in out and not err
    assert asked == [("osnet_x0_25_msmt17", str(weights.parent))]
    status, out, _ = run_tool("query", picture, "--gallery", place, "--camera", 2, "--group", "identity")
    assert status == 0 and "008/008_c2_0.png" in out
    assert "searched: 18 of 18 images; camera by the name, identity by the name" in out
    status, out, _ = run_tool("build", images, "--gallery", place)  # the gallery knows its model
    assert status == 0 and "0 new, 0 changed" in out and len(asked) == 1
    assert run_tool("build", images, *how)[0] == 2  # and its size
    weights.rename(tmp_path / "gone.pth")
    status, _, err = run_tool("query", picture, "--gallery", place)
    assert status == 2 and "say where it is now (--run; to build before the images), or build the gallery again" in err
    run_tool("build", images, "--gallery", place)
    assert asked[1:] == [("osnet_x0_25_msmt17", str(weights.parent))]
    run_tool("build", images, "--gallery", tmp_path / "other")
    assert asked[2:] == [("osnet_x0_25_msmt17", "")]
    assert run_tool("build", images, "--gallery", place, "--config-file", "a.yaml")[0] == 2


def test_a_fetched_network_measures_its_statistics_anew(run_tool, run_folder, images, tmp_path, monkeypatch):
    monkeypatch.setattr("torchreid_xres.search.own_network.LEAST", 10)
    weights, config = tmp_path / "osnet_x0_25_msmt17.pth", host_config("osnet_x0_25", (32, 16))
    checkpoint.save_atomic(build_model("osnet_x0_25", 5, pretrained=False).state_dict(), weights)
    monkeypatch.setattr(
        "torchreid_xres.inference.published.fetch_network", lambda *_: published.Published(weights, config.clone())
    )
    place, named = tmp_path / "gallery", ("--model", "osnet_x0_25_msmt17")
    status, out, _ = run_tool("build", images, "--gallery", place, *named)
    assert status == 0 and "its batch statistics are those of these images" in out
    status, out, _ = run_tool("build", images, "--gallery", place, *named)  # the same network is named again
    assert status == 0 and "0 new, 0 changed" in out and "statistics" not in out
    status, _, err = run_tool("build", images, "--gallery", place, *named, "--full-size", 64, 32)
    assert status == 2 and "with these weights but other settings: full_size is None there, [64, 32] here" in err
    assert run_tool("query", images / "008" / "008_c2_0.png", "--gallery", place)[0] == 0
    monkeypatch.setattr("torchreid_xres.search.own_network.LEAST", 200)
    _, out, _ = run_tool("build", images, "--gallery", tmp_path / "few", *named)
    assert "the network is as it came: of fewer than 200 images no batch statistics are measured" in out
    monkeypatch.setattr("torchreid_xres.search.own_network.LEAST", 10)
    status, out, _ = run_tool("build", images, "--gallery", tmp_path / "plain", *named, "--no-own-statistics")
    assert status == 0 and "statistics" not in out
    features = [Gallery(folder).features for folder in (place, tmp_path / "plain")]
    assert not torch.allclose(*features, rtol=1e-1)
    # A run of one's own stays as it is, unless it is asked for.
    assert "statistics" not in run_tool("build", run_folder, images, "--gallery", tmp_path / "run")[1]
    _, out, _ = run_tool("build", run_folder, images, "--gallery", tmp_path / "own", "--own-statistics")
    assert "its batch statistics are those of these images" in out
    _, out, _ = run_tool("build", run_folder, images, "--gallery", tmp_path / "run", "--own-statistics")
    assert "the network is as it came: --own-statistics is for a new gallery, of at least 200 images" in out


def test_boxes_of_frames(run_tool, run_folder, tmp_path):
    frames, place, found = street(tmp_path / "frames"), tmp_path / "gallery", tmp_path / "found.json"
    boxes = tmp_path / "det.csv"
    lines = [f"00000{n}.png,{','.join(map(str, box_of(p, n)))},{p},{n}.5,{p}" for n in range(1, 6) for p in (1, 2)]
    header = "path,left,top,width,height,camera,time,identity"
    boxes.write_text("\n".join([header, *lines, "9.png,1,1,5,5,,,", "000001.png,1,1,500,5,,,"]))
    status, out, err = run_tool("build", run_folder, frames, "--boxes", boxes, "--gallery", place)
    assert status == 0 and "10 boxes by sr_reid (vdsr); 10 new" in out and "1 boxes that cannot be used" in out
    assert f"left out of {boxes}: line 12: there is no frame 9.png" in err
    assert "left out: 000001.png#1,1,500,5: the box 1 1 500 5 (x, y, width, height) reaches out" in err
    x, y, w, h = box_of(2, 4)
    query = ("query", frames / "000004.png", "--box", x, y, w, h, "--gallery", place, "--out", found)
    status, out, _ = run_tool(*query, "--out", tmp_path / "sheet.png")
    hit = json.loads(found.read_text())["hits"][0]
    assert status == 0 and hit["frame"] == "000004.png" and hit["box"] == [x, y, w, h] and hit["score"] > 0.999
    assert (hit["camera"], hit["time"], hit["identity"], hit["file"]) == ("2", "4.5", "2", str(frames / "000004.png"))
    assert [part.strip() for part in out.splitlines()[3].split("|")[3:6]] == ["2", "4.5", f"000004.png#{x},{y},{w},{h}"]
    status, out, _ = run_tool(*query, "--not-camera", 1, "--after", 2, "--before", 3.5)
    record = json.loads(found.read_text())
    assert status == 0 and {hit["time"] for hit in record["hits"]} == {"2.5", "3.5"} and record["searched"] == 2
    status, _, err = run_tool(*query, "--after", "2024-01-01")
    assert status == 2 and "times of images here are seconds" in err
    status, _, err = run_tool("query", frames / "000004.png", "--gallery", place)
    assert status == 0 and "note: it looks like a whole scene (240x160" in err


def test_a_network_of_drawn_images_says_so(run_tool, run_folder, images, tmp_path):
    drawn = shutil.copytree(run_folder, tmp_path / "run")
    config = drawn / "config.yaml"
    cfg = load_config(config, ["data.sources", ["synth_person"]])
    config.write_text(config_text(cfg))
    place, told = tmp_path / "gallery", "has learned from drawn images alone (synth_person): expect little of it"
    for argv in (("build", drawn, images), ("query", images / "008" / "008_c2_0.png")):
        status, _, err = run_tool(*argv, "--gallery", place)
        assert status == 0 and told in err, argv


def test_it_says_what_is_wrong_and_leaves_nothing(run_tool, run_folder, images, tmp_path):
    empty, place, cut = tmp_path / "empty", tmp_path / "gallery", tmp_path / "cut.png"
    empty.mkdir()
    whole = (images / "008" / "008_c2_0.png").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for argv, message in (
        (("build", run_folder, tmp_path / "nowhere"), "there is no folder"),
        (("build", run_folder, empty), "is empty"),
        (("build", empty, images), "is no folder of a run"),
        (("build", tmp_path / "nowhere", images), "there is no run or checkpoint"),
        (("build", run_folder / LAST, images, "--model", "osnet_x0_25"), "does not fit OSNet"),
        (("build", run_folder, images, "--device", "tpu"), "the device 'tpu' cannot be used"),
        (("query", images / "008" / "008_c2_0.png"), "build one first"),
    ):
        status, out, err = run_tool(*argv, "--gallery", place)
        assert status == 2 and message in err and len(err.strip().splitlines()) == 1 and not out, argv
    assert not place.exists()
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    run_json = place / "hits.json"
    run_json.touch()
    for argv, message in (
        ((cut,), "cut.png: cannot be read as an image: image file is truncated"),
        ((tmp_path / "no.jpg",), "no.jpg: there is no such image file"),
        ((images / "008" / "008_c2_0.png", "--top", 0), "top is 0"),
        ((images / "008" / "008_c2_0.png", "--out", "a.txt"), "hits end in .html, .csv, .json"),
        ((cut, "--json", "a.json"), "--json is now --out, and the file's ending says what it holds: --out hits.json"),
        ((cut, "--sheet", "a.jpg"), "--out hits.jpg"),
        ((cut, "--out", run_json), "is there already and lies in"),
        ((cut, "--out", cut), "cut.png is there already and is read"),
        ((cut, "--out", images / "009" / "009_c2_0.png"), "is there already and lies in"),
        ((images / "008" / "008_c2_0.png", "--run", empty), "there is no run or checkpoint"),
    ):
        status, out, err = run_tool("query", *argv, "--gallery", place)
        assert status == 2 and message in err and not out, argv


def test_a_folder_of_damaged_files_only_is_no_success(run_tool, run_folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.jpg"):
        (broken / name).write_text("no picture")
    for _ in range(2):  # the second time it is known already
        status, out, err = run_tool("build", run_folder, broken, "--gallery", tmp_path / "gallery")
        assert status == 2 and not out
        assert f"none of the images in {broken} can be used; the first is a.png: cannot be read" in err
    PIL.Image.new("RGB", (16, 32)).save(broken / "c.png")
    status, out, _ = run_tool("build", run_folder, broken, "--gallery", tmp_path / "gallery")
    assert status == 0 and "1 images by" in out and "2 that cannot be used" in out


def test_a_folder_that_cannot_be_read_costs_no_image(run_tool, run_folder, images, tmp_path):
    place = tmp_path / "gallery"
    (images / "010").rename(tmp_path / "disk")
    (images / "010").symlink_to(tmp_path / "disk")
    assert run_tool("build", run_folder, images, "--gallery", place)[0] == 0
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    status, out, err = run_tool("build", run_folder, images, "--gallery", place)
    assert status == 0 and "18 images" in out and "0 gone" in out and "3 kept that could not be looked for" in out
    assert "cannot look at 010 (the link leads nowhere)" in err


def test_unusual_names_on_a_terminal_that_lacks_their_letters(tool, run_folder, images, tmp_path, monkeypatch):
    place, found, odd = tmp_path / "gallery", tmp_path / "found.json", images / "a\x1b[2J|写.png"
    shutil.copy(images / "008" / "008_c2_0.png", odd)
    (images / "bad\x1b[2J\n.png").write_text("no picture")
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert tool.main([*map(str, ("build", run_folder, images, "--gallery", place))]) == 0
    asked = ("query", odd, images / "009", "--gallery", place, "--out", found, "--top", "1")
    assert tool.main([*map(str, (*asked, "--out", tmp_path / "sheet.png"))]) == 0
    monkeypatch.undo()
    for stream in streams.values():
        stream.flush()
    out, err = (stream.buffer.getvalue().decode("cp1252") for stream in streams.values())
    assert r"left out: bad\x1b[2J\n.png: cannot be read" in err and "\x1b" not in out + err
    assert rf"query: {images}/a\x1b[2J|\u5199.png, 64x32" in out
    assert r"| a\x1b[2J\|\u5199.png |" in out or r"| 008/008_c2_0.png" in out  # the same picture twice
    assert json.loads(found.read_text())["queries"][0]["query"]["file"] == str(odd)


def test_what_was_found_is_written_before_a_word_is_said(tool, run_folder, images, tmp_path, monkeypatch):
    place, found = tmp_path / "gallery", tmp_path / "found.json"
    assert tool.main([*map(str, ("build", run_folder, images, "--gallery", place))]) == 0

    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Broken())
    assert tool.main([*map(str, ("query", images / "009", "--gallery", place, "--out", found))]) == 2
    assert len(json.loads(found.read_text())["queries"]) == 3


def test_a_stop_says_how_to_go_on(run_tool, tool, run_folder, images, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Gallery, "update", stop)
    status, _, err = run_tool("build", run_folder, images, "--gallery", tmp_path / "gallery")
    assert status == 130 and "goes on from here" in err
