"""PRPR: restore an image at three sizes, describe all four with a network each, fuse.

C. Peng, B. Wang, D. Liu, N. Wang, X. Gao, "Pyramid-resolution person restoration for cross-resolution person
re-identification", Science China Information Sciences 2024 (letter). The parts are trained one after the other
(``configs/prpr_*.yaml``); this is the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres import host
from torchreid_xres.data.degrade import undo_enlargement
from torchreid_xres.metrics.fusion import PRPR_WEIGHTS, fused_features
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization
from torchreid_xres.models.registry import MODELS
from torchreid_xres.parts import Part, enlarged
from torchreid_xres.sr.pyramid import PyramidRestorer

LEVELS = ("x1", "x2", "x3", "x4")


@MODELS.register("prpr", paper="PRPR, Science China Information Sciences 2024")
class PRPR(nn.Module):
    """Images in, fused descriptor out.

    Args:
        num_classes: training identities; 0 for features only.
        loss: ``softmax`` or ``triplet``: what the host's engines get in training, all branches' logits, or these and
            all branches' features.
        pretrained: let the re-ID networks fetch their published weights.
        use_gpu: as in the host.
        reid: model of the host's zoo, one of its own for each of the original and the three restored images.
        weights: of the branches' cosine distances in the fused one, the original's first (equation 3).
        size: height and width in pixels that the re-ID networks see.
        mean, std: the loader's normalisation.
        interpolation: how the loader, and the branches' own in training, bring images to ``size``: ``bilinear`` or
            ``bicubic``.
        **restorer: sizes of :class:`~torchreid_xres.sr.pyramid.PyramidRestorer`, which stays as loaded.

    Example:
        >>> model = PRPR(pretrained=False, reid="osnet_x0_25", size=(64, 32), trunk="light", head_features=8).eval()
        >>> model(torch.zeros(1, 3, 21, 9)).shape
        torch.Size([1, 2048])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        reid: str = "osnet_x1_0",
        weights: Sequence[float] = PRPR_WEIGHTS,
        size: Sequence[int] = (256, 128),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        **restorer: Any,
    ) -> None:
        super().__init__()
        self.num_classes, self.weights, self.size = num_classes, tuple(weights), (size[0], size[1])
        self.interpolation = interpolation
        self.paired = loss == "triplet" or not num_classes  # a branch gives logits and features in training
        self.normalize = Normalization(mean, std)
        self.restorer = PyramidRestorer(**restorer).requires_grad_(False)
        # The zoo has no network without a classifier; as "triplet" it hands out the features beside it.
        self.branches = nn.ModuleDict(
            {
                level: host.build_model(
                    reid,
                    num_classes=max(1, num_classes),
                    loss=loss if num_classes else "triplet",
                    pretrained=pretrained,
                    use_gpu=use_gpu,
                )
                for level in LEVELS
            }
        )
        self.train()

    def train(self, mode: bool = True) -> PRPR:
        super().train(mode)
        self.restorer.eval()
        return self

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``)."""
        branches = {f"branch {level}": Part((branch,)) for level, branch in self.branches.items()}
        return {"restorer": Part((self.restorer,), enlarged), **branches}

    @torch.no_grad()
    def views(self, img: Tensor) -> dict[str, Tensor]:
        """Return what each branch sees of images (N, 3, h, w), normalised, as the camera saw them: (N, 3, H, W)."""
        seen = self.normalize.undo(img)
        restored = self.restorer(seen)  # equations 1 and 2: (N, 3, 2h, 2w), (N, 3, 3h, 3w), (N, 3, 4h, 4w)
        images = dict(zip(LEVELS, (seen, *restored), strict=True))
        return {
            level: self.normalize(F.interpolate(x.float(), self.size, mode=self.interpolation, antialias=True))
            for level, x in images.items()
        }

    def forward(self, img: Tensor) -> Any:
        """Return the fused descriptor (N, D), or in training each branch's answer.

        Args:
            img: (N, 3, h, w), normalised, as the camera saw it: any size, the smaller the more there is to restore.
        """
        return self._fused(self.views(img))

    def extract(self, batch: Mapping[str, Any]) -> Tensor:
        """Return fused descriptors (N, D) of a loader's batch, whose images were brought to the network's size.

        An image that was smaller is first brought back to the pixels the camera gave it, so that the restorer starts
        where it should; one that was larger is restored from the network's size.

        Args:
            batch: with ``img`` and ``size``.
        """
        img = batch["img"]
        height, width = img.shape[-2:]
        sizes = [(min(h, height), min(w, width)) for h, w in batch["size"].tolist()]
        views = {level: img.float().new_empty(len(img), 3, *self.size) for level in LEVELS}
        for size in sorted(set(sizes)):
            rows = torch.tensor([i for i, other in enumerate(sizes) if other == size], device=img.device)
            for level, view in self.views(undo_enlargement(img[rows], size, self.interpolation)).items():
                views[level][rows] = view
        return self._fused(views)

    def _fused(self, views: Mapping[str, Tensor]) -> Any:
        outputs = [self.branches[level](view) for level, view in views.items()]
        if self.training:
            if not self.paired:
                return outputs
            logits, features = zip(*outputs, strict=True)
            return (logits, features) if self.num_classes else list(features)
        # Equation 3, as a descriptor whose squared distance is the weighted sum.
        return fused_features([output.float() for output in outputs], self.weights)
