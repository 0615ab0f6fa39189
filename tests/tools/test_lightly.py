"""A query to a gallery that keeps its network is answered without torch, to the same words; the rest is as it was."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from scripts import script
from traced import write_light

from torchreid_xres.inference import Extractor
from torchreid_xres.inference.light import LIGHT
from torchreid_xres.search import Gallery

# Runs a program in which nothing may import torch.
WITHOUT_TORCH = """
import runpy, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("torch", "torchvision", "torchreid"), f"{name} is imported"
sys.meta_path.insert(0, Refused())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def search(repo):
    return script(repo / "tools" / "search.py")


@pytest.fixture(scope="module")
def made(run_of, tiny_root, tmp_path_factory):
    """A gallery that keeps its network."""
    folder = tmp_path_factory.mktemp("light")
    run = run_of("osnet_x0_25", **{"test.dist_metric": "cosine"})
    extractor = Extractor(run, device="cpu", precision="fp32")
    gallery = Gallery(folder / "gallery", extractor)
    gallery.update(shutil.copytree(tiny_root / "gallery", folder / "images"))
    write_light(extractor, gallery.folder)
    return gallery


@pytest.fixture
def gallery(made, tmp_path):
    """A copy of it, which a test may spoil; the images are where they were."""
    return Gallery(shutil.copytree(made.folder, tmp_path / "gallery"))


@pytest.fixture
def without_torch(repo):
    """Run ``xres search`` in a process of its own; returns exit status, standard output and error text."""

    def run(*args):
        command = [sys.executable, "-c", WITHOUT_TORCH, str(repo / "tools" / "search.py"), *map(str, args)]
        env = {**os.environ, "PYTHONPATH": str(repo)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        return done.returncode, done.stdout, done.stderr

    return run


def by_torch(search, capsys, gallery, *args):
    """The same by the whole package, in this process."""
    shutil.move(gallery.folder / LIGHT, gallery.folder / "aside")
    try:
        status = search.main([*map(str, args), "--device", "cpu", "--precision", "fp32"])
    finally:
        shutil.move(gallery.folder / "aside", gallery.folder / LIGHT)
    return status, *capsys.readouterr()


def test_a_query_is_answered_without_torch_to_the_same_words(search, capsys, gallery, without_torch, tmp_path):
    crop, found = tmp_path / "crop.png", tmp_path / "hits.json"
    PIL.Image.open(gallery.images / "010" / "010_c2_1.png").crop((2, 2, 20, 60)).save(crop)
    for more in (("--top", 18, "--camera", 2), ("--box", 1, 1, 9, 20, "--group", "identity")):
        asked = ("query", crop, "--gallery", gallery.folder, "--out", found, *more)
        light, record = without_torch(*asked), found.exists() and json.loads(found.read_text())
        whole, right = by_torch(search, capsys, gallery, *asked), found.exists() and json.loads(found.read_text())
        assert light == whole
        if record:
            scores, others = ([hit.pop("score") for hit in one["hits"]] for one in (record, right))
            assert record == right and scores == pytest.approx(others, abs=1e-5)
    assert light[0] == 0 and "query: 20x9, low resolution" in light[1] and "next: look at" in light[1]


def test_many_and_errors_are_told_in_the_same_words(search, capsys, gallery, without_torch, tmp_path):
    pictures, page = tmp_path / "pictures", tmp_path / "hits.html"
    shutil.copytree(gallery.images / "010", pictures)
    (pictures / "bad.png").write_text("no picture")
    for asked in (
        ("query", pictures, "--gallery", gallery.folder, "--out", page),
        ("query", tmp_path / "gone.png", "--gallery", gallery.folder),
        ("query", pictures / "010_c2_1.png", "--gallery", gallery.folder, "--camera", "7"),
    ):
        assert without_torch(*asked) == by_torch(search, capsys, gallery, *asked)
    assert page.read_text().count("<img") > 3


@pytest.mark.parametrize(
    "more", [("--accept", "0.01"), ("--run", "elsewhere"), ("--device", "cuda"), ("--precision", "bf16")], ids=str
)
def test_what_needs_the_network_or_its_run_is_left_to_torch(search, gallery, tmp_path, more):
    args = search.parse(["query", "crop.png", "--gallery", str(gallery.folder), *more])
    assert sys.modules["search_query"].light_query(args, "") is None


def test_no_other_command_or_gallery_is_answered(search, gallery, tmp_path):
    light_query = sys.modules["search_query"].light_query
    for asked in (["adapt", "--gallery", str(gallery.folder)], ["query", "a.png", "--gallery", "milvus:a.db"]):
        assert light_query(search.parse(asked), "") is None
    query = search.parse(["query", "a.png", "--gallery", str(gallery.folder)])
    config = gallery.folder / "config.yaml"
    config.write_text(config.read_text() + "\n# changed")
    assert light_query(query, "") is None
    assert light_query(argparse.Namespace(**vars(query) | {"gallery": Path(tmp_path / "none")}), "") is None


def test_after_a_query_without_torch_the_package_registers_itself(gallery, repo):
    code = f"""
import sys
sys.path[:0] = [{str(repo)!r}, {str(repo / "tools")!r}]
import search
picture = {str(gallery.images / "010" / "010_c2_1.png")!r}
assert search.main(["query", picture, "--gallery", {str(gallery.folder)!r}]) == 0
assert "torch" not in sys.modules
import torchreid_xres
from torchreid_xres.inference import Extractor
import torchreid
assert torchreid.models.build_model("sr_reid", num_classes=2, pretrained=False) is not None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
