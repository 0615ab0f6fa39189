"""Each registered model at a tiny size: its settings, and what makes its configuration, its engine and a batch."""

import copy
from pathlib import Path

import torch
from golden_values import noise
from tiny_jobs import IDENTITIES, TINY, configured, ready_engine

from torchreid_xres.jobs.job import own_runs
from torchreid_xres.jobs.run import model_options
from torchreid_xres.models import MODELS, build_model

HOURGLASS = {"stacks": 1, "depth": 2, "width": 8}
RCAN = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
RESTORER = {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4}
TRIPLETS = {"sampler.train_sampler": "IdentitySampler", "sampler.num_instances": 3, "train.batch_size": 12}
HRNET_SETTINGS = {
    **TRIPLETS, "data.height": 64, "data.width": 32, "model.options": {"backbone": "hrnet_w18_small"},
    "loss.triplet.weight_t": 0.2, "loss.triplet.weight_x": 1.15,
}  # fmt: skip
# Settings of each registered model; the last is the host's, trained by its own engine with ours around it.
CASES = {
    "sr_reid": {**TRIPLETS, "loss.name": "triplet"},
    "hrnet_reid": HRNET_SETTINGS,
    "psh_rnet": {
        **HRNET_SETTINGS, "loss.ps.teacher": "hrnet_reid",
        "sr.name": "vdsr_ca", "sr.options": {"depth": 3, "features": 4, "squeezed": 2},
    },
    "hourglass_vehicle20": {
        "model.options": HOURGLASS, "data.height": 64, "data.width": 64, "data.pairs": False, "data.transforms": [],
        "data.sources": ["synth_vehicle"], "data.targets": ["synth_vehicle"], "train.batch_size": 4,
        "data.options": {
            "synth_vehicle": {
                "train_identities": 2, "test_identities": 2, "cameras": 2, "images_per_camera": 2, "query_rate": 1.0,
                "train_low": False,
            },
        },
    },
    "kgnet": {
        **TRIPLETS, "data.height": 64, "data.width": 64, "data.transforms": ["random_flip"],
        "model.options": {
            "hourglass": HOURGLASS, "hourglass_weights": "hourglass_vehicle20", "kgr_blocks": 1, "kga_blocks": 1,
        },
        "sr.name": "omni_sr", "sr.scale": 4, "sr.options": {"features": 8, "groups": 1, "blocks": 1},
    },
    "msifla": {
        "model.options": {"widths": [4, 8]}, "data.pairs": False, "train.batch_size": 8,
        "sampler.train_sampler": "MixedIdentitySampler", "sampler.num_instances": 4,
    },
    "dgrl_restorer": {"data.height": 24, "data.width": 12, "sr.name": "rcan", "sr.options": RCAN},
    "dgrl": {
        **TRIPLETS, "model.options": {"dim": 16, "groups": 3, "hidden": 8}, "sr.name": "rcan", "sr.options": RCAN,
    },
    "prpr_restorer": {"model.options": RESTORER, "sr.options": {}},
    "prpr": {"model.options": RESTORER, "sr.options": {}, "data.pairs": False},
    "asymmetric": {
        **TRIPLETS, "model.reid_weights": "osnet_x0_25", "model.options": {"query": "osnet_x0_25"},
        "loss.asymmetric.id": 1.0, "loss.asymmetric.triplet": 1.0, "loss.asymmetric.bank": 16,
        "data.camera.jpeg": 0.0,  # its eight bits would be other ones in double precision
    },
    "osnet_x0_25": {"data.pairs": False},
}  # fmt: skip

def configurations(root, home):
    """Return a function: a model's name, and changes, to its configuration, with runs in the folder ``home``."""

    def trained_before(name):
        path = home / f"{name}.pth"
        if not path.is_file():
            options = model_options(make(name), name) if name in MODELS else {}
            torch.save(build_model(name, IDENTITIES, pretrained=False, **options).state_dict(), path)
        return str(path)

    def make(name, **changes):
        keys = copy.deepcopy(CASES[name])
        if "loss.ps.teacher" in keys:
            keys["loss.ps.teacher"] = trained_before(keys["loss.ps.teacher"])
        if "model.reid_weights" in keys:
            keys["model.reid_weights"] = trained_before(keys["model.reid_weights"])
        if "hourglass_weights" in keys.get("model.options", {}):
            keys["model.options"]["hourglass_weights"] = trained_before(keys["model.options"]["hourglass_weights"])
        own_data = {key for key in TINY if key.startswith("data.options") and "data.options" in keys}
        tiny = {key: value for key, value in TINY.items() if key not in own_data}
        keys = tiny | {"model.reid": "osnet_x0_25"} | keys | {"model.name": name}
        return configured(keys, root, home / name, changes)

    return make


def engines(config_of):
    """Return a function: a model's name, and changes, to its engine, ready for a step."""

    def make(name, **changes):
        cfg = config_of(name, **changes)
        run = own_runs(cfg, 0, Path(cfg.data.save_dir))[-1]
        engine = ready_engine(run)
        engine.set_model_mode("train")
        return engine

    return make


def input_size(name):
    return CASES[name].get("data.height", 32), CASES[name].get("data.width", 16)


def picture_batch(height, width):
    """Return a batch of 12 images of 4 identities, every other one low, as a loader of pairs would give it."""
    low = torch.arange(12) % 2 == 1
    img_hr = 0.5 * noise("high", 12, 3, height, width)
    img_lr = img_hr.roll(1, dims=3) * 0.5 + 0.5 * img_hr
    return {
        "img": torch.where(low[:, None, None, None], img_lr, img_hr),
        "img_hr": img_hr,
        "img_lr": img_lr,
        "pid": torch.arange(12) // 3,
        "low": low,
        "rate": torch.where(low, 2.0, 1.0),
        "rate_lr": torch.where(low, 2.0, 4.0),
        "size": torch.where(low[:, None], torch.tensor([[height // 2, width // 2]]), torch.tensor([[height, width]])),
        "role": ["query" if own else "gallery" for own in low.tolist()],
    }
