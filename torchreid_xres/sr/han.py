"""HAN's trunk: RCAN's body, attention over its layers, and attention over channels and positions together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchreid_xres.sr.rcan import ResidualGroup
from torchreid_xres.sr.residual import conv3x3
from torchreid_xres.sr.trunk import Trunk


class LayerAttention(nn.Module):
    """LAM: each layer's features plus a mixture of all layers' (equations 7 and 8).

    Equation 7 gives the largest weight to the layer most like the one looked at, which is nearly always itself. As in
    the authors' code the sign is the other way round: a layer is given what it lacks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))  # alpha

    def forward(self, x: Tensor) -> Tensor:
        """Mix layers: (N, L, C, h, w) in and out."""
        rows = x.flatten(2)  # (N, L, C * h * w)
        # Sums over a whole feature map: 16 bits would neither hold nor resolve them.
        with torch.autocast(x.device.type, enabled=False):
            likeness = rows.float() @ rows.float().mT  # (N, L, L)
            weights = (likeness.amax(-1, keepdim=True) - likeness).softmax(-1)  # equation 7
        mixed = (weights.to(rows.dtype) @ rows).view_as(x)
        return self.scale * mixed + x  # equation 8


class ChannelSpatialAttention(nn.Module):
    """CSAM: weigh each value by its neighbourhood in channels and positions (equation 9)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.zeros(()))  # beta

    def forward(self, x: Tensor) -> Tensor:
        """Weigh (N, C, h, w)."""
        weights = self.conv(x.unsqueeze(1)).sigmoid().squeeze(1)  # one volume of C x h x w
        return self.scale * weights * x + x  # equation 9


class HANTrunk(Trunk):
    """HAN (Niu et al., ECCV 2020) without its magnifying end.

    As in the authors' code, both attentions' outputs are joined by a convolution before the long skip (equation 5 adds
    them), and layer attention also sees the convolution that closes the body.

    Args:
        groups: N, the number of residual groups.
        blocks: attention blocks in each group.
        features: channels of the feature maps; at least ``reduction``.
        reduction: how many times narrower each channel attention's bottleneck is.

    Raises:
        ValueError: if the attention's bottleneck would have no channel.

    Example:
        >>> HANTrunk(groups=2, blocks=1, features=16)(torch.zeros(1, 3, 5, 4)).shape
        torch.Size([1, 16, 5, 4])
    """

    def __init__(self, groups: int = 10, blocks: int = 20, features: int = 64, reduction: int = 16) -> None:
        if features < reduction:
            raise ValueError(f"a HAN trunk with {features} features cannot be reduced {reduction} times")
        super().__init__(features)
        self.first = conv3x3(3, features)
        body = [ResidualGroup(features, reduction, blocks) for _ in range(groups)]
        self.body = nn.ModuleList([*body, conv3x3(features, features)])
        self.layer_attention = LayerAttention()
        self.merge_layers = conv3x3(len(self.body) * features, features)
        self.channel_spatial_attention = ChannelSpatialAttention()
        self.merge = conv3x3(2 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        shallow = y = self.first(x)  # equation 1
        outputs = []
        for part in self.body:
            y = part(y)  # equation 2
            outputs.append(y)
        # (N, L, C, h, w) -> (N, L * C, h, w) -> (N, C, h, w)
        layers = self.merge_layers(self.layer_attention(torch.stack(outputs, dim=1)).flatten(1, 2))  # equation 3
        weighed = self.channel_spatial_attention(y)  # equation 4
        return shallow + self.merge(torch.cat((weighed, layers), dim=1))  # equation 5
