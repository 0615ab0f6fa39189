"""Runs of every method at tiny sizes, as a training would leave them; nothing is trained."""

import pytest
import tiny_net
from tiny_jobs import TINY, configured, untrained_run

UNTRAINED = TINY | {
    "model.reid": tiny_net.STAGED, "data.pairs": False, "sr.name": "bicubic", "sr.options": {},
    "test.dist_metric": "cosine",
}  # fmt: skip
# What each model of ours that describes identities takes at a tiny size; the host's stand for all of its zoo.
METHODS = {
    "sr_reid": {"data.pairs": True, "sr.name": "vdsr", "sr.options": {"depth": 3, "features": 4}},
    "hrnet_reid": {"data.height": 64, "data.width": 32, "model.options": {"backbone": "hrnet_w18_small"}},
    "psh_rnet": {
        "data.height": 64,
        "data.width": 32,
        "model.options": {"backbone": "hrnet_w18_small"},
        "sr.name": "vdsr_ca",
        "sr.options": {"depth": 3, "features": 4, "squeezed": 2},
        "data.pairs": True,
        "model.reid_weights": "gone/last.pth.tar",  # what it started from
        "loss.ps.teacher": "gone/last.pth.tar",
        "test.flip": True,
    },
    "kgnet": {
        "data.height": 64,
        "data.width": 64,
        "data.pairs": True,
        "sr.name": "omni_sr",
        "sr.scale": 4,
        "sr.options": {"features": 8, "groups": 1, "blocks": 1},
        "model.options": {"hourglass": {"stacks": 1, "depth": 2, "width": 8}, "kgr_blocks": 1, "kga_blocks": 1},
    },
    "msifla": {"model.options": {"widths": [4, 8]}},
    "dgrl": {
        "model.options": {"dim": 16, "groups": 3, "hidden": 8},
        "data.pairs": True,
        "data.interpolation": "bicubic",
        "sr.name": "rcan",
        "sr.options": {"groups": 1, "blocks": 1, "features": 4, "reduction": 2},
    },
    "prpr": {
        "model.options": {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4},
        "fusion.weights": [4.0, 1.0, 1.0, 2.0],
    },
    "asymmetric": {
        "model.reid_weights": "gone/last.pth.tar",
        "model.options": {"query": tiny_net.STAGED, "query_size": [24, 16]},
    },
    "osnet_x0_25": {"test.normalize_feature": True, "test.dist_metric": "euclidean"},
}


HEAVY = ("kgnet", "msifla", "prpr")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in METHODS])
def method(request):
    """Each of the methods in turn: its name."""
    return request.param


@pytest.fixture
def methods():
    """Name to settings of all methods."""
    return METHODS


@pytest.fixture(scope="session")
def run_of(tiny_root, tmp_path_factory):
    """Return a function: the name of a method, or of a network of the zoo, to the folder of its untrained run."""
    made = {}

    def make(name, **changes):
        key = name, str(changes)
        if key not in made:
            folder = tmp_path_factory.mktemp(name)
            settings = METHODS.get(name, METHODS["osnet_x0_25"])
            cfg = configured(UNTRAINED | settings | {"model.name": name}, tiny_root, folder, changes)
            made[key] = untrained_run(cfg, folder)
        return made[key]

    return make
