"""The stacked hourglass for the 20 points of vehicles, as a model that the host's loop trains."""

from __future__ import annotations

from torchreid_xres.keypoints.hourglass import StackedHourglass
from torchreid_xres.models.registry import MODELS


@MODELS.register("hourglass_vehicle20", paper="Newell et al., ECCV 2016")
def hourglass_vehicle20(
    num_classes: int = 0,
    loss: str = "softmax",
    pretrained: bool = True,
    use_gpu: bool = False,
    stacks: int = 3,
    depth: int = 4,
    width: int = 256,
    targets: str = "gaussian",
) -> StackedHourglass:
    """Build the network; it finds points, so classes and the host's losses do not matter to it.

    Args:
        num_classes, loss, pretrained, use_gpu: taken because the host gives them; there are no published weights.
        stacks, depth, width, targets: see :class:`StackedHourglass`.

    Example:
        >>> sum(p.numel() for p in hourglass_vehicle20().parameters())
        9707388
    """
    return StackedHourglass(stacks=stacks, depth=depth, width=width, targets=targets)
