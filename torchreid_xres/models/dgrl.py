"""DGRL: two stems with a Restormer block each, a shared trunk with side branches, group-aware representations.

X. Ye, G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning". What the paper
leaves open (where the two branches join, the non-local blocks, the ends of the side branches, lengths) is as in the
works it builds on: AGW (Ye et al., TPAMI 2021), DHM (Li and Chen, CVPR 2020), GroupFace (Kim et al., CVPR 2020).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.data.degrade import undo_enlargement
from torchreid_xres.models.dgrl_restorer import RateRestorer, seen_rate
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization
from torchreid_xres.models.nonlocal_block import NonLocal
from torchreid_xres.models.registry import MODELS
from torchreid_xres.models.restormer import RestormerBlock
from torchreid_xres.models.staged_trunk import channels_after, staged_trunk
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import Off, Part, batch_mean, enlarged, its_input, nothing


class View(NamedTuple):
    """What a training step needs of the images that came through one stem; the main branch is the first."""

    shallow: Tensor  # f_h or f_s, (N, 64, H/4, W/4)
    features: tuple[Tensor, ...]  # F, F', F'', each (N, 512)
    logits: tuple[Tensor, ...]  # s_1, s_2, s_3, each (N, identities)


class DGRLOutput(NamedTuple):
    """Both views of a batch."""

    hr: View
    sr: View


class Stem(nn.Module):
    """The feature extraction branch of one resolution (section III-B): shallow layers and one Restormer block.

    Args:
        layers: the trunk's stem.
        channels: of its map.
        heads: of the Restormer block; 0 for none.
    """

    def __init__(self, layers: nn.Module, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.layers = layers
        self.restormer = RestormerBlock(channels, heads) if heads else None

    def forward(self, img: Tensor) -> Tensor:
        """Turn (N, 3, H, W) into f, (N, C, H/4, W/4)."""
        z = self.layers(img)
        return z if self.restormer is None else z + self.restormer(z)


class GeM(nn.Module):
    """Generalised-mean pooling with a learnable exponent (Radenović et al., TPAMI 2019): (mean of x^p)^(1/p).

    Args:
        p: what the exponent starts from; 1 is the mean, infinity the maximum.
        eps: smaller values count as this.

    Example:
        >>> GeM(p=1.0)(torch.tensor([[[[1.0, 3.0]]]])).tolist()
        [[2.0]]
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C), in float32 whatever the type."""
        with torch.autocast(x.device.type, enabled=False):
            return x.float().clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class GALN(nn.Module):
    """Group-aware learning network (figure 4): an instance representation, and K of groups, weighed by it.

    Args:
        channels: length of the pooled vector.
        dim: length of all representations.
        groups: K.
        hidden: width of the group probability network.

    Example:
        >>> GALN(8, dim=6, groups=3, hidden=4)(torch.rand(2, 8)).shape
        torch.Size([2, 6])
    """

    def __init__(self, channels: int, dim: int = 512, groups: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.instance = nn.Linear(channels, dim)
        self.groups = nn.Linear(channels, groups * dim)  # K layers side by side
        self.probability = nn.Sequential(
            nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, groups)
        )

    def probabilities(self, instance: Tensor) -> Tensor:
        """Return how much each group counts, (N, K), summing to 1, from the instance representation (N, dim)."""
        return self.probability(instance).softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Turn pooled vectors (N, C) into F, (N, dim)."""
        instance = self.instance(x)  # F_x
        weights = self.probabilities(instance)
        groups = self.groups(x).unflatten(1, (weights.shape[1], -1))  # F_x^{G_k}, (N, K, dim)
        aware = (weights[:, None].to(groups.dtype) @ groups).squeeze(1)  # F_x^G
        return instance + aware


