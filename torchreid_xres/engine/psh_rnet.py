"""PS-HRNet's two phases: the teacher alone on high resolution, then front end and student beside it.

G. Zhang et al., "Deep High-Resolution Representation Learning for Cross-Resolution Person Re-Identification",
IEEE TIP 2021 (arXiv 2105.11722), sections III-D and III-E.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.devices.parallel import shared
from torchreid_xres.engine.base import ENGINES, XresEngine, counts_restored, has_original
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.losses.batch_hard import batch_hard_triplet
from torchreid_xres.losses.pixelwise import OF_IMAGES
from torchreid_xres.losses.pseudo_siamese import pseudo_siamese_loss
from torchreid_xres.models.hrnet_reid import HRNetReID, HRNetReIDOutput
from torchreid_xres.models.psh_rnet import PSHRNetOutput
from torchreid_xres.models.weights import load_weights


@ENGINES.register("hrnet_reid")
class HRNetReIDEngine(XresEngine):
    """Phase 1: train HRNet-ReID with the identity loss, on the high-resolution view where there are pairs.

    Args:
        *args: see :class:`XresEngine`.
        weight_ce: lambda_CE of eq. 10.
        weight_triplet: lambda_BH of eq. 10. The five triplets add up, as in the paper; its code averages them and
            takes no further factor, which is the paper's 0.2.
        margin: m of eq. 7.
        label_smooth: smooth the identity labels by 0.1.
        **kwargs: see :class:`XresEngine`.
    """

    def __init__(
        self,
        *args: Any,
        weight_ce: float = 1.15,
        weight_triplet: float = 0.2,
        margin: float = 0.1,
        label_smooth: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_ce, self.weight_triplet, self.margin = weight_ce, weight_triplet, margin
        self.smoothing = 0.1 if label_smooth else 0.0

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`HRNetReID` takes from a configuration besides ``model.options``."""
        return {}

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {
            "weight_ce": cfg.loss.triplet.weight_x,
            "weight_triplet": cfg.loss.triplet.weight_t,
            "margin": cfg.loss.triplet.margin,
            "label_smooth": cfg.loss.softmax.label_smooth,
        }

    def losses(self, data: dict) -> dict[str, Tensor]:
        return self.identity_losses(self.model(data.get("img_hr", data["img"]), full=True), data["pid"])

    def identity_losses(self, output: HRNetReIDOutput, pids: Tensor) -> dict[str, Tensor]:
        """Return L_ID of eq. 10 as ``loss``, and its parts."""
        # (N, identities): eq. 8 and 9
        ce = F.cross_entropy(output.logits.float(), pids, label_smoothing=self.smoothing)
        triplet = torch.stack([batch_hard_triplet(seq, pids, self.margin) for seq in output.seqs]).sum()  # eq. 7
        identity = self.weight_ce * ce + self.weight_triplet * triplet  # eq. 10
        accuracy = 100 * (output.logits.argmax(1) == pids).float().mean()
        return {"loss": identity, "ce": ce, "triplet": triplet, "acc": accuracy}


@ENGINES.register("psh_rnet")
class PSHRNetEngine(HRNetReIDEngine):
    """Phase 2: the front end and the student learn beside the frozen teacher.

    Args:
        *args: see :class:`XresEngine`.
        teacher: file of the teacher's weights; needed unless ``weight_ps`` is 0.
        reid: sizes of the teacher, the student's.
        weight_sr: factor of the reconstruction loss.
        sr_loss: ``l1`` (eq. 5) or ``mse``.
        sr_views: images that it counts, as :func:`~torchreid_xres.engine.base.counts_restored` takes them.
        sr_coupling: ``joint``, or ``detached``: the front end learns from the reconstruction loss alone, if that has a
            weight. Beside the identity loss its gradient is some 50 times smaller, and a front end that learns from
            both restores nothing.
        weight_ps: factor of the pseudo-siamese loss; at 0 no teacher is loaded or run.
        terms: outputs that follow the teacher's: of seq1 .. seq5 and logits.
        **kwargs: see :class:`HRNetReIDEngine`.

    Raises:
        ConfigError: if the teacher is missing.
        ValueError: if the training set gives no pairs, or the teacher's file does not fit.
    """

    parts_front_end = True

    def __init__(
        self,
        *args: Any,
        teacher: str = "",
        reid: Mapping[str, Any] | None = None,
        weight_sr: float = 0.5,
        sr_loss: str = "l1",
        sr_views: str = "low",
        sr_coupling: str = "joint",
        weight_ps: float = 0.5,
        terms: Sequence[str] = ("seq1", "seq4", "seq5", "logits"),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_sr, self.weight_ps, self.terms = weight_sr, weight_ps, tuple(terms)
        self.reconstruction, self.sr_views = OF_IMAGES[sr_loss], sr_views
        self.detached = sr_coupling == "detached" and weight_sr > 0
        self.require_pairs()
        self.teacher = None
        if weight_ps:
            if not teacher:
                raise ConfigError("psh_rnet with loss.ps.weight needs a teacher: set loss.ps.teacher to its weights")
            self.teacher = self._load_teacher(teacher, dict(reid or {}))

    def _load_teacher(self, path: str, reid: dict[str, Any]) -> HRNetReID:
        num_classes = unwrap(self.model).reid.num_classes
        teacher = HRNetReID(num_classes, pretrained=False, **reid)
        if load_weights(teacher, path, strict=True):
            # The classifier is the one part that strict loading lets pass.
            raise ValueError(f"the teacher {path} was trained for another number of identities than {num_classes}")
        # A twin outside the model: neither the optimiser nor the host's train() and open_all_layers() reach it.
        teacher.requires_grad_(False).eval()
        return teacher.to(next(self.model.parameters()).device)

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`PSHRNet` takes from a configuration besides ``model.options``."""
        return {
            "sr": cfg.sr.name,
            "sr_scale": cfg.sr.scale,
            "sr_weights": file_of(cfg, cfg.sr.weights),
            "sr_options": cfg.sr.options,
            "reid_weights": file_of(cfg, cfg.model.reid_weights),
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
        }

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {
            **HRNetReIDEngine.engine_options(cfg),
            "teacher": file_of(cfg, cfg.loss.ps.teacher),
            "reid": as_dict(cfg.model.options),
            "weight_sr": cfg.loss.sr.weight,
            "sr_loss": cfg.loss.sr.name,
            "sr_views": cfg.loss.sr.views,
            "sr_coupling": cfg.loss.sr.coupling,
            "weight_ps": 0.0 if cfg.test.evaluate else cfg.loss.ps.weight,  # at test the teacher may be gone
            "terms": cfg.loss.ps.terms,
        }

    def losses(self, data: dict) -> dict[str, Tensor]:
        output: PSHRNetOutput = self.model(data["img_lr"], full=True, detached=self.detached)
        losses = self.identity_losses(output.reid, data["pid"])
        total = losses.pop("loss")
        known = has_original(data)
        counted = counts_restored(data, self.sr_views)
        if self.weight_sr and counted.any():
            # Eq. 5, on normalised images as in the published code.
            losses["sr"] = self.reconstruction(output.restored[counted].float(), data["img_hr"][counted])
            total = total + self.weight_sr * losses["sr"]
        if self.weight_ps and known.any():
            with torch.no_grad():
                target = shared(self.teacher, data["img_hr"][known], full=True).named()
            student = {name: value[known] for name, value in output.reid.named().items()}
            losses["ps"] = pseudo_siamese_loss(target, student, self.terms)  # eq. 11
            total = total + self.weight_ps * losses["ps"]
        return {"loss": total, **losses}  # eq. 12
