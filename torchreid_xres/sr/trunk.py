"""Trunks of the pyramid restorer: an image in, features of the same height and width out."""

from __future__ import annotations

from torch import Tensor, nn

from torchreid_xres.sr.edsr import ResidualBlock
from torchreid_xres.sr.residual import conv3x3


class Trunk(nn.Module):
    """A network without its magnifying end: F_ori = E(x_ori) (equation 1 of PRPR).

    A subclass writes ``forward``: (N, 3, h, w), about zero and of unit range, h and w multiples of ``multiple``, to
    (N, features, h, w).

    Args:
        features: channels that come out.
        multiple: the input's sides must be multiples of this.
    """

    def __init__(self, features: int, multiple: int = 1) -> None:
        super().__init__()
        self.features = features
        self.multiple = multiple

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's trunk under this trunk's names; of a whole restorer's, its trunk alone."""
        inner = {name.removeprefix("trunk."): t for name, t in state.items() if name.startswith("trunk.")}
        return inner or state

    def extra_repr(self) -> str:
        return f"features={self.features}"


class LightTrunk(Trunk):
    """The body of EDSR's baseline model (Lim et al., CVPR Workshops 2017), few and narrow blocks: for small machines.

    Args:
        features: channels of the feature maps.
        blocks: residual blocks.
    """

    def __init__(self, features: int = 16, blocks: int = 4) -> None:
        super().__init__(features)
        self.first = conv3x3(3, features)
        self.body = nn.Sequential(
            *(ResidualBlock(features, gain=1.0) for _ in range(blocks)), conv3x3(features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return y + self.body(y)
