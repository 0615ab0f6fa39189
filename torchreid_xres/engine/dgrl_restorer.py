"""DGRL's first two stages: train RCAN on the set's own images, then restore each training image's low view once.

X. Ye, G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning", sections III-B
and IV-C: low-resolution partners are made once, RCAN is pretrained on the data set and gives the images that training
starts from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.data.degrade import degrade_tensor
from torchreid_xres.data.io import FAST, save_image
from torchreid_xres.data.restored import LowView, Patches, low_views, members_of
from torchreid_xres.devices.precision import autocast
from torchreid_xres.devices.proof import proved_precision
from torchreid_xres.engine.base import ENGINES, XresEngine
from torchreid_xres.features.record import weights_hash
from torchreid_xres.files import write_json
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.run import TASKS, Run, model_options
from torchreid_xres.jobs.tasks.restore import BATCH_PIXELS
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.models import build_model
from torchreid_xres.models.dgrl_restorer import RateRestorer, seen_rate
from torchreid_xres.models.weights import load_weights
from torchreid_xres.sr.image import resize

logger = logging.getLogger(__name__)

MADE_OF = "restored.json"


@ENGINES.register("dgrl_restorer")
class RateRestorerEngine(XresEngine):
    """Minimise the mean absolute error of pieces of images, each down-sampled at a rate drawn anew, and restored.

    Args:
        *args: see :class:`XresEngine`.
        patch: height and width of the pieces, multiples of all rates.
        kernel: how they are down-sampled.
        **kwargs: see :class:`XresEngine`.

    Raises:
        ValueError: for a size that cannot be down-sampled, or if no training image is there at full resolution.
    """

    figures = r"(psnr|ssim)_(bicubic_)?x\d+"

    def __init__(self, *args: Any, patch: tuple[int, int] = (96, 48), kernel: str = "area", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patch, self.kernel = patch, kernel
        rates = unwrap(self.model).rates
        if any(side % rate for side in patch for rate in rates):
            raise ValueError(
                f"pieces of {patch[0]}x{patch[1]} pixels (data.height, data.width) cannot be down-sampled without a "
                f"rest at each of the rates {', '.join(map(str, rates))}"
            )
        self.train_loader = self._patches(self.train_loader, train=True)
        self.run_facts["train_images"] = len(self.train_loader.dataset)

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`RateRestorer` takes from a configuration besides ``model.options``."""
        return as_dict(cfg.sr.options)

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {"patch": (cfg.data.height, cfg.data.width), "kernel": cfg.data.kernel}

    def _patches(self, like: DataLoader, train: bool) -> DataLoader:
        dataset = Patches(members_of(like.dataset), self.patch, train)
        return DataLoader(
            dataset,
            batch_size=min(like.batch_size, len(dataset)),
            shuffle=train,
            num_workers=like.num_workers,
            pin_memory=like.pin_memory,
            drop_last=train,
        )

    def losses(self, data: dict) -> dict[str, Tensor]:
        hr, rates = data["img"], unwrap(self.model).rates
        drawn = torch.randint(len(rates), (len(hr),))
        errors = []
        for i, rate in enumerate(rates):
            if (drawn == i).any():
                truth = hr[drawn == i]
                errors.append(F.l1_loss(self.model(self._lowered(truth, rate), rate).float(), truth, reduction="sum"))
        return {"loss": torch.stack(errors).sum() / hr.numel()}

    def _lowered(self, hr: Tensor, rate: int) -> Tensor:
        return degrade_tensor(hr, (hr.shape[-2] // rate, hr.shape[-1] // rate), self.kernel)

    @torch.no_grad()
    def _evaluate(
        self, dataset_name: str = "", query_loader: Any = None, gallery_loader: Any = None, save_dir: str = "", **_: Any
    ) -> tuple[float, float]:
        """Restore pieces of the gallery from each rate, beside bicubic, and keep the record.

        Returns:
            Mean PSNR in dB and mean SSIM over the rates: the loop keeps them, and the best epoch by the first.

        Raises:
            ValueError: if the gallery has no full-resolution image.
        """
        net, start = unwrap(self.model), time.perf_counter()
        figures: dict[str, list[Tensor]] = defaultdict(list)
        loader = self._patches(gallery_loader, train=False)
        for batch in loader:
            truth = batch["img"].to(next(net.parameters()).device)
            for rate in net.rates:
                low = self._lowered(truth, rate)
                made = self.at_precision(partial(self.model, low, rate), low.shape)
                bicubic = resize(low, self.patch).clamp(0, 1)
                for key, image in ((f"x{rate}", made.float()), (f"bicubic_x{rate}", bicubic)):
                    figures[f"psnr_{key}"].append(psnr(image, truth))
                    figures[f"ssim_{key}"].append(ssim(image, truth))
        means = {key: torch.cat(values).mean().item() for key, values in figures.items()}
        self.keep_record(dataset_name, gallery_loader.dataset, save_dir, start, images=len(loader.dataset), **means)
        for rate in net.rates:
            shown = means[f"psnr_x{rate}"], means[f"psnr_bicubic_x{rate}"]
            logger.info("%s x%d: %.2f dB (bicubic: %.2f dB)", dataset_name, rate, *shown)
        rated = [[means[f"{figure}_x{rate}"] for rate in net.rates] for figure in ("psnr", "ssim")]
        return tuple(map(mean, rated))


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
