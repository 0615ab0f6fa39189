"""The images of a set, and how they are put into parts: by hashes of names, so that nothing is left to chance."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Image(NamedTuple):
    """One image of a set.

    Attributes:
        path: the file.
        pid: identity, in the set's own numbers.
        camid: camera.
        low: low resolution by the protocol.
    """

    path: str
    pid: int
    camid: int
    low: bool = False


class Split(NamedTuple):
    """The images of one split; the manifest's names are relative to ``folder``."""

    folder: str
    train: list[Image]
    query: list[Image]
    gallery: list[Image]


def shuffled(items: Iterable[T], salt: str, key: Callable[[T], object] = str) -> list[T]:
    """Order things by the SHA-256 of ``"{salt}:{key(thing)}"``: a shuffle that is the same on every machine.

    Args:
        items: what to order.
        salt: another salt is another order.
        key: what identifies a thing; for files the name without the folder, which differs between machines.

    Example:
        >>> shuffled(range(5), "viper:0")
        [2, 1, 3, 4, 0]
    """
    return sorted(items, key=lambda item: hashlib.sha256(f"{salt}:{key(item)}".encode()).digest())


def hashed(name: str) -> int:
    """Return 32 bits of a name's SHA-256, the same on every machine: names that differ little fall far apart.

    Example:
        >>> [hashed(name) % 4 for name in ("a1.jpg", "a2.jpg", "a3.jpg", "a4.jpg")]
        [1, 3, 2, 2]
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def group(images: Iterable[T], key: Callable[[T], Hashable]) -> dict:
    """Group things by a key; groups and their members keep the order of appearance."""
    groups: dict = {}
    for image in images:
        groups.setdefault(key(image), []).append(image)
    return groups


def with_match(query: Sequence[Image], gallery: Sequence[Image]) -> list[Image]:
    """Leave out queries without a gallery image of their identity under another camera: no ranking can find them."""
    cameras: dict[int, set[int]] = {}
    for image in gallery:
        cameras.setdefault(image.pid, set()).add(image.camid)
    kept = [image for image in query if cameras.get(image.pid, set()) - {image.camid}]
    if len(kept) < len(query):
        logger.info(
            "%d of %d queries have no match in the gallery and are left out", len(query) - len(kept), len(query)
        )
    return kept


def one_per_identity(images: Sequence[Image], salt: str) -> tuple[list[Image], list[Image]]:
    """Draw one gallery image per identity, the rest are low-resolution queries; for sets without camera labels.

    Args:
        images: the test images.
        salt: what the draw depends on beside the file names.

    Returns:
        Queries, with ``camid`` 0 and low, and gallery, with ``camid`` 1. The host leaves out gallery images of the
        query's camera, so the two sides must differ.
    """
    drawn = {
        shuffled(members, salt, key=lambda image: os.path.basename(image.path))[0].path
        for members in group(images, lambda image: image.pid).values()
    }
    query = [image._replace(camid=0, low=True) for image in images if image.path not in drawn]
    gallery = [image._replace(camid=1) for image in images if image.path in drawn]
    return query, gallery
