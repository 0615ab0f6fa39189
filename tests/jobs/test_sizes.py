"""Every registered network at sizes that few were made for: it trains and evaluates, or ends in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import script

from torchreid_xres import host
from torchreid_xres.models import MODELS

SIZES = [(64, 32), (100, 50), (33, 17)]
ZOO = sorted(set(host.model_factory()) - set(MODELS))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two identities each to train on and to test with, two cameras, a picture each."""
    root = tmp_path_factory.mktemp("few")
    generator = np.random.default_rng(0)
    for identity in range(1, 5):
        for camera, part in enumerate(("train", "train") if identity < 3 else ("query", "gallery"), 1):
            path = root / part / str(identity) / f"{identity}_c{camera}_0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (48, 24, 3)).astype(np.uint8)).save(path)
    return root


def ends(capsys, root, tmp_path, name, height, width, *more):
    train = script(Path(__file__).parents[2] / "tools" / "train.py")
    keys = {
        "model.name": name, "model.pretrained": False, "data.height": height, "data.width": width, "data.workers": 0,
        "data.transforms": "[]", "data.save_dir": tmp_path / "log", "data.options": "{folder: {synthetic: true}}",
        "train.max_epoch": 1, "train.batch_size": 4, "train.epoch_batches": 1, "train.precision": "fp32",
        "use_gpu": False,
    }  # fmt: skip
    pairs = [str(part) for pair in keys.items() for part in pair]
    status = train.main(["--root", str(root), "-s", "folder", "-t", "folder", *pairs, *more])
    said = [line for line in capsys.readouterr().err.splitlines() if "Error" in line or "Traceback" in line]
    assert (status, len(said)) in ((0, 0), (2, 1)) and "Traceback" not in "".join(said), said
    return status, "".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ZOO)
def test_torchreids_networks(capsys, root, tmp_path, name, size):
    status, said = ends(capsys, root, tmp_path, name, *size)
    assert status == 0 or f"data.height {size[0]} and data.width {size[1]} do not fit {name}: " in said


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_our_networks(capsys, root, tmp_path, name, size):
    ends(capsys, root, tmp_path, name, *size, "data.pairs", "True")


@pytest.mark.parametrize("more", [(), ("model.name", "sr_reid", "model.reid", "hacnn")])
def test_a_size_that_does_not_fit_is_refused_before_the_data_are_looked_for(capsys, tmp_path, more):
    status, said = ends(capsys, tmp_path / "none", tmp_path, "hacnn", 64, 32, *more)
    assert status == 2 and "do not fit hacnn: Input size does not match, expected (160, 64) but got (64, 32)" in said
    assert not (tmp_path / "log").exists()
