"""What tests of jobs share: settings with which two epochs take a second or two, and a comparison of states."""

import tiny_net
import torch

from torchreid_xres import checkpoint
from torchreid_xres.config import load_config
from torchreid_xres.engine.base import LAST
from torchreid_xres.jobs.run import Run, model_options
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.models.weights import without_starts

TINY = {
    "model.name": "sr_reid",
    "model.pretrained": False,
    "model.reid": tiny_net.NAME,
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
IDENTITIES = 8  # of tiny_root's training set


def configured(keys, root, folder, changes):
    """Return the configuration of settings, a data set's and a run's folder, and a test's own changes on top."""
    keys = keys | {"data.root": str(root), "data.save_dir": str(folder)}
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(None, [part for pair in keys.items() for part in pair])


def untrained_run(cfg, folder):
    """Leave in a folder what a training leaves, with the weights of its seed untrained, and return the folder."""
    name = cfg.model.name
    Run(cfg, 0, folder, "0", name=f"split0/{name}").save()
    options = without_starts(model_options(cfg, name)) if name in MODELS else {}
    torch.manual_seed(cfg.train.seed)
    model = build_model(name, IDENTITIES, cfg.loss.name, pretrained=False, **options)
    checkpoint.save_atomic({"models": {"model": model.state_dict()}}, folder / LAST)
    return folder


def same(a, b):
    """Compare nested states bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def ready_engine(run):
    """Return a run's engine, as it is before its first step."""
    engine = run.engine()
    engine.epoch, engine.batch_idx, engine.save_dir = 0, 0, run.folder
    return engine
