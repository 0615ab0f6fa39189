"""CMSR2, Cascaded Multi-Scale Resolution Reconstruction: every image at every resolution scale, from low to high.

"Multi-Scale Image- and Feature-Level Alignment for Cross-Resolution Person Re-Identification" (MSIFLA), Remote Sensing
16(2):278, 2024, section 3.2. "Scale 1/3" is the content that is left of an image after down-sampling by 3 and
enlarging; all images keep the network's size. Here a scale goes by its rate: 3, 2, 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchreid_xres.data.degrade import check_rate, low_size, round_trip


class ReconstructionNet(nn.Module):
    """An IR network: an encoder of two parts with four convolutions each, a decoder of two deconvolutions and one.

    The paper gives these counts, the 3x3 kernels and where the residual connections are; widths, strides and
    activations are ours. It works on normalised images, so its output is not squashed.

    Args:
        widths: channels of the two encoder parts.
        skip: let the net learn the difference to its input, from none on; the paper's learns the image.

    Example:
        >>> net = ReconstructionNet()
        >>> net(torch.zeros(1, 3, 32, 16)).shape, sum(p.numel() for p in net.parameters())
        (torch.Size([1, 3, 32, 16]), 835971)
    """

    def __init__(self, widths: Sequence[int] = (64, 128), skip: bool = False) -> None:
        super().__init__()
        first, second = widths
        self.encoder1 = _four_convolutions(3, first)
        self.encoder2 = _four_convolutions(first, second)
        self.between = nn.Conv2d(first, second, 1)
        self.up1 = nn.ConvTranspose2d(second, first, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(first, first, 4, stride=2, padding=1)
        self.last = nn.Conv2d(first, 3, 3, padding=1)
        self.skip = skip
        # Without normalisation layers the image must come through twelve layers at its own strength.
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            elif isinstance(layer, nn.ConvTranspose2d):
                # Of the 4x4 kernel, 2x2 entries of each input channel meet in an output pixel.
                nn.init.normal_(layer.weight, std=(2 / (layer.in_channels * 4)) ** 0.5)
            else:
                continue
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.last.weight, std=0.0 if skip else (9 * first) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of ``x`` (N, 3, H, W), of the same shape; H and W are multiples of 4.

        Raises:
            ValueError: for another size.
        """
        if x.shape[-2] % 4 or x.shape[-1] % 4:
            size = f"{x.shape[-2]}x{x.shape[-1]}"
            raise ValueError(f"the reconstruction halves an image twice: sides must be multiples of 4, not {size}")
        half = self.encoder1(x)  # (N, 64, H/2, W/2)
        # Every second pixel, then 1x1: as a strided 1x1 convolution in bfloat16 and channels-last, its backward pass on
        # the CPU (torch 2.15, fewer than 16 channels) writes past its memory.
        quarter = self.encoder2(half) + self.between(half[..., ::2, ::2])  # (N, 128, H/4, W/4)
        up = self.up1(quarter).relu() + half  # (N, 64, H/2, W/2)
        image = self.last(self.up2(up).relu())  # (N, 3, H, W)
        return x + image if self.skip else image


def _four_convolutions(channels: int, width: int) -> nn.Sequential:
    """Return four 3x3 convolutions of which the last one halves the sides."""
    layers: list[nn.Module] = []
    for stride in (1, 1, 1, 2):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers)


class CMSR2(nn.Module):
    """Reconstruction networks in cascade, of one architecture, without shared weights.

    Args:
        scales: the rates of the reconstructed images, in the cascade's order; (1,) is the paper's baseline, (2, 1) and
            (4, 3, 2, 1) are the others of its Table 3.
        widths: see :class:`ReconstructionNet`.
        skip: see :class:`ReconstructionNet`.
        built: False: no network, all scales are the image as it is (a control).

    Raises:
        ValueError: for scales that are not rates from low to high resolution.

    Example:
        >>> [y.shape[-1] for y in CMSR2(widths=(4, 8))(torch.zeros(2, 3, 32, 16))]
        [16, 16, 16]
    """

    def __init__(
        self,
        scales: Sequence[float] = (3, 2, 1),
        widths: Sequence[int] = (64, 128),
        skip: bool = False,
        built: bool = True,
    ) -> None:
        super().__init__()
        self.scales = tuple(map(check_rate, scales))
        if not self.scales or list(self.scales) != sorted(set(self.scales), reverse=True):
            raise ValueError(f"scales are rates from low to high resolution, such as [3, 2, 1], not {list(scales)}")
        self.nets = nn.ModuleList(ReconstructionNet(widths, skip) if built else nn.Identity() for _ in self.scales)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the image of each scale, all (N, 3, H, W): y_1/3, y_1/2, y_1 of normalised images of any rate."""
        images = []
        for net in self.nets:
            x = net(x)
            images.append(x)
        return images


def resolution_versions(
    x_h: Tensor, sizes: Tensor, rates: Sequence[float], kernel: str = "area"
) -> dict[float, Tensor]:
    """Return high-resolution images at other resolutions: x_1/4, x_1/3, x_1/2 of the paper's section 3.1.

    Each is down-sampled to the size that it has on the network's grid, or as captured where that is smaller, divided by
    the rate, then enlarged bilinearly. So every rate leaves less than the one below, however large the pictures are.

    Args:
        x_h: (N, 3, H, W) at the network's size; normalised or not.
        sizes: (N, 2), height and width as captured.
        rates: at least 1; 1 gives ``x_h`` itself.
        kernel: down-sampling kernel, one of ``torchreid_xres.data.degrade.KERNELS``.

    Returns:
        Rate -> (N, 3, H, W).

    Example:
        >>> x = torch.rand(2, 3, 32, 16)
        >>> versions = resolution_versions(x, torch.tensor([[640, 320], [32, 16]]), rates=(2, 1))
        >>> alone = resolution_versions(x[:1], torch.tensor([[32, 16]]), rates=(2,))
        >>> versions[1] is x, torch.equal(versions[2][:1], alone[2]), torch.equal(versions[2][0], x[0])
        (True, True, False)
    """
    height, width = x_h.shape[-2:]
    native = [(min(h, height), min(w, width)) for h, w in sizes.tolist()]
    versions = {}
    for rate in rates:
        if rate == 1:
            versions[rate] = x_h
            continue
        versions[rate] = made = torch.empty_like(x_h)
        for size in set(native):
            alike = [i for i, other in enumerate(native) if other == size]
            made[alike] = round_trip(x_h[alike], low_size(*size, rate), kernel, "bilinear")
    return versions