class Head(nn.Module):
    """The end of a branch: GeM, GALN, a normalisation without bias, a classifier without bias.

    Args:
        channels: of the branch's map.
        num_classes: training identities; 0 for no classifier.
        galn: use GALN; otherwise F is the pooled vector.
        dim, groups, hidden: sizes of :class:`GALN`.
    """

    def __init__(self, channels: int, num_classes: int, galn: bool, dim: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.pool = GeM()
        self.galn = GALN(channels, dim, groups, hidden) if galn else nn.Identity()
        length = dim if galn else channels
        self.bn = nn.BatchNorm1d(length)
        self.bn.bias.requires_grad_(False)
        self.classifier = nn.Linear(length, num_classes, bias=False) if num_classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a map (N, C, h, w) into F and the normalised F, both (N, dim)."""
        feature = self.galn(self.pool(x))
        return feature, self.bn(feature)


@MODELS.register("dgrl", paper="DGRL, Ye and Gao")
class DGRL(nn.Module):
    """Low-resolution images go through the frozen restorer and the SR stem, high-resolution ones through the HR stem.

    An image given without its role, ``model(img)``, counts as high resolution; :meth:`extract` knows which are low.
    Only the main branch is run at test.

    Args:
        num_classes: training identities; 0 for features only.
        loss: ``softmax`` (the main branch's logits in training) or ``triplet`` (logits and F), for the host's engines.
        pretrained: start the trunk from ImageNet weights.
        use_gpu: as in the host; unused.
        reid: the trunk, see :func:`~torchreid_xres.models.staged_trunk.staged_trunk`.
        reid_weights: file the trunk starts from.
        restormer: give each stem a Restormer block.
        heads: of the Restormer blocks.
        non_local: put non-local blocks into the trunk (AGW's places).
        non_local_after: how many of the last blocks of the second and the third stage get one.
        non_local_width: their inner channels.
        sides: train with side branches from the second and the third stage.
        side_blocks: how many blocks of each later stage the two branches have (DHM's). They start as copies.
        galn: use group-aware learning networks.
        dim, groups, hidden: sizes of :class:`GALN`.
        sr: ``rcan``, the frozen :class:`RateRestorer`; or ``bicubic``: images stay as the loader enlarged them.
        sr_weights: file of a trained restorer.
        sr_options: sizes of the restorer.
        mean, std: the loader's normalisation.
        interpolation: kernel by which the loader enlarges images.

    Raises:
        ValueError: for a trunk or a restorer that does not exist, or files that do not fit.

    Example:
        >>> model = DGRL(pretrained=False, reid="osnet_x0_25", sr="bicubic", groups=4).eval()
        >>> model(torch.zeros(2, 3, 64, 32)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        reid: str = "resnet50",
        reid_weights: str = "",
        restormer: bool = True,
        heads: int = 4,
        non_local: bool = True,
        non_local_after: Sequence[int] = (2, 3),
        non_local_width: int = 1,
        sides: bool = True,
        side_blocks: Sequence[Sequence[int]] = ((3, 2), (3,)),
        galn: bool = True,
        dim: int = 512,
        groups: int = 32,
        hidden: int = 256,
        sr: str = "rcan",
        sr_weights: str = "",
        sr_options: Mapping[str, Any] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        if sr not in ("rcan", "bicubic"):
            raise ValueError(f"dgrl has no restorer {sr!r}; allowed: rcan, and bicubic for none")
        self.loss, self.interpolation = loss, interpolation
        self.normalize = Normalization(mean, std)
        self.restorer = None
        if sr == "rcan":
            self.restorer = RateRestorer(**dict(sr_options or {})).requires_grad_(False)
            if sr_weights:
                load_weights(self.restorer, sr_weights, strict=True)
        stem, stages, channels = staged_trunk(reid, pretrained, reid_weights)
        self.stems = nn.ModuleDict(
            {view: Stem(copy.deepcopy(stem), channels[0], heads * restormer) for view in ("hr", "sr")}
        )
        # Before the main branch gets its non-local blocks. (3 + 2 blocks from stage 2, 3 blocks from stage 3)
        self.sides = nn.ModuleList(
            nn.Sequential(*(copy.deepcopy(stage[:n]) for stage, n in zip(stages[from_stage:], blocks, strict=True)))
            for from_stage, blocks in zip((2, 3), side_blocks if sides else (), strict=sides)
        )
        self.stages = nn.ModuleList(stages)
        for i, count in zip((1, 2), non_local_after if non_local else (), strict=non_local):
            self.stages[i] = with_non_local(self.stages[i], channels[i], count, non_local_width)
        self.heads = nn.ModuleList(
            Head(channels[-1], num_classes, galn, dim, groups, hidden) for _ in range(1 + len(self.sides))
        )
        self.train()

    def train(self, mode: bool = True) -> DGRL:
        super().train(mode)
        if self.restorer is not None:
            self.restorer.eval()
        return self

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``); the SR stem is put out by sending its images to the HR stem."""
        named = {view.upper(): stem for view, stem in self.stems.items()}
        galns = [head.galn for head in self.heads if isinstance(head.galn, GALN)]

        def through_hr(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
            return self.stems["hr"](*args)

        found: list[tuple[str, Sequence[nn.Module | None], Off | None]] = [
            ("restorer", [self.restorer], enlarged),
            ("HR stem", [named["HR"].layers], None),
            ("SR stem", [named["SR"]], through_hr),
            *((f"Restormer of the {view} stem", [stem.restormer], nothing) for view, stem in named.items()),
            ("trunk", self.stages, None),
            ("non-local blocks", [module for module in self.modules() if isinstance(module, NonLocal)], its_input),
            ("side branches", self.sides, batch_mean),
            ("GALN, groups", [galn.groups for galn in galns], nothing),
            ("GALN, weighing", [galn.probability for galn in galns], nothing),
            ("heads", self.heads, None),
        ]
        return {name: Part(tuple(m for m in modules if m is not None), off) for name, modules, off in found}

    @torch.no_grad()
    def restore(self, img: Tensor, rate: Sequence[float], size: Sequence[Sequence[int]], low: Sequence[bool]) -> Tensor:
        """Return low-resolution images (N, 3, H, W) as the SR stem takes them, normalised both; no graph is kept.

        Args:
            img: what the loader made of them.
            rate: what each was down-sampled by; 1 where the protocol made nothing smaller.
            size: height and width of each as the camera saw it.
            low: which are low resolution though their rate is 1.
        """
        if self.restorer is None:
            return img
        wanted = (img.shape[-2], img.shape[-1])
        groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for i, facts in enumerate(zip(rate, low, size, strict=True)):
            tail = self.restorer.tail_of(seen_rate(*facts, wanted[1]), size[i], wanted)
            if tail > 1:
                groups[(tail, *size[i])].append(i)
        restored = self.normalize.undo(img)
        for (tail, *seen), chosen in groups.items():
            small = undo_enlargement(restored[chosen], (seen[0], seen[1]), self.interpolation).clamp(0, 1)
            restored[chosen] = self.restorer(small, tail, wanted)
        return self.normalize(restored).to(img.dtype)

    def forward(self, img: Tensor, img_sr: Tensor | None = None) -> Any:
        """Return descriptors (evaluation), what the host's loss wants (training), or all of both views.

        Args:
            img: (N, 3, H, W), normalised, high resolution.
            img_sr: (M, 3, H, W), normalised, restored. M = N, or more: images that have no original. Training only.
        """
        f_h = self.stems["hr"](img) if len(img) else img.new_zeros(0)
        if img_sr is None:
            feature, descriptor = self.heads[0](self._main(f_h)[-1])
            if not self.training or self.heads[0].classifier is None:
                return F.normalize(descriptor, dim=1)
            logits = self.heads[0].classifier(descriptor)
            return (logits, feature) if self.loss == "triplet" else logits
        f_s = self.stems["sr"](img_sr)
        # (N + M, C, H/4, W/4): one pass through what the views share
        maps = self._main(torch.cat((f_h, f_s)) if len(img) else f_s)
        ends = [maps[-1], *(side(start) for side, start in zip(self.sides, maps, strict=False))]
        features, logits = [], []
        for head, end in zip(self.heads, ends, strict=True):
            feature, normal = head(end)
            features.append(feature.split((len(img), len(img_sr))))
            logits.append(head.classifier(normal).split((len(img), len(img_sr))))
        (f, f_sr), (s, s_sr) = zip(*features, strict=True), zip(*logits, strict=True)
        return DGRLOutput(View(f_h, f, s), View(f_s, f_sr, s_sr))

    def extract(self, batch: Mapping[str, Any]) -> Tensor:
        """Return descriptors (N, dim), of length 1; low images are restored and meet the SR stem.

        Args:
            batch: a loader's batch with ``img``, ``low``, ``rate`` and ``size``.
        """
        img = batch["img"]
        low = torch.as_tensor(batch["low"], dtype=torch.bool)
        parts = [self.stems["hr"](img[~low])] if not low.all() else []
        if low.any():
            rates, sizes = (torch.as_tensor(batch[key])[low].tolist() for key in ("rate", "size"))
            parts.append(self.stems["sr"](self.restore(img[low], rates, sizes, [True] * len(rates))))
        order = torch.cat((torch.where(~low)[0], torch.where(low)[0])).argsort()
        return F.normalize(self.heads[0](self._main(torch.cat(parts)[order])[-1])[1], dim=1)

    def _main(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps after the second, third and fourth stage: 1/8, 1/16 and 1/16 of the image's sides."""
        second = self.stages[1](self.stages[0](x))  # (N, 512, 32, 16)
        third = self.stages[2](second)  # (N, 1024, 16, 8)
        return second, third, self.stages[3](third)  # (N, 2048, 16, 8)


def with_non_local(stage: nn.Sequential, channels: int, count: int, width: int) -> nn.Sequential:
    """Return the stage with a non-local block behind each of its last ``count`` blocks.

    Args:
        stage: blocks in a row.
        channels: of the map that enters it.
        count: how many; all if it has fewer.
        width: of the non-local blocks.
    """
    first = len(stage) - count
    found = zip(stage, channels_after(stage, channels), strict=True)
    return nn.Sequential(
        *(block if i < first else nn.Sequential(block, NonLocal(c, width)) for i, (block, c) in enumerate(found))
    )
