"""Attention from keypoints: where each face of a vehicle is, and features that follow it.

A. Zheng et al., "Keypoint-guided feature enhancement and alignment for cross-resolution vehicle re-identification"
(KGNet), Engineering Applications of Artificial Intelligence 2025, Section 3.2, Eq. 4. Its "group convolution" is that
of C. Ma et al., "Deep face super-resolution with iterative collaboration between attentive recovery and landmark
estimation" (DIC), CVPR 2020.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.keypoints.vehicle20 import FACES4, Faces, face_maps

SLOPE = 0.2  # of DIC's leaky ReLU
LEAST_PEAK = 0.05  # of a map that DIC brings to a peak of 1


def face_attention(maps: Tensor, size: tuple[int, int], faces: Faces = FACES4) -> Tensor:
    """Return Att(D_k) of Eq. 4: how much each face counts at each place.

    Each map is first brought to a peak of 1, as DIC does: those of a network that is unsure would give nearly 1/K.

    Args:
        maps: (N, 20, h, w), heat maps of which those of invisible points are zero.
        size: height and width H, W of the features to weigh. The maps are averaged over cells on the way down and
            interpolated on the way up.
        faces: name to indices of points, K of them.

    Returns:
        (N, K, H, W), at each place summing to 1 over the faces; 1/K each where no point is near.

    Example:
        >>> import torch
        >>> face_attention(torch.zeros(1, 20, 32, 32), (16, 16))[0, :, 0, 0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    sums = face_maps(maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=LEAST_PEAK), faces)  # D_k
    if size[0] <= maps.shape[-2] and size[1] <= maps.shape[-1]:
        sums = F.adaptive_avg_pool2d(sums, size)
    else:
        sums = F.interpolate(sums, size, mode="bilinear", align_corners=False)
    return sums.float().softmax(dim=1)


class GroupedResidual(nn.Module):
    """Two 3x3 convolutions of each group for itself, inside a skip (DIC)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu(self.first(x), SLOPE))


class GroupFusion(nn.Module):
    """DIC's fusing block: features of K groups, each weighed by its own attention map, summed.

    The attention maps sum to one at each place. So Eq. 4 with the same f for every k gives back f, whatever the
    keypoints are; the groups' own convolutions g_k are what makes the sum depend on them.

    Args:
        channels: C, in and out.
        groups: K.
        blocks: residual blocks of the group convolutions.

    Example:
        >>> import torch
        >>> fusion = GroupFusion(8, groups=4, blocks=1)
        >>> fusion(torch.zeros(1, 8, 16, 16), torch.full((1, 4, 16, 16), 0.25)).shape
        torch.Size([1, 8, 16, 16])
    """

    def __init__(self, channels: int, groups: int, blocks: int = 7) -> None:
        super().__init__()
        self.groups = groups
        self.expand = nn.Conv2d(channels, groups * channels, 1)
        self.blocks = nn.Sequential(*(GroupedResidual(groups * channels, groups) for _ in range(blocks)))

    def features(self, x: Tensor) -> Tensor:
        """Return the groups' features g_k(x): (N, C, H, W) to (N, K, C, H, W)."""
        return self.blocks(F.leaky_relu(self.expand(x), SLOPE)).unflatten(1, (self.groups, -1))

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """Return the sum over k of g_k(x) * attention_k (Eq. 4).

        Args:
            x: (N, C, H, W).
            attention: (N, K, H, W).
        """
        return (self.features(x) * attention[:, :, None]).sum(dim=1)


class KeypointAlignment(nn.Module):
    """KGA: features of an image, weighed by the faces of the vehicle in it, are added to the image.

    The paper multiplies three maps "two-by-two" with the three channels of f_sr. Read as every map with every channel,
    f_sr needs three channels for each face, as in :class:`GroupFusion`; else the sum over the maps is f_sr itself.

    Args:
        blocks: residual blocks of the multi-layer residual convolution.
        paired: read it as the first map with the first channel, and so on; f_sr then has three channels.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 3, 8, 8)
        >>> aligned = KeypointAlignment()(image, torch.full((1, 3, 8, 8), 1 / 3))
        >>> torch.allclose(aligned, image, atol=0.01)  # untrained, it changes next to nothing
        True
    """

    def __init__(self, blocks: int = 4, paired: bool = False) -> None:
        super().__init__()
        self.fusion = GroupFusion(3, groups=1 if paired else 3, blocks=blocks)
        # The re-ID network behind starts from weights for images, so it is to see images from the first step on.
        nn.init.normal_(self.fusion.expand.weight, std=1e-3)
        for layer in chain([self.fusion.expand], (m for m in self.fusion.blocks.modules() if isinstance(m, nn.Conv2d))):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """Return x'_sr.

        Args:
            x: x_sr, (N, 3, H, W).
            attention: of front, back and side, (N, 3, H, W).
        """
        if self.fusion.groups == 1:
            return x + self.fusion.features(x)[:, 0] * attention
        return x + self.fusion(x, attention)
