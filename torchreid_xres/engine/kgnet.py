"""KGNet's training: reconstruction, distillation, identities and triplets of student and teacher.

A. Zheng et al., "Keypoint-guided feature enhancement and alignment for cross-resolution vehicle re-identification",
Engineering Applications of Artificial Intelligence 2025, Section 3.3. The hourglass is trained before (see
``engine/keypoints.py``) and fixed; everything else learns at once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.engine.base import ENGINES, XresEngine, has_original
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.losses.batch_hard import batch_hard_triplet
from torchreid_xres.losses.pixelwise import OF_IMAGES
from torchreid_xres.models.kgnet import Encoded, KGNetOutput


@ENGINES.register("kgnet")
class KGNetEngine(XresEngine):
    """Minimise Eq. 10 on pairs; a loss of weight 0 is not computed.

    An image that is low resolution by nature has no original to restore or to follow; both encoders learn its identity
    from the image as it is. One encoder alone (no second one, no SR module, no keypoints) also trains without pairs, on
    the images as the camera saw them.

    Args:
        *args: see :class:`XresEngine`.
        weight_rec: lambda_rec of Eq. 10.
        rec: ``mse`` (Eq. 5) or ``l1``, a mean over images in [0, 1], or ``mse_imagenet``, over normalised ones.
        weight_distill: lambda_d of Eq. 10.
        margin: of the triplet losses.
        label_smooth: smooth the identity labels by 0.1.
        **kwargs: see :class:`XresEngine`.

    Raises:
        ValueError: if the training set gives no pairs, and the model is more than one encoder.
    """

    def __init__(
        self,
        *args: Any,
        weight_rec: float = 50.0,
        rec: str = "mse",
        weight_distill: float = 10.0,
        margin: float = 0.3,
        label_smooth: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_rec, self.weight_distill, self.margin = weight_rec, weight_distill, margin
        self.reconstruction = OF_IMAGES[rec]
        self.smoothing = 0.1 if label_smooth else 0.0
        if not unwrap(self.model).alone:
            self.require_pairs()

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what the model takes from a configuration besides ``model.options``."""
        return {
            "reid": cfg.model.reid,
            "reid_weights": file_of(cfg, cfg.model.reid_weights),
            "sr": cfg.sr.name,
            "sr_scale": cfg.sr.scale,
            "sr_options": as_dict(cfg.sr.options),
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
            "interpolation": cfg.data.interpolation,
        }

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration.

        Raises:
            ConfigError: if keypoints are to guide, and nothing has been said of who finds them.
        """
        options = as_dict(cfg.model.options)
        guided = options.get("kgr", True) or options.get("kga", True)
        if guided and not (options.get("hourglass_weights") or cfg.model.load_weights or cfg.test.evaluate):
            raise ConfigError("kgnet needs a trained hourglass: set model.options.hourglass_weights to its weights")
        return {
            "weight_rec": cfg.loss.sr.weight,
            "rec": cfg.loss.sr.name,
            "weight_distill": cfg.loss.distill.weight,
            "margin": cfg.loss.triplet.margin,
            "label_smooth": cfg.loss.softmax.label_smooth,
        }

    def losses(self, data: dict) -> dict[str, Tensor]:
        if "img_hr" not in data:
            encoded: Encoded = self.model(data["img"], full=True)
            return {"loss": self.identity_loss(encoded, data["pid"]), "acc": self.accuracy(encoded, data["pid"])}
        output: KGNetOutput = self.model(data["img_lr"], data["img_hr"])
        teacher, student = (self.identity_loss(view, data["pid"]) for view in (output.teacher, output.student))
        total = teacher + student  # Eq. 9
        found = {"tea": teacher, "stu": student}  # Eq. 7 and 8
        known = has_original(data)
        if self.weight_distill and known.any():
            # Eq. 6, a mean over images and dimensions; a teacher guides and is not guided
            network = unwrap(self.model)
            guide = output.teacher.feature[known].float()
            guide = guide if network.teacher is network.student else guide.detach()
            found["distill"] = F.mse_loss(output.student.feature[known].float(), guide)
            total = total + self.weight_distill * found["distill"]
        if self.weight_rec and known.any() and output.restored.requires_grad:
            original = unwrap(self.model).normalize.undo(data["img_hr"][known])
            found["rec"] = self.reconstruction(output.restored[known].float(), original)  # Eq. 5
            total = total + self.weight_rec * found["rec"]
        return {"loss": total, **found, "acc": self.accuracy(output.student, data["pid"])}  # Eq. 10

    def identity_loss(self, output: Encoded, pids: Tensor) -> Tensor:
        """Return L_id + L_tri of one encoder."""
        identity = F.cross_entropy(output.logits.float(), pids, label_smoothing=self.smoothing)
        return identity + batch_hard_triplet(output.feature, pids, self.margin)

    @staticmethod
    def accuracy(output: Encoded, pids: Tensor) -> Tensor:
        """Return how many of an encoder's images it takes for the right identity, in per cent."""
        return 100 * (output.logits.argmax(1) == pids).float().mean()
