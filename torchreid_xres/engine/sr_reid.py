"""Joint training of a front end and a re-ID network (the SING scheme; see ``models/sr_reid.py``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.config import file_of
from torchreid_xres.engine.base import ENGINES, XresEngine, has_original
from torchreid_xres.losses.pixelwise import OF_IMAGES
from torchreid_xres.models.sr_reid import SRReIDOutput


@ENGINES.register("sr_reid")
class SRReIDEngine(XresEngine):
    """Minimise identity loss of both views plus weighted reconstruction loss.

    Args:
        *args: see :class:`XresEngine`.
        loss: ``softmax``, or ``triplet`` (adds the hard triplet loss over both views).
        label_smooth: smooth the identity labels by 0.1, as the host does.
        margin: of the triplet loss.
        weight_sr: factor of the reconstruction loss.
        sr_loss: ``l1`` or ``mse``, on [0, 1] images.
        **kwargs: see :class:`XresEngine`.
    """

    def __init__(
        self,
        *args: Any,
        loss: str = "softmax",
        label_smooth: bool = True,
        margin: float = 0.3,
        weight_sr: float = 1.0,
        sr_loss: str = "l1",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.smoothing = 0.1 if label_smooth else 0.0
        self.triplet = host.TripletLoss(margin=margin) if loss == "triplet" else None
        self.weight_sr = weight_sr
        self.reconstruction = OF_IMAGES[sr_loss]
        self.require_pairs()

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`SRReID` takes from a configuration."""
        return {
            "reid": cfg.model.reid,
            "reid_weights": file_of(cfg, cfg.model.reid_weights),
            "sr": cfg.sr.name,
            "sr_scale": cfg.sr.scale,
            "sr_weights": file_of(cfg, cfg.sr.weights),
            "sr_options": cfg.sr.options,
            "freeze_sr": cfg.sr.frozen,
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
        }

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {
            "loss": cfg.loss.name,
            "label_smooth": cfg.loss.softmax.label_smooth,
            "margin": cfg.loss.triplet.margin,
            "weight_sr": cfg.loss.sr.weight,
            "sr_loss": cfg.loss.sr.name,
        }

    def losses(self, data: dict) -> dict[str, Tensor]:
        pids = data["pid"]
        output: SRReIDOutput = self.model(data["img_lr"], data["img_hr"])
        both = torch.cat((pids, pids))  # LR views, then HR views
        logits, features = output.identity if self.triplet else (output.identity, None)
        identity = self._cross_entropy(logits, both)
        known = has_original(data)
        sr = self.reconstruction(output.restored[known].float(), output.original[known]) if known.any() else (
            output.restored.sum() * 0.0
        )
        losses = {"identity": identity, "sr": sr}
        total = identity + self.weight_sr * sr
        if self.triplet:
            losses["triplet"] = self.triplet(features.float(), both)
            total = total + losses["triplet"]
        lead = logits[-1] if isinstance(logits, (list, tuple)) else logits
        return {"loss": total, **losses, "acc": 100 * (lead[: len(pids)].argmax(1) == pids).float().mean()}

    def _cross_entropy(self, logits: Any, pids: Tensor) -> Tensor:
        """Return the identity loss; networks with several classifiers (PCB, HACNN) give the mean of theirs."""
        several = logits if isinstance(logits, (list, tuple)) else (logits,)
        terms = [F.cross_entropy(one.float(), pids, label_smoothing=self.smoothing) for one in several]
        return torch.stack(terms).mean()
