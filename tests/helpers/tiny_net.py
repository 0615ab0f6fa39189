"""Networks in the host's zoo that train in milliseconds, and whose states are written and read in as many."""

from torch import nn

from torchreid_xres import host

NAME = "tiny_net"
STAGED = "osnet_tiny"  # for methods that take an OSNet apart; its name says to them that it is one


class TinyNet(nn.Module):
    """Three convolutions; its parts are called as those of the host's networks are.

    Args:
        num_classes: training identities.
        loss: ``softmax`` (logits in training) or ``triplet`` (logits and features).
    """

    def __init__(self, num_classes, loss, **_):
        super().__init__()
        self.loss, self.feature_dim, widths = loss, 512, (3, 8, 16)  # features as wide as the host's
        for i in (1, 2):
            conv = nn.Conv2d(*widths[i - 1 : i + 1], 3, stride=2, padding=1, bias=False)
            setattr(self, f"conv{i}", nn.Sequential(conv, nn.BatchNorm2d(widths[i]), nn.ReLU()))
        self.conv3 = nn.Conv2d(16, 32, 1)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(32, 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier = nn.Linear(512, num_classes)

    def featuremaps(self, x):
        return self.conv3(self.conv2(self.conv1(x)))

    def forward(self, x, return_featuremaps=False):
        maps = self.featuremaps(x)
        if return_featuremaps:
            return maps
        features = self.fc(self.global_avgpool(maps).flatten(1))
        if not self.training:
            return features
        logits = self.classifier(features)
        return (logits, features) if self.loss == "triplet" else logits


host.register_model(NAME, TinyNet)


def osnet_tiny(num_classes, loss="softmax", **_):
    """Build the host's OSNet with a convolution of 1x1 in place of each omni-scale block."""
    osnet = host.module("models.osnet")

    def block(in_channels, out_channels, IN):
        return osnet.Conv1x1(in_channels, out_channels)

    return osnet.OSNet(num_classes, [block] * 3, [2, 2, 2], [16, 64, 96, 128], loss=loss)


host.register_model(STAGED, osnet_tiny)
