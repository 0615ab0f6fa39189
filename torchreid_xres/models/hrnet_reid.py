"""HRNet-ReID: a network that keeps high resolution, and pools its four branches into one sequence.

G. Zhang, Y. Ge, Z. Dong, H. Wang, Y. Zheng, S. Chen, "Deep High-Resolution Representation Learning for
Cross-Resolution Person Re-Identification", IEEE TIP 2021 (arXiv 2105.11722), section III-C. The backbone is HRNet
(Wang et al., TPAMI 2020) as timm has it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.models.registry import MODELS
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import Part

logger = logging.getLogger(__name__)

POOLINGS = ("both", "avg", "max")
HEADS = ("reid", "imagenet")


class HRNetReIDOutput(NamedTuple):
    """What the losses of PS-HRNet need."""

    seqs: tuple[Tensor, ...]  # Seq1 .. Seq5, each (N, length); one, (N, 2048), of the head ``imagenet``
    embedding: Tensor | None  # l_f, (N, 512); the head ``imagenet`` has none
    logits: Tensor | None  # l_c, (N, identities)

    def named(self) -> dict[str, Tensor]:
        """Return the outputs that a pseudo-siamese loss may compare, by name: seq1 .. seq5 and logits."""
        found = {f"seq{i}": seq for i, seq in enumerate(self.seqs, start=1)}
        return found if self.logits is None else {**found, "logits": self.logits}

    def descriptor(self) -> Tensor:
        """Return what is compared at test: Seq5 and l_f side by side, (N, 6656) at the paper's sizes."""
        return self.seqs[-1] if self.embedding is None else torch.cat((self.seqs[-1], self.embedding), dim=1)


