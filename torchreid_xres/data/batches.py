"""Batches of items that also hold the camera's own pixels, which differ in size, and mirrored batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from torchreid_xres.data.base import CrossResolutionDataset, summands


def with_native(loader: DataLoader) -> DataLoader:
    """Let the items of a loader hold ``native``, too; a batch has a list of them. Sets of the host have none.

    Returns:
        The same loader.
    """
    members = summands(loader.dataset)
    if all(isinstance(member, CrossResolutionDataset) for member in members):
        for member in members:
            member.native = True
        loader.collate_fn = collated
    return loader


def collated(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a batch as torch makes it, in which ``native`` stays a list: (h, w, 3) each, of any sizes."""
    batch = default_collate([{key: value for key, value in item.items() if key != "native"} for item in items])
    return batch | ({"native": [item["native"] for item in items]} if "native" in items[0] else {})


def mirrored(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch of mirrored images; ``mirrored`` (N,) says so to a network that looks at other keys, too.

    Example:
        >>> batch = mirrored({"img": torch.arange(3.0).view(1, 1, 1, 3)})
        >>> batch["img"].flatten().tolist(), batch["mirrored"].tolist()
        ([2.0, 1.0, 0.0], [True])
    """
    img = batch["img"]
    return {**batch, "img": img.flip(-1), "mirrored": torch.ones(len(img), dtype=torch.bool)}
