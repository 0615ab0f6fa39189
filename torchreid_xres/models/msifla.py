"""MSIFLA: images aligned on three resolution scales, first as images (CMSR2), then as features (MR2L).

"Multi-Scale Image- and Feature-Level Alignment for Cross-Resolution Person Re-Identification", Remote Sensing
16(2):278, 2024. This file has MR2L, the re-ID networks of section 3.3, and the whole; the cascade of reconstruction
networks is in ``cmsr2.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres import host
from torchreid_xres.metrics.fusion import checked_weights
from torchreid_xres.models.cmsr2 import CMSR2
from torchreid_xres.models.registry import MODELS
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import Part, its_input

# What is brought to length 1 -> the dimensions of (N, scales, parts, D) that make it up.
UNITS = {"whole": (1, 2, 3), "scale": (2, 3), "part": (3,)}


class MSIFLAOutput(NamedTuple):
    """What a training step needs of the re-ID networks."""

    parts: Tensor  # f_i^h, (N, scales, parts, D)
    logits: Tensor | None  # (N, scales, parts, identities); softmax of these is p_i^h


class PartReID(nn.Module):
    """A re-ID network of MR2L: a backbone's map in horizontal stripes (figure 4, after PCB), one classifier each.

    Args:
        num_classes: training identities; 0 for none.
        pretrained: let the backbone fetch its published weights.
        reid: model of the host's zoo that has ``featuremaps``; what it has behind its map falls away.
        reid_weights: file of weights the backbone starts from; layers that do not fit are left out.
        parts: stripes.
        reduce_dim: length of a stripe's feature by a 1x1 convolution as in PCB; 0 keeps the map's channels.

    Raises:
        ValueError: for a network that gives no map.
    """

    def __init__(
        self,
        num_classes: int = 0,
        pretrained: bool = True,
        reid: str = "resnet50_fc512",
        reid_weights: str = "",
        parts: int = 4,
        reduce_dim: int = 0,
    ) -> None:
        super().__init__()
        self.backbone, channels = _map_backbone(reid, pretrained, reid_weights)
        self.parts = parts
        self.part_dim = reduce_dim or channels
        self.reduce = nn.Identity()
        if reduce_dim:
            self.reduce = host.module("models.pcb").DimReduceLayer(channels, reduce_dim, nonlinear="relu")
        self.classifiers = nn.ModuleList(nn.Linear(self.part_dim, num_classes) for _ in range(parts) if num_classes)
        for classifier in self.classifiers:
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)

    def forward(self, img: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the features (N, parts, D) and logits (N, parts, identities) of images of one scale."""
        tensor = self.backbone.featuremaps(img)  # T, (N, 2048, 16, 8)
        stripes = F.adaptive_avg_pool2d(tensor, (self.parts, 1))  # (N, 2048, 4, 1)
        parts = self.reduce(stripes).flatten(2).mT  # (N, 4, 2048), eq. 6
        if not self.classifiers:
            return parts, None
        logits = [classify(part) for classify, part in zip(self.classifiers, parts.unbind(dim=1), strict=True)]
        return parts, torch.stack(logits, dim=1)


def _map_backbone(name: str, pretrained: bool, weights: str) -> tuple[nn.Module, int]:
    """Return a network of the zoo without what its map does not pass through, and the map's channels."""
    net = host.build_model(name, num_classes=1, loss="softmax", pretrained=pretrained and not weights, use_gpu=False)
    if not hasattr(net, "featuremaps"):
        raise ValueError(f"the re-ID network {name!r} of torchreid gives no map (it has no featuremaps method)")
    if weights:
        load_weights(net, weights)
    passed: set[str] = set()
    hooks = [
        child.register_forward_pre_hook(lambda module, args, name=child_name: passed.add(name))
        for child_name, child in net.named_children()
    ]
    with torch.no_grad():
        tensor = net.eval().featuremaps(torch.zeros(1, 3, 256, 128))
    for hook in hooks:
        hook.remove()
    if not isinstance(tensor, Tensor):
        raise ValueError(f"the re-ID network {name!r} of torchreid gives several maps, not one")
    for child_name in {child_name for child_name, _ in net.named_children()} - passed:
        delattr(net, child_name)
    return net.train(), tensor.shape[1]


