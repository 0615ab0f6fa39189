"""Any front end before any network of the host's zoo, trained together.

The scheme of SING: J. Jiao, W.-S. Zheng, A. Wu, X. Zhu, S. Gong, "Deep Low-Resolution Person
Re-Identification", AAAI 2018. A low-resolution image goes through the super-resolution front end, a
high-resolution image goes straight on; both meet in one re-ID network, and the reconstruction loss
and the identity loss are minimised together. With the bicubic front end it is the same training
without super-resolution, so it is the baseline of every other front end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchreid_xres import host
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization, parts_of_front_end, restored_images
from torchreid_xres.models.registry import MODELS
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import Part
from torchreid_xres.sr import build_front_end


class SRReIDOutput(NamedTuple):
    """What a training step needs: all views' identity outputs (restored, HR, plain LR), and the restored images."""

    identity: Any  # the re-ID network's output for 2N or 3N images: (2N, classes), or with features, as its loss asks
    restored: Tensor  # (N, 3, H, W), [0, 1] up to overshoot
    original: Tensor  # (N, 3, H, W), [0, 1]


@MODELS.register("sr_reid", paper="SING, AAAI 2018")
class SRReID(nn.Module):
    """A front end and a re-ID network, joint.

    Args:
        num_classes: training identities; 0 for features only.
        loss: ``softmax`` (logits in training) or ``triplet`` (logits and features).
        pretrained: let the re-ID network fetch its published weights.
        use_gpu: as in the host.
        reid: model of the host's zoo.
        reid_weights: file of weights the re-ID network starts from; layers that do not fit are left out.
        sr: registered front end.
        sr_scale: whole-number factor of the front end's own grid. Scale s works from a grid of 1/s of the input's
            sides; 2 keeps all that an image at rate 2 or more still has.
        sr_weights: file of weights of the front end.
        sr_options: sizes of the front end.
        freeze_sr: keep the front end as loaded.
        mean, std: the loader's normalisation.

    Example:
        >>> model = SRReID(num_classes=4, pretrained=False).eval()
        >>> model(torch.zeros(2, 3, 64, 32)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        reid: str = "osnet_x0_25",
        reid_weights: str = "",
        sr: str = "vdsr",
        sr_scale: int = 2,
        sr_weights: str = "",
        sr_options: Mapping[str, Any] | None = None,
        freeze_sr: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.normalize = Normalization(mean, std)
        self.front_end = build_front_end(sr, scale=sr_scale, weights=sr_weights, **dict(sr_options or {}))
        if freeze_sr:  # only ever off: some published nets hold parameters that must stay fixed
            self.front_end.requires_grad_(False)
        self.freeze_sr = freeze_sr
        # The zoo has no network without a classifier; as "triplet" it hands out the features beside it.
        self.reid = host.build_model(
            reid,
            num_classes=max(1, num_classes),
            loss=loss if num_classes else "triplet",
            pretrained=pretrained and not reid_weights,
            use_gpu=use_gpu,
        )
        if reid_weights:
            load_weights(self.reid, reid_weights)
        self.train()

    def train(self, mode: bool = True) -> SRReID:
        super().train(mode)
        if self.freeze_sr:
            self.front_end.eval()
        return self

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``)."""
        return parts_of_front_end(self.front_end) | {"re-ID network": Part((self.reid,))}

    def restore(self, img: Tensor) -> Tensor:
        """Pass normalised images (N, 3, H, W) through the front end; the result is in [0, 1]."""
        return restored_images(self.front_end, self.normalize, img)

    def forward(self, img: Tensor, img_hr: Tensor | None = None, plain: bool = False, detached: bool = False) -> Any:
        """Return features (evaluation), identity outputs (training), or all views' outputs (training on pairs).

        Args:
            img: (N, 3, H, W), normalised; all go through the front end.
            img_hr: (N, 3, H, W), normalised: the same images at high resolution; training only.
            plain: let the re-ID network see the low views as they came, too.
            detached: let no gradient of the identity outputs reach the front end.
        """
        restored = self.restore(img)
        if img_hr is None:
            return self._identity(self.normalize(restored))
        # (2N or 3N, 3, H, W): one pass, so that batch normalisation sees all views
        seen = self.normalize(restored.detach() if detached else restored)
        views = torch.cat((seen.to(img_hr.dtype), img_hr, *([img] if plain else [])))
        return SRReIDOutput(self._identity(views), restored, self.normalize.undo(img_hr))

    def extract(self, batch: Mapping[str, Any]) -> Tensor:
        """Return features (N, D); only images that are low resolution by the protocol meet the front end.

        Args:
            batch: a loader's batch with ``img`` and ``low``.
        """
        img = batch["img"].clone()
        low = torch.as_tensor(batch["low"], dtype=torch.bool)
        if low.any():
            img[low] = self.normalize(self.restore(img[low])).to(img.dtype)
        return self._identity(img)

    def _identity(self, img: Tensor) -> Any:
        output = self.reid(img)
        return output[1] if self.training and not self.num_classes else output
