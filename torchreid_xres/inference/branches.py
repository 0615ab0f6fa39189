"""A model's way from image to descriptor for one kind of image, as a function without a choice in it.

``extract`` of a model looks at every image of a batch and sends it one way or another. A file for another runtime holds
one way only; here each method says what its ways are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.data.degrade import undo_enlargement
from torchreid_xres.metrics.fusion import checked_weights
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.models.dgrl import DGRL
from torchreid_xres.models.dgrl_restorer import seen_rate
from torchreid_xres.models.kgnet import KGNet
from torchreid_xres.models.prpr import LEVELS, PRPR, eight_bits_again
from torchreid_xres.models.sr_reid import SRReID

# Normalised images (N, 3, H, W) at the network's size -> descriptors (N, D).
Way = Callable[[Tensor], Tensor]


def sent_to(model: nn.Module, batch: Mapping[str, Any]) -> list[str]:
    """Return which way, ``query`` or ``gallery``, each image of a loader's batch takes, as ``extract`` has it.

    Args:
        model: a network with both.
        batch: with ``img``, ``low``, ``size`` and ``role``.
    """
    if isinstance(model, Asymmetric):
        low = model.for_query(batch)
    else:
        low = model.taken_as_low(batch) if isinstance(model, KGNet) else torch.as_tensor(batch["low"])
    return ["query" if flag else "gallery" for flag in low.tolist()]


def by_role(roles: Sequence[str], described: Callable[[str, list[int]], Tensor]) -> Tensor:
    """Return descriptors (N, D) of images, those of each role described together.

    Args:
        roles: of each image.
        described: from a role and the places of its images to their descriptors.

    Example:
        >>> by_role(["b", "a", "b"], lambda role, rows: torch.full((len(rows), 1), ord(role))).flatten().tolist()
        [98, 97, 98]
    """
    rows = {role: [i for i, own in enumerate(roles) if own == role] for role in dict.fromkeys(roles)}
    found = torch.cat([described(role, chosen) for role, chosen in rows.items()])
    return found[torch.tensor([i for chosen in rows.values() for i in chosen]).argsort()]


def general_ways(model: nn.Module) -> Mapping[str, Way]:
    """Return those of a model's ways that do not look at an image's own size: none, some or all.

    Example:
        >>> sorted(general_ways(SRReID(pretrained=False).eval()))
        ['gallery', 'query']
    """
    unknown = hasattr(model, "extract") and ways.dispatch(type(model)) is ways.dispatch(object)
    if unknown or isinstance(model, PRPR) or (isinstance(model, Asymmetric) and hasattr(model.gallery, "extract")):
        return {}
    found = dict(ways(model, (1, 1)))
    if isinstance(model, DGRL) and model.restorer is not None:
        del found["query"]
    return found


@singledispatch
def ways(model: nn.Module, low_size: tuple[int, int]) -> Mapping[str, Way]:
    """Return what a model does with images, by their role; the same for all where the only key is empty.

    Args:
        model: one of ours or of the host, in evaluation mode.
        low_size: height and width of a query as the camera saw it, for methods that restore from there.

    Raises:
        ValueError: if the model tells images apart and has not said here how.

    Example:
        >>> model = SRReID(pretrained=False).eval()
        >>> sorted(ways(model, (21, 10))), list(ways(model.reid, (21, 10)))
        (['gallery', 'query'], [''])
    """
    if hasattr(model, "extract"):
        raise ValueError(f"{type(model).__name__} tells images apart, and it is not known how: it has no way here")
    return {"": model}


@ways.register
def _(model: SRReID, low_size: tuple[int, int]) -> Mapping[str, Way]:
    return {"query": model, "gallery": model.reid}


@ways.register
def _(model: Asymmetric, low_size: tuple[int, int]) -> Mapping[str, Way]:
    def sharp(encoder: nn.Module) -> Way:
        own = ways(encoder, low_size)
        return own.get("gallery", own.get("", encoder))

    return {"query": partial(model.by_query_encoder, sharp(model.query_encoder)), "gallery": sharp(model.gallery)}


@ways.register
def _(model: KGNet, low_size: tuple[int, int]) -> Mapping[str, Way]:
    return {
        "query": model,  # the student behind recovery and alignment
        "gallery": lambda img: F.normalize(model.teacher(img, classify=False).descriptor, dim=1),
    }


@ways.register
def _(model: DGRL, low_size: tuple[int, int]) -> Mapping[str, Way]:
    def query(img: Tensor) -> Tensor:
        size = (img.shape[-2], img.shape[-1])
        if model.restorer is not None:
            tail = model.restorer.tail_of(seen_rate(1.0, True, low_size, size[1]), low_size, size)
            if tail > 1:
                seen = model.normalize.undo(img)
                seen = undo_enlargement(seen, low_size, model.interpolation).clamp(0, 1)
                img = model.normalize(model.restorer(seen, tail, size))
        map4 = model._main(model.stems["sr"](img))[-1]
        return F.normalize(model.heads[0](map4)[1], dim=1)

    return {"query": query, "gallery": model}


@ways.register
def _(model: PRPR, low_size: tuple[int, int]) -> Mapping[str, Way]:
    # Checked here: inside the graph a check is a choice.
    roots = checked_weights(model.weights, len(LEVELS)).sqrt().tolist()

    def described(img: Tensor, captured: Tensor) -> Tensor:
        views = {level: model.at_size(x) for level, x in model.levels(captured).items()} | {LEVELS[0]: img}
        parts = [F.normalize(model.branches[level](view).float(), dim=1) for level, view in views.items()]
        return torch.cat([root * part for root, part in zip(roots, parts, strict=True)], dim=1)  # equation 3

    def gallery(img: Tensor) -> Tensor:
        return described(img, eight_bits_again(model.normalize.undo(img)))

    def query(img: Tensor) -> Tensor:
        seen = model.normalize.undo(img)
        return described(img, eight_bits_again(undo_enlargement(seen, low_size, model.interpolation)))

    return {"query": query, "gallery": gallery}
