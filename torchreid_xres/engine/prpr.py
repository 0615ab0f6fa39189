"""PRPR as one network: its four branches side by side (the paper and the parts: ``models/prpr.py``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.data.batches import with_native
from torchreid_xres.engine.base import ENGINES, XresEngine
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.models.prpr import LEVELS


@ENGINES.register("prpr")
class PRPREngine(XresEngine):
    """What the stages do, in one loop: each branch learns from its level of the pyramid by a loss of its own.

    The restorer stays as loaded. A level is augmented after it was restored, each with its own draws, as where the
    stages read it from a file. As the losses are summed, a branch's gradient is that of its stage. Images of the host's
    sets, which do not hold the camera's own pixels, are restored from what the network sees, augmented.

    Args:
        *args: see :class:`XresEngine`.
        loss: ``softmax``, or ``triplet`` (adds the host's hard triplet loss).
        label_smooth: smooth the identity labels by 0.1, as the host does.
        margin, weight_t, weight_x: of the triplet loss, and the factors of both, as the host has them.
        **kwargs: see :class:`XresEngine`.
    """

    def __init__(
        self,
        *args: Any,
        loss: str = "softmax",
        label_smooth: bool = True,
        margin: float = 0.3,
        weight_t: float = 1.0,
        weight_x: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.smoothing = 0.1 if label_smooth else 0.0
        self.triplet = host.TripletLoss(margin=margin) if loss == "triplet" else None
        self.weights = (weight_t, weight_x) if self.triplet else (0.0, 1.0)
        self.train_loader = with_native(self.train_loader)

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`PRPR` takes from a configuration besides ``model.options``."""
        return {
            "reid": cfg.model.reid,
            "weights": cfg.fusion.weights,
            "size": (cfg.data.height, cfg.data.width),
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
            "interpolation": cfg.data.interpolation,
        }

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {"loss": cfg.loss.name, "label_smooth": cfg.loss.softmax.label_smooth, **cfg.loss.triplet}

    def losses(self, data: dict) -> dict[str, Tensor]:
        pids = data["pid"]
        outputs = self.model(self._views(data) if "native" in data else data["img"])
        logits, features = outputs if self.triplet else (outputs, [None] * len(LEVELS))
        terms = {
            level: self._loss(scores.float(), feature, pids)
            for level, scores, feature in zip(LEVELS, logits, features, strict=True)
        }
        accuracy = 100 * (logits[0].argmax(1) == pids).float().mean()
        return {"loss": torch.stack(list(terms.values())).sum(), **terms, "acc": accuracy}

    def _loss(self, logits: Tensor, feature: Tensor | None, pids: Tensor) -> Tensor:
        weight_t, weight_x = self.weights
        loss = weight_x * F.cross_entropy(logits, pids, label_smoothing=self.smoothing)
        return loss if feature is None else loss + weight_t * self.triplet(feature.float(), pids)

    def _views(self, data: dict) -> dict[str, Tensor]:
        """Return what each branch sees of a batch, augmented, (N, 3, H, W)."""
        img, network, augment = data["img"], unwrap(self.model), self.datamanager.transform_tr
        views = {LEVELS[0]: img, **{level: torch.empty_like(img) for level in LEVELS[1:]}}
        for rows, levels in network.pyramids(network.captured(data)):
            for level in LEVELS[1:]:
                pictures = map(to_pil_image, (255 * levels[level]).round().byte().cpu())
                views[level][rows] = torch.stack([augment(picture) for picture in pictures]).to(img)
        return views
