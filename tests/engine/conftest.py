"""A job on tiny images: two epochs of a small net take a second or two."""

import pytest

from torchreid_xres.config import load_config

TINY = {
    "model.name": "sr_reid",
    "model.pretrained": False,
    "model.reid": "osnet_x0_25",
    "data.sources": ["folder"],
    "data.targets": ["folder"],
    "data.height": 32,
    "data.width": 16,
    "data.workers": 0,
    "data.pairs": True,
    "data.transforms": ["random_flip", "random_crop", "random_erase"],
    "data.options.folder": {"synthetic": True, "lr_camera": "1"},
    "sr.name": "vdsr",
    "sr.options": {"depth": 3, "features": 4, "channels": 3},
    "train.max_epoch": 2,
    "train.batch_size": 16,
    "train.precision": "fp32",
    "test.ranks": [1, 5, 10],
    "use_gpu": False,
}


@pytest.fixture
def tiny_config(tiny_root, tmp_path):
    """Return a function: overrides (dotted keys) to a configuration of a job that takes a second."""

    def make(**changes):
        keys = TINY | {"data.root": str(tiny_root), "data.save_dir": str(tmp_path / "run")}
        keys |= {key.replace("__", "."): value for key, value in changes.items()}
        return load_config(None, [part for pair in keys.items() for part in pair])

    return make
