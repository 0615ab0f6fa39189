"""PRPR's restoration network as a registered model (Peng et al., Science China Information Sciences 2024)."""

from __future__ import annotations

from typing import Any

from torchreid_xres.models.registry import MODELS
from torchreid_xres.sr.pyramid import PyramidRestorer


@MODELS.register("prpr_restorer", paper="PRPR, Science China Information Sciences 2024")
def prpr_restorer(
    num_classes: int = 0, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = False, **options: Any
) -> PyramidRestorer:
    """Build the restorer; it takes images in [0, 1] and gives a pyramid of images, whatever the identities.

    Args:
        num_classes, loss, pretrained, use_gpu: the host's four keywords, without effect here.
        **options: see :class:`PyramidRestorer`.

    Raises:
        TypeError: for an option that the restorer does not have.
    """
    return PyramidRestorer(**options)
