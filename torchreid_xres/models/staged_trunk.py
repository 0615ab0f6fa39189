"""Published networks taken apart into a stem and four stages, so that methods can branch off between them."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
import torchvision
from torch import nn

from torchreid_xres import host
from torchreid_xres.models.weights import load_weights

logger = logging.getLogger(__name__)

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class StagedTrunk(NamedTuple):
    """A network without its head; the maps of the last stage have 1/16 of the image's sides."""

    stem: nn.Sequential  # ResNet: conv1 to maxpool, 1/4
    stages: tuple[nn.Sequential, nn.Sequential, nn.Sequential, nn.Sequential]  # ResNet: layer1 to layer4
    channels: tuple[int, ...]  # of the stem's and each stage's map


def staged_trunk(name: str, pretrained: bool = True, weights: str = "") -> StagedTrunk:
    """Build a network and take it apart.

    Args:
        name: one of :data:`RESNETS` (torchvision's; the last stage keeps the third's size), or an OSNet of the host.
        pretrained: start from ImageNet weights; a ResNet without a connection says so and starts at random.
        weights: file to start from instead, under the network's own names.

    Raises:
        ValueError: for another network, or a file of which nothing fits.

    Example:
        >>> staged_trunk("resnet50", pretrained=False).channels
        (64, 256, 512, 1024, 2048)
    """
    if name in RESNETS:
        net = _resnet(name, pretrained and not weights)
    elif name.startswith("osnet"):
        net = host.build_model(name, num_classes=1, pretrained=pretrained and not weights, use_gpu=False)
    else:
        raise ValueError(f"no trunk {name!r}; there are: {', '.join(RESNETS)}, and the host's osnet_x1_0 and its kin")
    if weights:
        load_weights(net, weights)
    if name in RESNETS:
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    else:
        stem = nn.Sequential(net.conv1, net.maxpool)
        stages = (net.conv2, net.conv3, net.conv4, nn.Sequential(net.conv5))
    return StagedTrunk(stem, stages, tuple(channels_after(nn.Sequential(stem, *stages))))


def channels_after(layers: nn.Sequential, channels: int = 3) -> list[int]:
    """Return the channels of the map after each layer, given those of the map before the first."""
    modes = {module: module.training for module in layers.modules()}
    x, found = torch.zeros(1, channels, 32, 32), []
    with torch.no_grad():
        layers.eval()
        for layer in layers:
            x = layer(x)
            found.append(x.shape[1])
    for module, mode in modes.items():
        module.training = mode
    return found


def _resnet(name: str, pretrained: bool) -> nn.Module:
    net = None
    if pretrained:
        try:
            net = torchvision.models.get_model(name, weights="IMAGENET1K_V1")
        except (OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            logger.warning(
                "no ImageNet weights for %s could be had (%s): it starts at random. Put them into a file and name it "
                "as reid_weights (model.reid_weights), or say pretrained=False (model.pretrained False)", name, reason,
            )  # fmt: skip
    net = net or torchvision.models.get_model(name, weights=None)
    first = net.layer4[0]
    for layer in (first.conv1, first.conv2, first.downsample[0]):
        layer.stride = (1, 1)
    return net
