"""DGRL's training: smooth L1 between the stems, and identity, triplet and mutual losses of all branches.

X. Ye, G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning", section III-D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.data.degrade import low_size
from torchreid_xres.data.restored import RestoredPairs
from torchreid_xres.devices.parallel import shared
from torchreid_xres.engine.base import ENGINES, XresEngine, has_original
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.losses.mutual_kl import mutual_kl
from torchreid_xres.losses.weighted_triplet import weighted_regularised_triplet
from torchreid_xres.models.dgrl import DGRLOutput

# What the restorer has to know of a low view.
LOW_VIEW = ("img_lr", "rate_lr", "low", "size")


@ENGINES.register("dgrl")
class DGRLEngine(XresEngine):
    """Train on pairs of an original and its restored low view; a loss of weight 0 is not computed.

    An image that is low resolution by nature has no original: it goes through the SR stem alone.

    Args:
        *args: see :class:`XresEngine`.
        l1: gamma of eq. 13.
        id: weight of the identity loss.
        wrt: weight of the weighted regularised triplet loss.
        kl: weight of the mutual loss.
        side: alpha and beta of eq. 7 and 9, what a side branch counts beside the main one.
        restored: folder of the low views that are restored already; empty: the model's restorer makes them anew in each
            step, at random rates.
        label_smooth: smooth the identity labels by xi = 0.1.
        **kwargs: see :class:`XresEngine`.

    Raises:
        ConfigError: if all weights are 0.
        ValueError: if the training set gives no pairs.
        FileNotFoundError: if ``restored`` has no pictures of it.
    """

    def __init__(
        self,
        *args: Any,
        l1: float = 5.0,
        id: float = 1.0,
        wrt: float = 1.0,
        kl: float = 1.0,
        side: float = 0.5,
        restored: str = "",
        label_smooth: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weights = {"l1": l1, "id": id, "wrt": wrt, "kl": kl}
        if not any(self.weights.values()):
            raise ConfigError("dgrl needs a loss: one of loss.dgrl.l1, id, wrt and kl must not be 0")
        self.side = side
        self.smoothing = 0.1 if label_smooth else 0.0
        self.require_pairs()
        if restored:
            self.train_loader = _with_pictures(self.train_loader, restored)

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what the model takes from a configuration besides ``model.options``."""
        return {
            "reid": cfg.model.reid,
            "reid_weights": file_of(cfg, cfg.model.reid_weights),
            "sr": cfg.sr.name,
            "sr_weights": file_of(cfg, cfg.sr.weights),
            "sr_options": as_dict(cfg.sr.options),
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
            "interpolation": cfg.data.interpolation,
        }

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        own = as_dict(cfg.loss.dgrl)
        own["restored"] = "" if cfg.test.evaluate else file_of(cfg, own["restored"])
        return {**own, "label_smooth": cfg.loss.softmax.label_smooth}

    def losses(self, data: dict) -> dict[str, Tensor]:
        known = has_original(data)
        img_sr = data["img_sr"] if "img_sr" in data else shared(self._restored, {key: data[key] for key in LOW_VIEW})
        output: DGRLOutput = self.model(data["img_hr"][known], img_sr)
        hr, sr = output
        pids = torch.cat((data["pid"][known], data["pid"]))
        logits = [torch.cat(views).float() for views in zip(hr.logits, sr.logits, strict=True)]
        features = [torch.cat(views) for views in zip(hr.features, sr.features, strict=True)]
        found = {}
        if self.weights["id"]:
            # eq. 6 and 7
            found["id"] = self._summed([F.cross_entropy(s, pids, label_smoothing=self.smoothing) for s in logits])
        if self.weights["wrt"]:
            found["wrt"] = self._summed([weighted_regularised_triplet(f, pids) for f in features])  # eq. 8 and 9
        if self.weights["l1"] and known.any():
            # eq. 5, as a mean over all elements
            found["l1"] = F.smooth_l1_loss(sr.shallow[known].float(), hr.shallow.float())
        if self.weights["kl"] and len(logits) > 1:
            found["kl"] = mutual_kl(logits)  # eq. 10 to 12
        total = torch.stack([self.weights[name] * value for name, value in found.items()]).sum()  # eq. 13
        accuracy = 100 * (sr.logits[0].argmax(1) == data["pid"]).float().mean()
        return {"loss": total, **found, "acc": accuracy}

    def _restored(self, data: dict) -> Tensor:
        rates, low, sizes = (data[key].tolist() for key in ("rate_lr", "low", "size"))
        # Of an image that is not low itself, the size is the original's.
        seen = [size if own else low_size(*size, rate) for rate, own, size in zip(rates, low, sizes, strict=True)]
        return unwrap(self.model).restore(data["img_lr"], rates, seen, low)

    def _summed(self, branches: list[Tensor]) -> Tensor:
        return branches[0] + self.side * torch.stack([branches[0].new_zeros(()), *branches[1:]]).sum()


def _with_pictures(loader: DataLoader, folder: str) -> DataLoader:
    return DataLoader(
        RestoredPairs(loader.dataset, folder),
        sampler=loader.sampler,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=True,
    )
