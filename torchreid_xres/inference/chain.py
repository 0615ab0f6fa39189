"""A network with what lies around it, from a picture's pixels to its descriptor, as one module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_xres.inference.branches import Way, ways
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization


@dataclass(frozen=True)
class Recipe:
    """What lies around a network from pixels to descriptor, as its loader and its evaluation have it.

    Attributes:
        size: height and width of the network's input; the graph brings images to it as the loader does, but without
            its rounding to 8 bits.
        low_size: height and width from which methods that restore from a query's own pixels (DGRL, PRPR) do so; in the
            graph a query is brought to it. None: a third of ``size``.
        mean, std: the loader's normalisation.
        interpolation: ``bilinear`` or ``bicubic``.
        flip: add the descriptor of the mirrored image.
        unit: divide the descriptor by its length.

    Raises:
        ValueError: for a ``low_size`` beyond ``size``.
    """

    size: tuple[int, int]
    low_size: tuple[int, int] | None = None
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    interpolation: str = "bilinear"
    flip: bool = False
    unit: bool = False

    def __post_init__(self) -> None:
        third = tuple(max(1, side // 3) for side in self.size)
        low = third if self.low_size is None else (self.low_size[0], self.low_size[1])
        object.__setattr__(self, "low_size", low)
        if min(low) < 1 or any(short > side for short, side in zip(low, self.size, strict=True)):
            raise ValueError(
                f"a query's height and width are from 1 pixel to the network's {by(self.size)}, not {by(low)}"
            )

    @classmethod
    def of(cls, cfg: CfgNode, low_size: Sequence[int] | None = None) -> Recipe:
        """Return the recipe of a configuration."""
        data, test = cfg.data, cfg.test
        return cls(
            (data.height, data.width),
            None if low_size is None else (low_size[0], low_size[1]),
            data.norm_mean,
            data.norm_std,
            data.interpolation,
            test.flip,
            test.normalize_feature,
        )


class Chain(nn.Module):
    """Pixels in, descriptors out.

    Args:
        model: the network.
        role: which of its :func:`~torchreid_xres.inference.branches.ways` images take.
        recipe: what lies around it.
        half: give the network 16-bit images; its weights are 16-bit then.
    """

    def __init__(self, model: nn.Module, role: str, recipe: Recipe, half: bool = False) -> None:
        super().__init__()
        self.model, self.role, self.recipe, self.half_precision = model, role, recipe, half
        self.way = ways(model, recipe.low_size)[role]
        self.normalize = Normalization(recipe.mean, recipe.std)

    def prepare(self, image: Tensor) -> Tensor:
        """Turn (N, 3, h, w), RGB, uint8 or float in [0, 1], into what the network takes, (N, 3, H, W)."""
        x = image.float() / 255 if image.dtype == torch.uint8 else image
        mode, size = self.recipe.interpolation, self.recipe.size
        x = F.interpolate(x, size, mode=mode, align_corners=False, antialias=True)
        return self.normalize(x.clamp(0, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return descriptors (N, D), float32."""
        return self._finished(lambda img: self.way(img.half() if self.half_precision else img), image)

    def reference(self, image: Tensor) -> Tensor:
        """Return the same by asking the model itself, which looks at each image and chooses its way."""
        if not self.role:
            return self._finished(self.model, image)
        size = self.recipe.low_size if self.role == "query" else self.recipe.size
        facts = {
            "low": torch.full((len(image),), self.role == "query"),
            "rate": torch.ones(len(image), dtype=torch.float64),
            "size": torch.tensor([size] * len(image)),
            "role": [self.role] * len(image),
        }
        return self._finished(lambda img: self.model.extract({"img": img, **facts}), image)

    def _finished(self, describe: Way, image: Tensor) -> Tensor:
        img = self.prepare(image)
        found = describe(img)
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise ValueError(f"{type(self.model).__name__} describes no identities: it gives no vector for an image")
        found = found.float()
        if self.recipe.flip:
            found = found + describe(img.flip(-1)).float()
        return F.normalize(found, dim=1) if self.recipe.unit else found


def by(size: Sequence[int]) -> str:
    """Return a height and width as messages and files name it: ``64x32``."""
    return f"{size[0]}x{size[1]}"