@MODELS.register("hrnet_reid", paper="PS-HRNet, IEEE TIP 2021")
class HRNetReID(nn.Module):
    """HRNet with the pooling map P of the paper's eq. 6 and a two-layer classifier.

    Args:
        num_classes: training identities; 0 for features only.
        loss: ``softmax`` (logits in training) or ``triplet`` (logits and Seq5), for the host's engines.
        pretrained: start the backbone from ImageNet weights; without a connection it says so and starts at random.
        use_gpu: as in the host; unused.
        backbone: a timm name of the HRNet family.
        backbone_weights: file to start the backbone from instead (timm's names).
        grid: side n of each branch's pooled n x n map. The paper's eq. 6 reads 1, 2, 3, 4, which cannot give the
            lengths it states (2048, 1024, 2048, 1024); these do.
        max_share: lambda_n, the share of max pooling in each branch; not given in the paper, from its code.
        pooling: ``both`` (eq. 6), or ``avg`` or ``max`` alone (the paper's Table V).
        embedding: length of l_f.
        dropout: before the last layer.
        head: ``reid``, the paper's, or ``imagenet``, that of HRNet-W32-C (the paper's Table VI), for which the five
            arguments above have no meaning: it folds the branches into 2,048 maps, whose means are the descriptor.

    Raises:
        ValueError: for a pooling or a head that does not exist.

    Example:
        >>> model = HRNetReID(num_classes=4, pretrained=False, backbone="hrnet_w18_small").eval()
        >>> model(torch.zeros(1, 3, 64, 32)).shape
        torch.Size([1, 6656])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        backbone: str = "hrnet_w32",
        backbone_weights: str = "",
        grid: Sequence[int] = (4, 2, 2, 1),
        max_share: Sequence[float] = (0.5, 0.2, 0.2, 0.2),
        pooling: str = "both",
        embedding: int = 512,
        dropout: float = 0.5,
        head: str = "reid",
    ) -> None:
        super().__init__()
        for what, value, allowed in (("pooling", pooling, POOLINGS), ("head", head, HEADS)):
            if value not in allowed:
                raise ValueError(f"there is no {what} {value!r}; allowed: {', '.join(allowed)}")
        self.loss, self.num_classes, self.pooling, self.head = loss, num_classes, pooling, head
        self.grid, self.max_share = tuple(grid), tuple(max_share)
        self.backbone = _backbone(backbone, pretrained and not backbone_weights, head)
        if backbone_weights:
            load_weights(self.backbone, backbone_weights)
        if head == "imagenet":
            classified = self.feature_dim = self.backbone.num_features
        else:
            channels = self.backbone.feature_info.channels()
            self.feature_dim, classified = sum(c * n * n for c, n in zip(channels, self.grid, strict=True)), embedding
            self.reduce = nn.Linear(self.feature_dim, embedding)
            self.reduce_bn = nn.BatchNorm1d(embedding)
            self.dropout = nn.Dropout(dropout)
            nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out")
            nn.init.zeros_(self.reduce.bias)
            nn.init.normal_(self.reduce_bn.weight, 1.0, 0.02)
        self.classifier = nn.Linear(classified, num_classes) if num_classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``)."""
        heads = {"embedding": [self.reduce, self.reduce_bn] if self.head == "reid" else [], "classifier": []}
        if self.classifier is not None:
            heads["classifier"] = [self.classifier]
        return {"HRNet": Part((self.backbone,)), **{name: Part(tuple(own)) for name, own in heads.items()}}

    def forward(self, img: Tensor, full: bool = False) -> Any:
        """Return the descriptor (evaluation), what the host's loss wants (training), or everything.

        Args:
            img: (N, 3, H, W), normalised; sides that are multiples of 32.
            full: return a :class:`HRNetReIDOutput`.

        Raises:
            ValueError: for another size.
        """
        if img.shape[-2] % 32 or img.shape[-1] % 32:
            size = f"{img.shape[-2]}x{img.shape[-1]}"
            raise ValueError(f"HRNet fuses maps of 1/4 to 1/32 of the image: sides must be multiples of 32, not {size}")
        output = self._by_imagenet_head(img) if self.head == "imagenet" else self._by_reid_head(img)
        if full:
            return output
        if not self.training or output.logits is None:
            return output.descriptor()
        return (output.logits, output.seqs[-1]) if self.loss == "triplet" else output.logits

    def _by_reid_head(self, img: Tensor) -> HRNetReIDOutput:
        # (N, 3, 256, 128) -> (N, 128, 64, 32), (N, 256, 32, 16), (N, 512, 16, 8), (N, 1024, 8, 4)
        maps = self.backbone(img)
        # -> (N, 2048), (N, 1024), (N, 2048), (N, 1024)
        seqs = [self._pooled(*branch).flatten(1) for branch in zip(maps, self.grid, self.max_share, strict=True)]
        seq5 = torch.cat(seqs, dim=1)  # (N, 6144)
        embedding = self.reduce_bn(self.reduce(seq5))  # l_f
        logits = None if self.classifier is None else self.classifier(self.dropout(embedding))  # l_c
        return HRNetReIDOutput((*seqs, seq5), embedding, logits)

    def _by_imagenet_head(self, img: Tensor) -> HRNetReIDOutput:
        feature = self.backbone(img)  # (N, 2048)
        return HRNetReIDOutput((feature,), None, None if self.classifier is None else self.classifier(feature))

    def _pooled(self, x: Tensor, n: int, share: float) -> Tensor:
        if self.pooling == "avg":
            return F.adaptive_avg_pool2d(x, n)
        if self.pooling == "max":
            return F.adaptive_max_pool2d(x, n)
        return F.adaptive_avg_pool2d(x, n) + share * F.adaptive_max_pool2d(x, n)  # eq. 6


def _backbone(name: str, pretrained: bool, head: str) -> nn.Module:
    import timm  # takes a second

    # "incre": each branch with its own widening block, and without what follows in the classification head.
    branches = {"features_only": True, "feature_location": "incre", "out_indices": (1, 2, 3, 4)}
    sizes = {"num_classes": 0} if head == "imagenet" else branches
    if pretrained:
        try:
            return timm.create_model(name, pretrained=True, **sizes)
        except (OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            logger.warning(
                "no ImageNet weights for %s could be had (%s): it starts at random. Put them into a file and name it "
                "as backbone_weights, or say pretrained=False (model.pretrained False)", name, reason,
            )  # fmt: skip
    return timm.create_model(name, pretrained=False, **sizes)
