"""What a model's front end makes of images, to look at: one question to all methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial, singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_xres.image import resize
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.models.dgrl import DGRL
from torchreid_xres.models.kgnet import KGNet
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.msifla import MSIFLA
from torchreid_xres.models.prpr import PRPR
from torchreid_xres.models.psh_rnet import PSHRNet
from torchreid_xres.models.sr_reid import SRReID

# Turns a batch of normalised images into restored ones, in [0, 1] up to overshoot.
Restore = Callable[[Mapping[str, Any], Normalization], Tensor]


def has_front_end(model: nn.Module) -> bool:
    """Return whether a network restores low-resolution images, so that there is something to see."""
    return _front_end(model) is not None


@torch.no_grad()
def restored_view(model: nn.Module, batch: Mapping[str, Any], normalize: Normalization | None = None) -> Tensor | None:
    """Return what the re-ID network behind a model's front end sees of test images, as images.

    Of KGNet that is the recovered image before its alignment, of MSIFLA the highest scale, of PRPR the level of the
    pyramid that first reaches the network's size.

    Args:
        model: one of ours or of the host, in evaluation mode.
        batch: a loader's batch with ``img`` (N, 3, H, W), normalised, ``low``, ``rate``, ``size`` and ``role``.
        normalize: the loader's normalisation; None for ImageNet's figures.

    Returns:
        (N, 3, H, W) in [0, 1]; images that pass the front end by are as they came. None if the model has none.

    Example:
        >>> model = SRReID(pretrained=False).eval()
        >>> restored_view(model, {"img": torch.zeros(2, 3, 64, 32), "low": torch.tensor([True, False])}).shape
        torch.Size([2, 3, 64, 32])
    """
    restore = _front_end(model)
    if restore is None:
        return None
    img = batch["img"]
    normalize = normalize or Normalization().to(img.device)
    view = normalize.undo(img)
    chosen = _restored_ones(model, batch)
    if chosen.any():
        part = {
            key: torch.as_tensor(batch[key])[chosen] for key in ("rate", "low", "size") if key in batch
        }
        if "native" in batch:
            part["native"] = [batch["native"][i] for i in torch.where(chosen)[0].tolist()]
        view[chosen] = restore({"img": img[chosen], **part}, normalize).to(view.dtype).clamp(0, 1)
    return view


def restores(model: nn.Module) -> bool:
    """Return whether a model has a front end whose images :func:`restored_view` returns."""
    return _front_end(model) is not None


def _restored_ones(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return which images go through the front end, (N,) bool, as the models' own ``extract`` has it."""
    if isinstance(model, Asymmetric):  # the query encoder has no front end
        chosen = _restored_ones(model.gallery, batch)
        return chosen & ~model.for_query(batch)
    if isinstance(model, (PSHRNet, MSIFLA, PRPR)):
        return torch.ones(len(batch["img"]), dtype=torch.bool)
    return model.taken_as_low(batch) if isinstance(model, KGNet) else torch.as_tensor(batch["low"], dtype=torch.bool)


@singledispatch
def _front_end(model: nn.Module) -> Restore | None:
    return None


@_front_end.register
def _(model: Asymmetric) -> Restore | None:
    return _front_end(model.gallery)


@_front_end.register(SRReID)
@_front_end.register(PSHRNet)
def _(model: SRReID | PSHRNet) -> Restore:
    return lambda batch, normalize: model.restore(batch["img"])


@_front_end.register
def _(model: DGRL) -> Restore | None:
    def restore(batch: Mapping[str, Any], normalize: Normalization) -> Tensor:
        facts = (batch[key].tolist() for key in ("rate", "size", "low"))
        return normalize.undo(model.restore(batch["img"], *facts))

    return None if model.restorer is None else restore


@_front_end.register
def _(model: KGNet) -> Restore | None:
    return None if model.recovery is None else lambda batch, normalize: model.guide(batch["img"]).restored


@_front_end.register
def _(model: MSIFLA) -> Restore:
    return lambda batch, normalize: normalize.undo(model.cascade(batch["img"])[-1])


@_front_end.register
def _(model: PRPR) -> Restore:
    return partial(_from_pyramid, model)


def _from_pyramid(model: PRPR, batch: Mapping[str, Any], normalize: Normalization) -> Tensor:
    height, width = batch["img"].shape[-2:]
    views = []
    for small in model.captured(batch):
        scale = min(max(math.ceil(height / small.shape[-2]), 2), 4)
        views.append(resize(model.restorer(small[None])[scale - 2], (height, width)))
    return torch.cat(views)
