"""DGRL's second stage: restore each training image's low view once, by the RCAN of the first.

X. Ye, G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning", sections III-B
and IV-C: low-resolution partners are made once, and training starts from their restored images.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchreid_xres.config import ConfigError, file_of
from torchreid_xres.data.io import FAST, save_image
from torchreid_xres.data.restored import LowView, low_views, members_of
from torchreid_xres.devices.precision import autocast
from torchreid_xres.devices.proof import proved_precision
from torchreid_xres.features.record import weights_hash
from torchreid_xres.files import write_json
from torchreid_xres.jobs.run import TASKS, Run, model_options
from torchreid_xres.models import build_model
from torchreid_xres.models.dgrl_restorer import RateRestorer, seen_rate
from torchreid_xres.models.weights import load_weights
from torchreid_xres.sr.pyramid import BATCH_PIXELS

logger = logging.getLogger(__name__)

MADE_OF = "restored.json"


@TASKS.register("restore_pairs")
def restore_pairs(run: Run) -> list[dict]:
    """Write the restored low view of each training image of a run's data sets into its folder, at the network's size.

    The restorer is ``model.name dgrl_restorer`` with the weights ``model.load_weights``.

    Returns:
        One record: images in all, those restored (by stopped calls, too), and the seconds of the last call.

    Raises:
        ConfigError: for another model, or missing weights.
        TypeError: for training sets that are not this package's.
    """
    cfg = run.cfg
    if cfg.model.name != "dgrl_restorer" or not cfg.model.load_weights:
        raise ConfigError(
            "the task 'restore_pairs' needs model.name dgrl_restorer and its weights, model.load_weights; they are "
            f"{cfg.model.name!r} and {cfg.model.load_weights!r}"
        )
    model = build_model(cfg.model.name, **model_options(cfg, cfg.model.name))
    load_weights(model, file_of(cfg, cfg.model.load_weights), strict=True)
    model = model.to("cuda" if cfg.use_gpu else "cpu").eval()
    datasets = members_of(run.datamanager().train_loader.dataset)
    views = [view for dataset in datasets for view in low_views(dataset)]
    made_of = {
        "restorer": weights_hash(model),
        "manifests": {dataset.name: dataset.manifest.sha256 for dataset in datasets},
        "rates": hashlib.sha256(json.dumps([(view.name, view.rate) for view in views]).encode()).hexdigest(),
        "input": [cfg.data.height, cfg.data.width],
        "precision": proved_precision(model, (2, 3, cfg.data.height // 2, cfg.data.width // 2), cfg.train.precision),
    }
    facts = write_pictures(model, views, run.folder, made_of, cfg.test.batch_size, cfg.data.workers)
    facts["restored"] = facts["images"]
    return [{"task": "restore_pairs", "model": run.label, "stage": run.stage, **made_of, **facts}]


@torch.inference_mode()
def write_pictures(
    model: RateRestorer,
    views: Sequence[LowView],
    folder: Path,
    made_of: Mapping[str, Any],
    batch_size: int = 100,
    workers: int = 0,
) -> dict[str, Any]:
    """Restore the views that are not restored yet.

    ``restored.json`` tells what the pictures were made of. Where that is something else, they are removed first.

    Args:
        model: the restorer, in evaluation mode, on the device it is to run on.
        views: of training images.
        folder: the pictures are ``<folder>/<name>``, 8-bit RGB.
        made_of: all that they depend on, as JSON can hold it; ``input`` is their height and width, ``precision`` that
            of the restorer, and the keys of ``manifests`` are their folders.
        batch_size: largest batch; large images make it smaller.
        workers: processes that read.

    Returns:
        ``images`` in all, those ``restored`` now, and ``seconds`` (reading and writing included).
    """
    start, record = time.perf_counter(), folder / MADE_OF
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    if record_key(record) != key:
        for name in made_of["manifests"]:
            shutil.rmtree(folder / name, ignore_errors=True)
        write_json({"key": key, **made_of}, record)
    size, precision = tuple(made_of["input"]), made_of["precision"]
    todo = [view for view in views if not (folder / view.name).is_file()]
    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for i, view in enumerate(todo):
        tail = model.tail_of(seen_rate(view.rate, view.low, view.size, size[1]), view.size, size)
        groups[(tail, *view.size)].append(i)
    # Images of one size and tail share a batch.
    batches = []
    for (tail, height, width), members in groups.items():
        room = max(1, min(batch_size, BATCH_PIXELS // (height * width)))
        batches += [(tail, members[k : k + room]) for k in range(0, len(members), room)]
    loader = DataLoader(_Views(todo), batch_sampler=[members for _, members in batches], num_workers=workers)
    device = next(model.parameters()).device
    for (tail, members), batch in zip(batches, loader, strict=True):
        with autocast(device, precision):
            restored = model(batch.to(device), tail, size)
        # (N, 3, H, W) in [0, 1] -> (N, H, W, 3) in 8 bits
        images = (restored.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for i, image in zip(members, images, strict=True):
            save_image(PIL.Image.fromarray(image), folder / todo[i].name, **FAST)
    facts = {"images": len(views), "restored": len(todo), "seconds": round(time.perf_counter() - start, 2)}
    logger.info("restored %(restored)d of %(images)d low views in %(seconds).1f s", facts)
    return facts


def record_key(record: Path) -> str:
    """Return the key of what is there; empty where nothing is, or its record is damaged."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))["key"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


class _Views(Dataset):
    def __init__(self, views: Sequence[LowView]) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Tensor:
        return self.views[index].image()
