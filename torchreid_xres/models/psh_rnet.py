"""PS-HRNet: VDSR-CA and HRNet-ReID, trained beside a twin that sees the high-resolution images.

G. Zhang, Y. Ge, Z. Dong, H. Wang, Y. Zheng, S. Chen, "Deep High-Resolution Representation Learning for
Cross-Resolution Person Re-Identification", IEEE TIP 2021 (arXiv 2105.11722). This is the student L with its front
end G; the teacher H is an :class:`HRNetReID` of its own, held by the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchreid_xres.models.hrnet_reid import HRNetReID, HRNetReIDOutput
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization, parts_of_front_end, restored_images
from torchreid_xres.models.registry import MODELS
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import Part
from torchreid_xres.sr import build_front_end


class PSHRNetOutput(NamedTuple):
    """What a training step needs."""

    reid: HRNetReIDOutput
    restored: Tensor  # G(x_l), (N, 3, H, W), normalised as the loader's images


@MODELS.register("psh_rnet", paper="PS-HRNet, IEEE TIP 2021")
class PSHRNet(nn.Module):
    """The student of PS-HRNet: every image, query or gallery, goes through the front end first.

    Args:
        num_classes: training identities; 0 for features only.
        loss: ``softmax`` or ``triplet``, what the host's engines get in training.
        pretrained: start HRNet from ImageNet weights.
        use_gpu: as in the host; unused.
        sr: registered front end.
        sr_scale: whole-number factor of a front end with a grid of its own.
        sr_weights: file of weights of the front end.
        sr_options: sizes of the front end.
        reid_weights: file of a trained :class:`HRNetReID` to start from; layers that do not fit are left out.
        mean, std: the loader's normalisation.
        **reid: sizes of :class:`HRNetReID`.

    Example:
        >>> import torch
        >>> model = PSHRNet(pretrained=False, backbone="hrnet_w18_small", sr_options={"depth": 3, "features": 8})
        >>> model.eval()(torch.zeros(1, 3, 64, 32)).shape
        torch.Size([1, 6656])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        sr: str = "vdsr_ca",
        sr_scale: int = 2,
        sr_weights: str = "",
        sr_options: Mapping[str, Any] | None = None,
        reid_weights: str = "",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **reid: Any,
    ) -> None:
        super().__init__()
        self.normalize = Normalization(mean, std)
        self.front_end = build_front_end(sr, scale=sr_scale, weights=sr_weights, **dict(sr_options or {}))
        self.reid = HRNetReID(num_classes, loss, pretrained and not reid_weights, use_gpu, **reid)
        if reid_weights:
            load_weights(self.reid, reid_weights)

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``)."""
        return parts_of_front_end(self.front_end) | self.reid.named_parts()

    def restore(self, img: Tensor) -> Tensor:
        """Pass normalised images (N, 3, H, W) through the front end G; the result is in [0, 1]."""
        return restored_images(self.front_end, self.normalize, img)

    def forward(self, img: Tensor, full: bool = False, detached: bool = False) -> Any:
        """Return the descriptor (evaluation), what the host's loss wants (training), or everything.

        Args:
            img: (N, 3, H, W), normalised; sides that are multiples of 32.
            full: return a :class:`PSHRNetOutput`.
            detached: let no gradient of the student's outputs reach the front end.
        """
        restored = self.normalize(self.restore(img))
        output = self.reid(restored.detach() if detached else restored, full)
        return PSHRNetOutput(output, restored) if full else output
