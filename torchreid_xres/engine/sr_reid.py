"""Joint training of a front end and a re-ID network (the SING scheme; see ``models/sr_reid.py``)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.config import ConfigError, file_of
from torchreid_xres.devices.parallel import shared
from torchreid_xres.engine.base import ENGINES, XresEngine, counts_restored
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.losses.pixelwise import OF_IMAGES
from torchreid_xres.losses.regression import regression
from torchreid_xres.models.sr_reid import SRReIDOutput


@ENGINES.register("sr_reid")
class SRReIDEngine(XresEngine):
    """Minimise identity loss of both views plus weighted reconstruction losses.

    Args:
        *args: see :class:`XresEngine`.
        loss: ``softmax``, or ``triplet`` (adds the hard triplet loss over both views).
        label_smooth: smooth the identity labels by 0.1, as the host does.
        margin: of the triplet loss.
        weight_sr: factor of the reconstruction loss.
        sr_loss: ``l1`` or ``mse``, on [0, 1] images.
        sr_views: images that it counts, as :func:`~torchreid_xres.engine.base.counts_restored` takes them.
        sr_coupling: ``joint``, or ``detached``: the front end learns from the reconstruction losses alone, if one has a
            weight.
        weight_feature: factor of :func:`~torchreid_xres.losses.regression.regression` between the restored image and
            the original, seen by a frozen copy of the re-ID network as it starts; at 0 there is none.
        weight_plain: factor of the identity loss of low views that pass the front end by, SING's third term; at 0 the
            re-ID network does not see them.
        **kwargs: see :class:`XresEngine`.
    """

    parts_front_end = True

    def __init__(
        self,
        *args: Any,
        loss: str = "softmax",
        label_smooth: bool = True,
        margin: float = 0.3,
        weight_sr: float = 1.0,
        sr_loss: str = "l1",
        sr_views: str = "low",
        sr_coupling: str = "joint",
        weight_feature: float = 0.0,
        weight_plain: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.smoothing = 0.1 if label_smooth else 0.0
        self.triplet = host.TripletLoss(margin=margin) if loss == "triplet" else None
        self.weight_sr, self.weight_feature, self.weight_plain = weight_sr, weight_feature, weight_plain
        self.reconstruction, self.sr_views = OF_IMAGES[sr_loss], sr_views
        self.detached = sr_coupling == "detached" and weight_sr + weight_feature > 0
        self.require_pairs()
        self.teacher = None
        if weight_feature:
            # Outside the model: neither the optimiser nor the host's train() and open_all_layers() reach it.
            self.teacher = copy.deepcopy(unwrap(self.model).reid).requires_grad_(False).eval()

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
        """Return this engine's own keywords from a configuration.

        Raises:
            ConfigError: if features are to be compared by a network that has learned nothing.
        """
        if cfg.loss.sr.feature and not (cfg.model.reid_weights or cfg.model.load_weights or cfg.model.pretrained):
            raise ConfigError(
                f"loss.sr.feature is {cfg.loss.sr.feature}, and the re-ID network that would see the features starts "
                "from random weights: name model.reid_weights, or set loss.sr.feature to 0"
            )
        return {
            "loss": cfg.loss.name,
            "label_smooth": cfg.loss.softmax.label_smooth,
            "margin": cfg.loss.triplet.margin,
            "weight_sr": cfg.loss.sr.weight,
            "sr_loss": cfg.loss.sr.name,
            "sr_views": cfg.loss.sr.views,
            "sr_coupling": cfg.loss.sr.coupling,
            "weight_feature": 0.0 if cfg.test.evaluate else cfg.loss.sr.feature,
            "weight_plain": cfg.loss.sr.plain,
        }

    def losses(self, data: dict) -> dict[str, Tensor]:
        pids = data["pid"]
        how = {"plain": bool(self.weight_plain), "detached": self.detached}
        output: SRReIDOutput = self.model(data["img_lr"], data["img_hr"], **how)
        both = torch.cat((pids, pids))  # LR views, then HR views
        logits, features = output.identity if self.triplet else (output.identity, None)
        several = logits if isinstance(logits, (list, tuple)) else (logits,)  # of PCB and HACNN, for instance
        identity = self._cross_entropy([one[: len(both)] for one in several], both)
        counted = counts_restored(data, self.sr_views)
        restored, original = output.restored[counted].float(), output.original[counted]
        nothing = output.restored.sum() * 0.0
        losses = {"identity": identity, "sr": self.reconstruction(restored, original) if counted.any() else nothing}
        total = identity + self.weight_sr * losses["sr"]
        if self.teacher is not None:
            losses["feature"] = self._unlikeness(restored, data["img_hr"][counted]) if counted.any() else nothing
            total = total + self.weight_feature * losses["feature"]
        if self.weight_plain:
            losses["plain"] = self._cross_entropy([one[len(both) :] for one in several], pids)
            total = total + self.weight_plain * losses["plain"]
        if self.triplet:
            losses["triplet"] = self.triplet(features[: len(both)].float(), both)
            total = total + losses["triplet"]
        return {"loss": total, **losses, "acc": 100 * (several[-1][: len(pids)].argmax(1) == pids).float().mean()}

    def _unlikeness(self, restored: Tensor, img_hr: Tensor) -> Tensor:
        with torch.no_grad():
            target = shared(self.teacher, img_hr)
        return regression(shared(self.teacher, unwrap(self.model).normalize(restored)), target)

    def _cross_entropy(self, several: list[Tensor], pids: Tensor) -> Tensor:
        """Return the identity loss; networks with several classifiers give the mean of theirs."""
        terms = [F.cross_entropy(one.float(), pids, label_smoothing=self.smoothing) for one in several]
        return torch.stack(terms).mean()
