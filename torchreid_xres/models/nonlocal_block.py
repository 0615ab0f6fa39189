"""Non-local block: every pixel hears every other one.

X. Wang, R. Girshick, A. Gupta, K. He, "Non-local Neural Networks", CVPR 2018, the dot-product form, as in AGW (M. Ye,
J. Shen, G. Lin, T. Xiang, L. Shao, S. C. H. Hoi, "Deep Learning for Person Re-Identification: A Survey and Outlook",
TPAMI 2021).
"""

from __future__ import annotations

from torch import Tensor, nn


class NonLocal(nn.Module):
    """z = BN(W y) + x with y_i = (1 / HW) sum_j (theta(x_i) . phi(x_j)) g(x_j).

    The normalisation starts at zero, so that the untrained block is the identity.

    Args:
        channels: C.
        width: channels of theta, phi and g. AGW's published code has 1, its paper C / 2.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 8, 4, 3)
        >>> torch.equal(NonLocal(8)(x), x)
        True
    """

    def __init__(self, channels: int, width: int = 1) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, width, 1) for _ in range(3))
        self.out = nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.out[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        """Pass (N, C, H, W); the size stays."""
        # (N, c, HW)
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        # Without a softmax the sum over j can be taken first: (N, c, c) in place of (N, HW, HW). Divided before it
        # is summed up, a sum over many places stays within fp16.
        heard = g @ (phi.mT / phi.shape[-1])
        y = (heard @ theta).unflatten(2, x.shape[-2:])  # (N, c, H, W)
        return self.out(y) + x
