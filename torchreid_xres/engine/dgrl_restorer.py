"""DGRL's first stage: train RCAN on the set's own images.

X. Ye, G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning", sections III-B
and IV-C: RCAN is pretrained on the data set and gives the images that training starts from; the low-resolution partners
are made once (``jobs/tasks/restore_pairs.py``).
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from torchreid_xres.config import as_dict
from torchreid_xres.data.degrade import degrade_tensor
from torchreid_xres.data.restored import Patches, members_of
from torchreid_xres.engine.base import ENGINES, XresEngine
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.image import resize
from torchreid_xres.metrics.image import psnr, ssim

logger = logging.getLogger(__name__)

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
