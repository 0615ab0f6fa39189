"""What a trained front end is worth as a restorer: its images beside plainly enlarged ones, on images held out."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from torchreid_xres.data.base import CrossResolutionDataset
from torchreid_xres.data.degrade import low_size
from torchreid_xres.engine.board import normalization
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.models.restored import restored_view, restores

logger = logging.getLogger(__name__)

LEAST_GAIN = 0.05  # dB below which a front end does nothing
LARGEST_PSNR = 100.0  # dB that equal images count


@torch.no_grad()
def restoration(model: nn.Module, gallery: object, count: int = 64, batch_size: int = 16) -> dict[str, Any] | None:
    """Compare restored low views of high-resolution test images with their originals, at each rate of the protocol.

    Where the low images are low by nature, the rates are those of the pairs that were trained on.

    Args:
        model: in evaluation mode.
        gallery: a data set in the mode ``gallery``, with the loader's transform.
        count: at most so many images, the same each time, spread over the set.
        batch_size: of the images restored at once.

    Returns:
        ``images``, and ``by_rate``: under each rate ``psnr`` (dB) and ``ssim`` of the restored views over RGB at the
        network's size, and ``psnr_gain`` and ``ssim_gain`` over the views as the loader enlarged them. None if the
        model has no front end that can learn, or the set no high-resolution image or no rate.
    """
    # A front end without parameters is plain enlargement itself.
    learned = any(True for _ in getattr(model, "front_end", model).parameters())
    # Low queries of an asymmetric model meet the query encoder, which has none.
    own = restores(model) and not isinstance(model, Asymmetric)
    if not (isinstance(gallery, CrossResolutionDataset) and own and learned):
        return None
    high = [path for path, *_ in gallery.gallery if gallery.rate_of[path] == 1.0]
    rates = [rate for rate in gallery.options["pair_rates" if gallery.natural else "rates"] if rate > 1]
    if not high or not rates:
        return None
    chosen = [high[i] for i in np.linspace(0, len(high) - 1, min(count, len(high))).round().astype(int)]
    device = next(model.parameters()).device
    normalize = normalization(gallery).to(device)
    by_rate = {}
    for rate in sorted(set(rates)):
        found: dict[str, list[Tensor]] = defaultdict(list)
        for start in range(0, len(chosen), batch_size):
            pairs = [_pair(gallery, path, rate) for path in chosen[start : start + batch_size]]
            batch = default_collate([low for low, _ in pairs])
            batch["img"] = batch["img"].to(device)
            views = {"restored": restored_view(model, batch, normalize).float(), "plain": normalize.undo(batch["img"])}
            original = normalize.undo(torch.stack([image for _, image in pairs]).to(device))
            for name, image in views.items():
                found[f"psnr_{name}"].append(psnr(image, original).clamp(max=LARGEST_PSNR))
                found[f"ssim_{name}"].append(ssim(image, original))
        figures = {}
        for name in ("psnr", "ssim"):
            restored, plain = (torch.cat(found[f"{name}_{view}"]).mean().item() for view in ("restored", "plain"))
            figures |= {name: round(restored, 4), f"{name}_gain": round(restored - plain, 4)}
        by_rate[f"{rate:g}"] = figures
    return {"images": len(chosen), "by_rate": by_rate}


def _pair(gallery: CrossResolutionDataset, path: str, rate: float) -> tuple[dict[str, Any], Tensor]:
    """Return a low view of an image, as the loader gives one of a query, and the image."""
    image = gallery.read(path)
    size = torch.tensor(low_size(image.height, image.width, rate))
    low = {"img": gallery.transform(gallery.seen(path, rate)), "rate": rate, "low": True, "size": size, "role": "query"}
    return low, gallery.transform(image)


def tell(name: str, found: Mapping[str, Any]) -> None:
    """Log what a front end gained at each rate; one that does nothing is said to."""
    shown = ", ".join(
        f"x{rate} {figures['psnr_gain']:+.2f} dB (SSIM {figures['ssim_gain']:+.4f})"
        for rate, figures in found["by_rate"].items()
    )
    logger.info("%s: the front end over plain enlargement, %d held-out images: %s", name, found["images"], shown)
    idle = [f"x{rate}" for rate, figures in found["by_rate"].items() if figures["psnr_gain"] < LEAST_GAIN]
    if idle:
        logger.warning(
            "%s: the front end does nothing at %s: it gains less than %g dB over plain enlargement", name,
            ", ".join(idle), LEAST_GAIN,
        )  # fmt: skip
