"""Training of PRPR's restoration network: mean absolute error of its three images (see ``sr/pyramid.py``)."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler
from yacs.config import CfgNode

from torchreid_xres.config import file_of
from torchreid_xres.data.base import CrossResolutionDataset, SummedDataset
from torchreid_xres.data.io import image_size
from torchreid_xres.engine.base import ENGINES, XresEngine
from torchreid_xres.engine.rounds import Rounds
from torchreid_xres.image import resize
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization
from torchreid_xres.sr.pyramid import Pyramid, training_pair

logger = logging.getLogger(__name__)


@ENGINES.register("prpr_restorer")
class RestorerEngine(XresEngine):
    """Minimise L1(x2) + L1(x3) + L1(x4) on full-resolution training images and what is made of them on the device.

    The paper counts iterations, the host's loop counts epochs: here an epoch is ``epoch_batches`` iterations, however
    large the set. At 250, the paper's 5000 iterations are 20 epochs, and halving the learning rate after 2500, 4000,
    4500 and 4750 of them is ``train.stepsize [10, 16, 18, 19]``.

    The largest target has the network's size, but no side of it is longer than the training files' own (the median): a
    head whose target was an enlargement would learn to enlarge.

    Args:
        *args: see :class:`XresEngine`.
        epoch_batches: batches of an epoch.
        mean, std: the loader's normalisation.
        **kwargs: see :class:`XresEngine`.

    Raises:
        ValueError: if no batch of full-resolution images can be filled.
    """

    figures = r"(psnr|ssim)_(bicubic_)?x[234]"

    def __init__(
        self,
        *args: Any,
        epoch_batches: int = 250,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.device = next(self.model.parameters()).device
        self.normalize = Normalization(mean, std).to(self.device)
        self.train_loader = Rounds(_full_resolution(self.train_loader), epoch_batches)
        usable = self.train_loader.loader.sampler.indices
        self.size = _target_size(
            [self.train_loader.loader.dataset.train[i][0] for i in usable],
            (self.datamanager.height, self.datamanager.width),
        )
        self.run_facts |= {"train_images": len(usable), "epoch_batches": epoch_batches, "target": list(self.size)}

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`~torchreid_xres.sr.pyramid.PyramidRestorer` takes from a configuration."""
        return {"trunk_weights": file_of(cfg, cfg.sr.weights)}

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {
            "epoch_batches": cfg.train.epoch_batches,
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
        }

    def losses(self, data: dict) -> dict[str, Tensor]:
        lr, target = training_pair(self._full(data))
        restored: Pyramid = self.model(lr)
        terms = {
            name: F.l1_loss(image.float(), truth)
            for name, image, truth in zip(Pyramid._fields, restored, target, strict=True)
        }
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _full(self, batch: dict) -> Tensor:
        """Return the batch at full resolution, (N, 3, *size) in [0, 1]; in pairs it is the other view."""
        full = self.normalize.undo(batch.get("img_hr", batch["img"]))
        return full if full.shape[-2:] == self.size else resize(full, self.size).clamp(0, 1)

    @torch.no_grad()
    def _evaluate(
        self, dataset_name: str = "", query_loader: Any = None, gallery_loader: Any = None, save_dir: str = "", **_: Any
    ) -> tuple[float, float]:
        """Restore the full-resolution gallery from a quarter of its size, beside bicubic, and keep the record.

        Returns:
            Mean PSNR in dB and mean SSIM of the three images: the loop keeps them, and the best epoch by the first,
            where a re-ID network has rank-1 and mAP.

        Raises:
            ValueError: if the gallery has no full-resolution image.
        """
        figures: dict[str, list[Tensor]] = defaultdict(list)
        start = time.perf_counter()
        for batch in gallery_loader:
            full = ~torch.as_tensor(batch.get("low", torch.zeros(len(batch["img"]))), dtype=torch.bool)
            if not full.any():
                continue
            lr, target = training_pair(self._full({"img": batch["img"][full].to(self.device)}))
            restored = self.at_precision(partial(self.model, lr), lr.shape)
            for name, image, truth in zip(Pyramid._fields, restored, target, strict=True):
                bicubic = resize(lr, (truth.shape[-2], truth.shape[-1])).clamp(0, 1)
                for key, made in ((name, image), (f"bicubic_{name}", bicubic)):
                    figures[f"psnr_{key}"].append(psnr(made, truth))
                    figures[f"ssim_{key}"].append(ssim(made, truth))
        if not figures:
            raise ValueError(f"the gallery of {dataset_name!r} has no full-resolution image to restore")
        means = {key: torch.cat(values).mean().item() for key, values in figures.items()}
        images = sum(map(len, figures["psnr_x2"]))
        self.keep_record(dataset_name, gallery_loader.dataset, save_dir, start, images=images, **means)
        for name in Pyramid._fields:
            shown = [means[f"{figure}_{key}"] for key in (name, f"bicubic_{name}") for figure in ("psnr", "ssim")]
            logger.info("%s %s: %.2f dB, SSIM %.4f (bicubic: %.2f dB, SSIM %.4f)", dataset_name, name, *shown)
        return tuple(sum(means[f"{figure}_{name}"] for name in Pyramid._fields) / 3 for figure in ("psnr", "ssim"))


def _target_size(paths: Sequence[str], network: tuple[int, int]) -> tuple[int, int]:
    own = (int(np.median(sides)) // 4 * 4 for sides in zip(*map(image_size, paths), strict=True))
    return tuple(min(side, max(4, longest)) for side, longest in zip(network, own, strict=True))


def _full_resolution(loader: DataLoader) -> DataLoader:
    """Return a loader of the training images that are there at full resolution, in random order."""
    usable = [index for index, full in enumerate(full_flags(loader.dataset)) if full]
    if len(usable) < loader.batch_size:
        raise ValueError(
            f"{len(usable)} of {len(loader.dataset)} training images are there at full resolution, too few for a batch "
            f"of {loader.batch_size}; lower train.batch_size, or set data.pairs True to use the originals of images "
            "that the protocol makes low"
        )
    return DataLoader(
        loader.dataset,
        sampler=SubsetRandomSampler(usable),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=True,
    )


def full_flags(dataset: Dataset) -> list[bool]:
    """Return for each training image whether an item holds it at full resolution, as ``img`` or ``img_hr``.

    Low images have an original only in pairs, and only if the protocol made them low.
    """
    if isinstance(dataset, SummedDataset):
        return [flag for member in dataset.members for flag in full_flags(member)]
    if not isinstance(dataset, CrossResolutionDataset):
        return [True] * len(dataset.train)
    rates = [dataset.rate_of[path] for path, *_ in dataset.train]
    return [rate == 1.0 or (dataset.options["pairs"] and rate != "native") for rate in rates]
