"""The model that a gallery was made by: what the gallery says of it, and that no other one is used with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchreid_xres.inference.extractor import Extractor


def read_about(text: str, path: Path | str) -> dict[str, Any]:
    """Return what a gallery says of its model.

    Args:
        text: as it is kept.
        path: of the gallery, for the message.

    Raises:
        ValueError: if it does not say what is needed.
    """
    try:
        about = json.loads(text)
        lacks = ", ".join(sorted({"model", "weights_sha256", "full_size", "metric"} - about.keys()))
    except (ValueError, AttributeError) as error:
        lacks = f"all ({error})"
    if lacks:
        raise ValueError(f"{path} is not a readable gallery: what it says of its model lacks {lacks}")
    return about


def require_same(place: str, ours: dict[str, Any], extractor: Extractor) -> None:
    """Refuse an extractor other than the one that a gallery was made with.

    Args:
        place: of the gallery, for the message.
        ours: what it says of its model.
        extractor: to be used with it.

    Raises:
        ValueError: if it has other weights, or settings.
    """
    theirs, where = extractor.about, f"the gallery in {place} was made by {ours['model']}"
    if ours["weights_sha256"] != theirs["weights_sha256"]:
        raise ValueError(
            f"{where} with the weights {ours['weights_sha256'][:12]}; {extractor.weights} holds {theirs['model']} "
            f"with {theirs['weights_sha256'][:12]}. Features of two models cannot be compared: name another folder"
        )
    # A model goes by other names in other configurations.
    differing = [key for key in {**ours, **theirs} if key != "model" and ours.get(key) != theirs.get(key)]
    if differing:
        told = "; ".join(f"{key} is {ours.get(key)} there, {theirs.get(key)} here" for key in differing)
        raise ValueError(f"{where} with these weights but other settings: {told}")
