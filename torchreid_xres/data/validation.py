"""A validation part: some training identities, kept out of the training, are queries and a gallery like the test's.

What is chosen (a variant, an epoch, a weight) is chosen there, so that the test part is looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from torchreid_xres.data.split import Image, Split, group, one_per_identity, shuffled, with_match

PARTS = ("test", "validation")
LARGEST_SHARE = 0.5

T = TypeVar("T")


class Carved(NamedTuple):
    """A set's training images in two: those left to train on, and the validation part.

    Attributes:
        train: images of the identities left.
        query: of the identities kept out.
        gallery: likewise.
        identities: how many are kept out.
    """

    train: list[Image]
    query: list[Image]
    gallery: list[Image]
    identities: int


def carve(split: Split, share: float, salt: str, name: Callable[[Image], str], natural: bool) -> Carved:
    """Keep some training identities out, and make queries and a gallery of their images by the protocol of the test.

    The identities are drawn by a hash. Queries are those images that are low in training. Where all are sharp, or all
    low, queries are the images of the cameras that the test's low queries come from; if the gallery shares those, one
    image of each identity and camera. Without cameras one image of each identity is the gallery. Where the low
    resolution is in the pictures, every image stays as captured (see :func:`sides`), else queries are low and the
    gallery is sharp.

    Args:
        split: of the set.
        share: of the training identities to keep out, above 0, at most 0.5.
        salt: what the draw depends on; name the set and the split.
        name: of an image, the same on every machine.
        natural: whether the set's low resolution is in the pictures.

    Raises:
        ValueError: if fewer than 2 identities are left on one side, or fewer than 2 kept out have a query.

    Example:
        >>> images = [Image(f"{pid}_{camid}", pid, camid, low=camid == 0) for pid in range(5) for camid in (0, 1)]
        >>> parts = carve(Split("", images, [], []), 0.4, "here", lambda image: image.path, natural=False)
        >>> len(parts.train), [image.path for image in parts.query], [image.path for image in parts.gallery]
        (6, ['2_0', '3_0'], ['2_1', '3_1'])
    """
    pids = shuffled({image.pid for image in split.train}, salt)
    held = set(pids[: round(share * len(pids))])
    left = len(pids) - len(held)
    if min(len(held), left) < 2:
        raise ValueError(
            f"a validation share of {share:g} (data.validation) keeps {len(held)} of {len(pids)} training identities "
            f"out of the training and leaves {left}; both need at least 2"
        )
    images = [image for image in split.train if image.pid in held]
    query, gallery = _test_like(images, split, salt, name, natural)
    if len({image.pid for image in query}) < 2:
        raise ValueError(
            f"of {len(held)} training identities kept out by a validation share of {share:g} (data.validation) fewer "
            "than 2 have an image that can be searched under another camera; a larger share has more"
        )
    return Carved([image for image in split.train if image.pid not in held], sorted(query), sorted(gallery), len(held))


def _test_like(
    images: Sequence[Image], split: Split, salt: str, name: Callable[[Image], str], natural: bool
) -> tuple[list[Image], list[Image]]:
    cameras = group(images, lambda image: image.pid).values()
    if all(len({image.camid for image in of_one}) == 1 for of_one in cameras):
        query, gallery = one_per_identity(images, salt)
        low = {image.path: image.low for image in images}
        if natural:
            return [image._replace(low=low[image.path]) for image in query], gallery
        gallery = [image._replace(low=False) for image in gallery]
        return with_match(query, gallery), gallery
    if natural:
        return sides(images, mixed_cameras(split.train), salt, name)
    if len({image.low for image in images}) == 1:
        far = {image.camid for image in split.query if image.low}
        apart = far.isdisjoint(image.camid for image in split.gallery)
        images = [image._replace(low=apart and image.camid in far) for image in images]
    query, gallery = sides(images, False, salt, name)
    asked = {image.path for image in query}
    gallery = [image._replace(low=False) for image in gallery if image.path not in asked]
    return [image._replace(low=True) for image in with_match(query, gallery)], gallery


def mixed_cameras(images: Sequence[T]) -> bool:
    """Return whether low images come from the same cameras as others, so that neither is a side of its own."""
    low, sharp = ({image.camid for image in images if image.low is side} for side in (True, False))
    return not low.isdisjoint(sharp)


def sides(images: Sequence[T], mixed: bool, salt: str, name: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """Return queries and a gallery made of images of some identities; no queries if none has a match.

    Queries are the low images, against all others. Where there are none, or they have no match under another camera, or
    low images are no side of their own, queries are one image of each identity and camera, against all (those of the
    query's own camera do not count).

    Args:
        images: with ``pid``, ``camid`` and ``low``.
        mixed: low images are no side of their own, see :func:`mixed_cameras`.
        salt: of the draw.
        name: of an image, the same on every machine.
    """
    gallery = [image for image in images if not image.low]
    query = [] if mixed else with_match([image for image in images if image.low], gallery)
    if query:
        return query, gallery
    drawn = group(shuffled(images, salt, key=name), key=lambda image: (image.pid, image.camid))
    return with_match([of_one[0] for of_one in drawn.values()], images), list(images)
