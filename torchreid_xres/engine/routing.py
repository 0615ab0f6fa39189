"""Which queries an asymmetric model's query encoder answers: found on sharp images, without a label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.data.camera import Camera
from torchreid_xres.data.degrade import low_size
from torchreid_xres.models.asymmetric import NEVER, Asymmetric
from torchreid_xres.models.layers import Normalization

ROUNDING = 1e-5  # of a cosine


def find_threshold(magnification: Tensor, query: Tensor, gallery: Tensor) -> float:
    """Return the magnification from which the query encoder is to answer.

    It is where the features of all views together are nearest to the sharp images': the gallery encoder's below, the
    query encoder's from there on.

    Args:
        magnification: of each view, (N,).
        query: (N,), cosine of the query encoder's feature of the view to the gallery encoder's of the sharp image.
        gallery: (N,), that of the gallery encoder's own feature of the view.

    Returns:
        Half way, by ratio, between two magnifications; 0 where the query encoder is never worse, and the largest
        finite number where it is never better.

    Example:
        >>> nearer = torch.tensor([0.9, 0.8, 0.7])
        >>> find_threshold(torch.tensor([1.0, 2.0, 8.0]), nearer, torch.tensor([1.0, 0.9, 0.2]))
        4.0
    """
    order = magnification.argsort()
    sorted_, gain = magnification[order].double(), (query - gallery)[order].double()
    gain[gain.abs() < ROUNDING] = 0
    # By the number of views that stay with the gallery encoder, 0 to N: what the rest gains.
    left = torch.cat((gain.flip(0).cumsum(0).flip(0), gain.new_zeros(1)))
    possible = torch.ones(len(left), dtype=torch.bool)
    possible[1:-1] = sorted_[1:] > sorted_[:-1]  # views magnified alike stay together
    left[~possible] = -torch.inf
    cut = len(left) - 1 - int(left.flip(0).argmax())  # of equal gains the one with the fewest for the query encoder
    if cut == 0:
        return 0.0
    return NEVER if cut == len(gain) else math.sqrt(sorted_[cut - 1] * sorted_[cut])


@torch.no_grad()
def calibrate(
    model: Asymmetric,
    batches: Iterable[Mapping[str, Tensor]],
    camera: Camera,
    normalize: Normalization,
    run: Callable[[Callable[[], Tensor], Tensor], Tensor] = lambda work, _: work(),
) -> dict[str, Any]:
    """Set a model's threshold, and the length of its query features to the mean of the gallery encoder's.

    Args:
        model: in evaluation mode; changed in place.
        batches: sharp images that it has not learned from: ``img`` (N, 3, H, W), normalised, and ``size`` (N, 2), as
            captured, pixels.
        camera: whose rates the views have, and how they are enlarged.
        normalize: the loader's normalisation.
        run: calls the network's work, as the caller's precision asks, with the batch of images.

    Returns:
        As JSON can hold it: ``threshold`` (None: no query goes to the query encoder), the number of ``images``, and
        ``by_rate``: {rate: median ``magnification``, mean cosines to the sharp images' features, ``query`` and
        ``gallery``, and number of ``views``}.

    Raises:
        ValueError: if there is no image.
    """
    steps = math.ceil(2 * math.log2(camera.rates[1]))
    rates = [*(2 ** (step / 2) for step in range(steps)), camera.rates[1]]  # half an octave apart
    found: dict[float, list[Tensor]] = {}
    lengths: list[Tensor] = []
    for batch in batches:
        img = batch["img"]
        sharp = run(lambda img=img: model.describe_gallery(img), img).float()
        lengths.append(sharp.norm(dim=1).double().cpu())
        for rate in rates:
            rows = [i for i, (h, _) in enumerate(batch["size"].tolist()) if camera.largest_rate(h) >= rate]
            if not rows:
                continue
            sizes = [tuple(batch["size"][i].tolist()) for i in rows]
            seen = [
                camera.view_at(image, size, rate)
                for image, size in zip(normalize.undo(img[rows]), sizes, strict=True)
            ]
            view = normalize(torch.stack(seen))
            small = torch.tensor([low_size(*size, rate) for size in sizes])
            about = {
                "img": view,
                "size": small,
                "role": ["query"] * len(rows),
                "low": torch.full((len(rows),), rate > 1),
                "rate": torch.full((len(rows),), rate, dtype=torch.float64),
            }
            cosines = [
                F.cosine_similarity(feature.float(), sharp[rows], dim=1).double().cpu()
                for feature in (
                    run(lambda view=view: model(view), view),
                    run(lambda about=about: model.extract_gallery(about), view),
                )
            ]
            found.setdefault(rate, []).append(torch.stack((img.shape[-2] / small[:, 0].double(), *cosines)))
    if not lengths:
        raise ValueError("the threshold is found on sharp images, and there are none")
    by_rate = {rate: torch.cat(parts, dim=1) for rate, parts in found.items()}  # (3, V)
    threshold = find_threshold(*torch.cat(list(by_rate.values()), dim=1))
    model.threshold.fill_(threshold)
    model.length.fill_(torch.cat(lengths).mean())
    return {
        "threshold": None if threshold == NEVER else round(threshold, 4),
        "images": sum(map(len, lengths)),
        "by_rate": {
            f"{rate:.3g}": {
                "views": part.shape[1],
                "magnification": round(part[0].median().item(), 3),
                "query": round(part[1].mean().item(), 4),
                "gallery": round(part[2].mean().item(), 4),
            }
            for rate, part in by_rate.items()
        },
    }
