"""The check of expected strangers: whose images are in the archive, who asks, and what is counted."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from torchreid_xres.search.strangers import Level, Strangers


@pytest.fixture
def module(benchmark_module):
    return benchmark_module("strangers")


def test_queries_are_no_part_of_the_archive_and_have_mates_there(module, tmp_path):
    images = tmp_path / "cuhk03_p1" / "images"
    images.mkdir(parents=True)
    for person in range(9):
        for camera, slots in ((1, (1, 2)), (2, (6, 7))):
            for slot in slots:
                (images / f"1_{person:03d}_{camera}_{slot:02d}.jpg").touch()
    split = module.cuhk03(tmp_path, 5)
    people = {split.identity(path.name) for path in split.queries}
    assert len(people) == 5 and len(split.queries) == 10 and len(split.archive) == 10
    assert all(path.stem.endswith(("01", "06")) for path in split.queries)
    assert people == {split.identity(path.name) for path in split.archive}
    assert module.cuhk03(tmp_path, 5).queries == split.queries


def test_as_many_are_counted_as_there_are(module, tmp_path):
    rows = torch.eye(4)
    names = ["a_1.png", "b_1.png", "b_2.png", "c_1.png"]
    PIL.Image.new("RGB", (4, 8)).save(tmp_path / "a_2.png")
    archive = type("Archive", (SimpleNamespace,), {"__len__": lambda self: len(self.names)})
    gallery = archive(names=names, features=rows, about={"metric": "cosine"})
    asks = torch.tensor([[0.9, 0.4, 0.1, 0.1]])
    extractor = SimpleNamespace(
        size=(8, 4), batch_size=2, image=PIL.Image.open, describe=lambda batch: asks,
        prepare=lambda img: SimpleNamespace(size=(img.height, img.width)),
    )  # fmt: skip
    split = module.Split([], [tmp_path / "a_2.png"], lambda name: name.split("_")[0])
    strangers = Strangers([Level(1.0, np.sqrt([0.6]), np.array([1e-6]))], {"images": 4})
    found = module.counted("set", split, gallery, extractor, strangers, 0)
    # Strangers are 0.6 and 0.9 away, the mate 0.1: at 0.6 and a bit one of three is as near, far beyond all are.
    assert [(row["expected"], row["counted"]) for row in found] == [(0.1, 1), (1.0, 1), (10.0, 3)]
    assert module.at(strangers, 1.5, 1.0, 3) == pytest.approx(0.6, abs=1e-4)
    assert module.counted("set", split, gallery, extractor, strangers, 4)[0]["magnification"] == "x4"