@MODELS.register("msifla", paper="MSIFLA, Remote Sensing 2024")
class MSIFLA(nn.Module):
    """CMSR2 and MR2L: each image, of whatever resolution, at all scales, each scale with its own re-ID network.

    Args:
        num_classes: training identities; 0 for features only.
        loss: ``softmax`` (a list of logits in training) or ``triplet`` (lists of logits and of features), for the
            host's engines.
        pretrained: start the re-ID networks from ImageNet weights.
        use_gpu: as in the host; unused.
        scales: rates of the scales, from low to high resolution (the paper's Table 3 has one to four).
        widths: channels of a reconstruction network's encoder parts.
        skip: let the reconstruction networks learn a difference to their input.
        cascade: False: no reconstruction, the networks of all scales see the image as it is (a control: an ensemble).
        reid: model of the host's zoo that has ``featuremaps``. The default is its ResNet-50 with last stride 1, of
            which the part after the map falls away.
        reid_weights: file of weights each re-ID network starts from.
        shared: one re-ID network for all scales (the second row of the paper's Table 2).
        parts: stripes of a map.
        reduce_dim: length of a stripe's feature; 0 keeps the map's channels.
        unit: what has length 1 in the descriptor: the ``whole``, each ``scale`` or each ``part``.
        scale_weights: how much each scale counts in a squared distance; empty: 1 each.

    Raises:
        ValueError: for scales, a re-ID network, a unit or weights that cannot be.

    Example:
        >>> model = MSIFLA(pretrained=False, reid="osnet_x0_25", widths=(4, 8)).eval()
        >>> model(torch.zeros(2, 3, 64, 32)).shape  # 3 scales x 4 parts x 128
        torch.Size([2, 1536])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        scales: Sequence[float] = (3, 2, 1),
        widths: Sequence[int] = (64, 128),
        skip: bool = False,
        cascade: bool = True,
        reid: str = "resnet50_fc512",
        reid_weights: str = "",
        shared: bool = False,
        parts: int = 4,
        reduce_dim: int = 0,
        unit: str = "whole",
        scale_weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if unit not in UNITS:
            raise ValueError(f"there is no unit {unit!r}; allowed: {', '.join(UNITS)}")
        self.loss, self.shared, self.unit = loss, shared, unit
        self.cascade = CMSR2(scales, widths, skip, cascade)
        self.scales = self.cascade.scales
        self.scale_weights = checked_weights(tuple(scale_weights) or (1.0,) * len(self.scales), len(self.scales))
        self.reid = nn.ModuleList(
            PartReID(num_classes, pretrained, reid, reid_weights, parts, reduce_dim)
            for _ in (self.scales[-1:] if shared else self.scales)
        )

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``): what the cascade does at a scale, and who reads it."""
        cascade = {
            f"cascade x{scale:g}": Part((net,), its_input)
            for scale, net in zip(self.scales, self.cascade.nets, strict=True)
        }
        readers = ["of all scales"] if self.shared else [f"x{scale:g}" for scale in self.scales]
        nets = zip(readers, self.reid, strict=True)
        return cascade | {f"re-ID network {name}": Part((net,)) for name, net in nets}

    def identify(self, images: Sequence[Tensor]) -> MSIFLAOutput:
        """Return features and logits of the images y_1/3, y_1/2, y_1, each (N, 3, H, W)."""
        if self.shared:
            # One pass, so that batch normalisation sees all scales.
            found = zip(*(part.chunk(len(images)) for part in self.reid[0](torch.cat(list(images)))), strict=True)
        else:
            found = (net(image) for net, image in zip(self.reid, images, strict=True))
        parts, logits = zip(*found, strict=True)
        return MSIFLAOutput(torch.stack(parts, 1), None if logits[0] is None else torch.stack(logits, 1))

    def descriptor(self, parts: Tensor) -> Tensor:
        """Return f of eq. 7, (N, 24576) at the paper's sizes: the squared distance is the sum over the scales.

        Args:
            parts: (N, scales, parts, D).
        """
        unit = F.normalize(parts.float(), dim=UNITS[self.unit])
        # |f - g|^2 = sum_i w_i |f_i - g_i|^2
        roots = self.scale_weights.sqrt().tolist()
        return torch.stack([root * one for root, one in zip(roots, unit.unbind(1), strict=True)], 1).flatten(1)

    def forward(self, img: Tensor) -> Any:
        """Return the descriptor (evaluation), or what the host's loss wants (training).

        Args:
            img: (N, 3, H, W), normalised, of any resolution; sides that are multiples of 4.
        """
        output = self.identify(self.cascade(img))
        if not self.training or output.logits is None:
            return self.descriptor(output.parts)
        # 12 classifiers, 12 features
        logits, features = (list(found.flatten(1, 2).unbind(dim=1)) for found in (output.logits, output.parts))
        return (logits, features) if self.loss == "triplet" else logits
