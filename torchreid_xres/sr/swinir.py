"""SwinIR's trunk: shallow features, residual Swin Transformer blocks, one long skip."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from torchreid_xres.sr.residual import conv3x3
from torchreid_xres.sr.trunk import Trunk

# What a published checkpoint holds besides the trunk: the magnifying end, and tables that follow from the sizes.
_NOT_TRUNK = re.compile(r"(conv_before_upsample|upsample|conv_last|conv_up1|conv_up2|conv_hr)\.|.*\.attn_mask$")


class ResidualSwinGroup(nn.Module):
    """RSTB: Swin layers and a convolution under a skip (section 3.2).

    Args:
        features: channels in and out.
        heads: attention heads.
        window: side of a window.
        mlp_ratio: hidden channels of each layer's perceptron, in units of ``features``.
        drop_path: for each Swin layer, the chance in training that its branch is left out. Every other layer has its
            windows shifted by half a window.
    """

    def __init__(
        self, features: int, heads: int, window: int, mlp_ratio: float, drop_path: Sequence[float]
    ) -> None:
        from torchvision.models.swin_transformer import SwinTransformerBlock  # takes seconds to import

        super().__init__()
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(
                    features,
                    heads,
                    window_size=[window, window],
                    shift_size=[i % 2 * (window // 2)] * 2,
                    mlp_ratio=mlp_ratio,
                    stochastic_depth_prob=chance,
                )
                for i, chance in enumerate(drop_path)
            )
        )
        self.conv = conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(x).permute(0, 3, 1, 2)  # (N, h, w, C) -> (N, C, h, w)
        return x + self.conv(y).permute(0, 2, 3, 1)


class SwinIRTrunk(Trunk):
    """SwinIR (Liang et al., ICCV Workshops 2021, section 3) without its reconstruction module.

    The defaults are the paper's classical image SR. An axis that is a single window long is not shifted, as in Swin
    Transformer; SwinIR's own code shifts it as well, which makes a difference for images of up to ``window`` pixels.

    Args:
        features: channels; a multiple of ``heads``.
        depths: Swin layers of each residual group.
        heads: attention heads.
        window: side of a window, in pixels.
        mlp_ratio: hidden channels of each layer's perceptron, in units of ``features``.
        drop_path: in training, the chance that a layer's branch is left out; grows from 0 to this with depth.

    Raises:
        ValueError: if the heads do not share the channels evenly.

    Example:
        >>> import torch
        >>> SwinIRTrunk(features=12, depths=(2,), heads=2)(torch.zeros(1, 3, 16, 8)).shape
        torch.Size([1, 12, 16, 8])
    """

    def __init__(
        self,
        features: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        heads: int = 6,
        window: int = 8,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
    ) -> None:
        if features % heads:
            raise ValueError(f"{heads} attention heads cannot share {features} features evenly")
        super().__init__(features, multiple=window)
        self.conv_first = conv3x3(3, features)
        self.norm_first = nn.LayerNorm(features)
        chances = np.linspace(0, drop_path, sum(depths))
        self.groups = nn.Sequential(
            *(
                ResidualSwinGroup(features, heads, window, mlp_ratio, chance.tolist())
                for chance in np.split(chances, np.cumsum(depths)[:-1])
            )
        )
        self.norm_last = nn.LayerNorm(features)
        self.conv_last = conv3x3(features, features)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.conv_first(x)  # equation 1
        tokens = shallow.permute(0, 2, 3, 1)  # (N, C, h, w) -> (N, h, w, C)
        tokens = self.norm_last(self.groups(self.norm_first(tokens)))  # equation 3
        return shallow + self.conv_last(tokens.permute(0, 3, 1, 2))  # equations 2 and 4

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = super().rename(state)
        if "conv_after_body.weight" not in state:
            return state
        renamed = {}
        for name, tensor in state.items():
            if _NOT_TRUNK.match(name):
                continue
            name = re.sub(r"^patch_embed\.norm\.", "norm_first.", re.sub(r"^norm\.", "norm_last.", name))
            name = name.replace("conv_after_body.", "conv_last.")
            name = re.sub(r"^layers\.(\d+)\.(?:residual_group\.)?", r"groups.\1.", name)
            name = name.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
            renamed[name] = tensor.flatten() if name.endswith(".relative_position_index") else tensor
        return renamed
