"""Which queries an asymmetric model's query encoder answers: found on sharp images, without a label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.data.camera import Camera
from torchreid_xres.data.degrade import low_size
from torchreid_xres.models.asymmetric import NEVER, Asymmetric
from torchreid_xres.models.layers import Normalization

ROUNDING = 1e-4  # of an agreement
LEAST = 3  # sharp images for a mean and a deviation over the others


def find_threshold(magnification: Tensor, query: Tensor, gallery: Tensor) -> float:
    """Return the magnification from which the query encoder is to answer.

    It is where all views together do best: with the gallery encoder below, with the query encoder from there on.

    Args:
        magnification: of each view, (N,).
        query: (N,), how near the query encoder's feature of the view is to the sharp image's (:func:`agreement`).
        gallery: (N,), how near the gallery encoder's own feature of the view is.

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


def counted(query: Tensor, sharp: Tensor, caution: float) -> Tensor:
    """Return a query encoder's agreements with a part of what it says otherwise of sharp images given back to it.

    That is its own manner, and not what resolution costs. What it costs in finding identities no image tells without a
    label: little on persons of two views, much on vehicles that look alike (``benchmarks/routing.py``).

    Args:
        query: (N,), of views (:func:`agreement`).
        sharp: (S,), of the same images as captured.
        caution: how much of its manner counts, 0 to 1.

    Example:
        >>> counted(torch.tensor([0.5, 0.25]), torch.tensor([0.5, 1.0]), caution=0.5).tolist()
        [0.625, 0.375]
    """
    return query + (1 - caution) * (1 - sharp.mean())


def agreement(features: Tensor, sharp: Tensor, own: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return how near features are to those of their own sharp images, alone and in what they say of all others.

    A search asks which of the *other* images are alike, those of the same person in another camera, so what counts is
    how far a view orders the others as its sharp image does. How well it finds its own sharp image says less: a network
    that sees both knows a picture by its colours long after it has lost whom it shows.

    Args:
        features: (V, D), of degraded views.
        sharp: (N, D), of all sharp images, N at least 3.
        own: of each view the row of its image in ``sharp``.

    Returns:
        The cosines (V,), and the correlation, over the other images, of their similarities to the view and to its sharp
        image, (V,); float64 both.

    Example:
        >>> sharp = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
        >>> cosine, agreed = agreement(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), sharp, own=[0, 0])
        >>> cosine.tolist(), [round(value, 2) for value in agreed.tolist()]
        ([1.0, 0.0], [1.0, 0.84])
    """
    sharp = F.normalize(sharp.double(), dim=1)
    columns = torch.as_tensor(own, device=sharp.device)
    similar = F.normalize(features.double(), dim=1) @ sharp.T  # (V, N)
    wanted = sharp[columns] @ sharp.T  # (V, N)
    others = torch.ones_like(similar, dtype=torch.bool).scatter_(1, columns[:, None], False)
    told, right = (one[others].view(len(own), -1) for one in (similar, wanted))  # (V, N - 1)
    told, right = (one - one.mean(dim=1, keepdim=True) for one in (told, right))
    return similar.gather(1, columns[:, None])[:, 0], F.cosine_similarity(told, right, dim=1, eps=1e-12)


@torch.no_grad()
def calibrate(
    model: Asymmetric,
    batches: Iterable[Mapping[str, Tensor]],
    camera: Camera,
    normalize: Normalization,
    run: Callable[[Callable[[], Tensor], Tensor], Tensor] = lambda work, _: work(),
    caution: float = 1.0,
) -> dict[str, Any]:
    """Set a model's threshold, and the length of its query features to the mean of the gallery encoder's.

    Args:
        model: in evaluation mode; changed in place.
        batches: sharp images that it has not learned from: ``img`` (N, 3, H, W), normalised, and ``size`` (N, 2), as
            captured, pixels.
        camera: whose rates the views have, and how they are enlarged.
        normalize: the loader's normalisation.
        run: calls the network's work, as the caller's precision asks, with the batch of images.
        caution: see :func:`counted`; at 1 no query is answered by the encoder that agrees less.

    Returns:
        As JSON can hold it: ``threshold`` (None: no query goes to the query encoder), the number of ``images``, and
        ``by_rate``: {rate: number of ``views``, median ``magnification``, and of ``query`` and ``gallery`` encoder the
        mean ``cosine`` to the sharp image's feature and the mean ``agreement``}.

    Raises:
        ValueError: if there are fewer than three images.
    """
    steps = math.ceil(4 * math.log2(camera.rates[1]))
    rates = [*(2 ** (step / 4) for step in range(steps)), camera.rates[1]]  # a quarter of an octave apart
    batches = list(batches)
    sharp = [run(lambda img=batch["img"]: model.describe_gallery(img), batch["img"]).float() for batch in batches]
    everyone = torch.cat([*sharp, torch.zeros(0, model.dim, device=model.length.device)])
    if len(everyone) < LEAST:
        raise ValueError(f"the threshold is found on at least {LEAST} sharp images, and there are {len(everyone)}")
    found: dict[float, list[Tensor]] = {}
    for batch, start in zip(batches, accumulate(map(len, sharp), initial=0), strict=False):
        for rate in rates:
            rows = [i for i, (h, _) in enumerate(batch["size"].tolist()) if camera.largest_rate(h) >= rate]
            if not rows:
                continue
            sizes = [tuple(batch["size"][i].tolist()) for i in rows]
            seen = [
                camera.view_at(image, size, rate)
                for image, size in zip(normalize.undo(batch["img"][rows]), sizes, strict=True)
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
            told = [batch["img"].shape[-2] / small[:, 0].double()]
            for work in (lambda view=view: model(view), lambda about=about: model.extract_gallery(about)):
                told += [part.cpu() for part in agreement(run(work, view), everyone, [start + row for row in rows])]
            found.setdefault(rate, []).append(torch.stack(told))
    by_rate = {rate: torch.cat(parts, dim=1) for rate, parts in found.items()}  # (5, V)
    magnification, _, query, _, gallery = torch.cat(list(by_rate.values()), dim=1)
    threshold = find_threshold(magnification, counted(query, by_rate[1.0][2], caution), gallery)
    model.threshold.fill_(threshold)
    model.length.fill_(everyone.norm(dim=1).mean())
    return {
        "threshold": None if threshold == NEVER else round(threshold, 4),
        "caution": caution,
        "images": len(everyone),
        "by_rate": {
            f"{rate:.3g}": {
                "views": part.shape[1],
                "magnification": round(part[0].median().item(), 3),
                "cosine": {"query": round(part[1].mean().item(), 4), "gallery": round(part[3].mean().item(), 4)},
                "agreement": {"query": round(part[2].mean().item(), 4), "gallery": round(part[4].mean().item(), 4)},
            }
            for rate, part in by_rate.items()
        },
    }
