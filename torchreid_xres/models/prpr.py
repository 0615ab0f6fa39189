"""PRPR: restore an image at three sizes, describe all four with a network each, fuse.

C. Peng, B. Wang, D. Liu, N. Wang, X. Gao, "Pyramid-resolution person restoration for cross-resolution person
re-identification", Science China Information Sciences 2024 (letter). The parts are trained one after the other
(``configs/prpr_*.yaml``); this is the whole, and does what they do: it restores the camera's own pixels, rounds as
files do, and brings each level to the networks' size as the loader does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
from torchreid_xres.sr.pyramid import BATCH_PIXELS, PyramidRestorer

LEVELS = ("x1", "x2", "x3", "x4")


@MODELS.register("prpr", paper="PRPR, Science China Information Sciences 2024")
class PRPR(nn.Module):
    """Images in, fused descriptor out.

    Attributes:
        takes_native: batches are to hold the camera's own pixels, too (``data/batches.py``).

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

    takes_native = True

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
    def levels(self, seen: Tensor) -> dict[str, Tensor]:
        """Return images (N, 3, h, w) in [0, 1] and their pyramid, in the 256 steps of a file (equations 1 and 2)."""
        restored = self.restorer(seen)  # (N, 3, 2h, 2w), (N, 3, 3h, 3w), (N, 3, 4h, 4w)
        return {level: eight_bits(x.float()) for level, x in zip(LEVELS, (seen, *restored), strict=True)}

    @torch.no_grad()
    def views(self, img: Tensor) -> dict[str, Tensor]:
        """Return what each branch sees of images (N, 3, h, w), normalised, as the camera saw them: (N, 3, H, W)."""
        return {level: self.at_size(x) for level, x in self.levels(self.normalize.undo(img)).items()}

    def at_size(self, x: Tensor) -> Tensor:
        """Return images (N, 3, h, w) in [0, 1] as a branch sees them, normalised, (N, 3, H, W)."""
        for size in ((x.shape[-2], self.size[1]), self.size):  # one side after the other, each in 8 bits, as Pillow
            x = eight_bits_again(F.interpolate(x, size, mode=self.interpolation, antialias=True))
        return self.normalize(x)

    def forward(self, img: Tensor | Mapping[str, Tensor]) -> Any:
        """Return the fused descriptor (N, D), or in training each branch's answer.

        Args:
            img: (N, 3, h, w), normalised, as the camera saw it: any size, the smaller the more there is to restore. Or
                what each branch sees, by its level, (N, 3, H, W) each.
        """
        return self._fused(self.views(img) if isinstance(img, Tensor) else img)

    def captured(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Return the pixels (3, h, w) in [0, 1] that the camera gave of each image of a loader's batch.

        Where the batch does not hold them, an image that was smaller than the network's input is brought back to them
        by least squares; of one that was larger these are gone: what the network sees is taken.
        """
        img = batch["img"].float()
        if "native" in batch:
            pixels = (torch.as_tensor(image).to(img.device) for image in batch["native"])
            return [image.permute(2, 0, 1).float() / 255 for image in pixels]
        (height, width), images = img.shape[-2:], self.normalize.undo(img).split(1)
        sizes = [(min(h, height), min(w, width)) for h, w in batch["size"].tolist()]
        small = (undo_enlargement(x, size, self.interpolation) for x, size in zip(images, sizes, strict=True))
        return [eight_bits_again(x[0]) for x in small]

    def pyramids(self, captured: Sequence[Tensor]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield which images (3, h, w) in [0, 1] of one size are together, and their levels, (K, 3, h, w) each."""
        alike = defaultdict(list)
        for i, image in enumerate(captured):
            alike[image.shape].append(i)
        for (_, height, width), rows in alike.items():
            most = max(1, BATCH_PIXELS // (height * width))
            for start in range(0, len(rows), most):
                some = rows[start : start + most]
                yield some, self.levels(torch.stack([captured[i] for i in some]))

    def extract(self, batch: Mapping[str, Any]) -> Tensor:
        """Return fused descriptors (N, D) of a loader's batch, whose images were brought to the network's size.

        Args:
            batch: with ``img`` and ``native``, or ``size`` (see :meth:`captured`).
        """
        mirrored, img = "mirrored" in batch, batch["img"].float()
        # The branches of the stages see mirrored pictures, their restorer does not.
        captured = self.captured({**batch, "img": img.flip(-1) if mirrored else img})
        views = {LEVELS[0]: img, **{level: img.new_empty(len(img), 3, *self.size) for level in LEVELS[1:]}}
        for rows, levels in self.pyramids(captured):
            for level in LEVELS[1:]:
                view = self.at_size(levels[level])
                views[level][rows] = view.flip(-1) if mirrored else view
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


def eight_bits(x: Tensor) -> Tensor:
    """Return images in [0, 1] as files hold them: in 256 steps, halves go up, as in Pillow."""
    return (x * 255 + 0.5).floor().clamp(0, 255) / 255


def eight_bits_again(x: Tensor) -> Tensor:
    """Return images made of ones of 256 steps, as by resizing, in 256 steps again.

    Many of their values are halves then. Those that float32 put a little below themselves go up, too, so that all
    libraries agree, whatever the order of their sums.
    """
    return eight_bits(x + 4e-7)
