"""Training pictures kept in memory: an epoch decodes and resizes a file once, not once each epoch."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np
import PIL.Image

from torchreid_xres.data.native import input_resize


class PictureCache:
    """Pictures of one size as 8-bit RGB, in memory that forked loader processes share with each other.

    The memory is taken page by page as pictures come in. A process that was not forked starts with an empty cache.

    Args:
        count: pictures, by index from 0.
        height: of each, pixels.
        width: of each, pixels.
        resize: brings a picture to that size.

    Example:
        >>> cache = PictureCache(2, 4, 2, resize=lambda img: img.resize((2, 4)))
        >>> img, size = cache.get(1, read=lambda: PIL.Image.new("RGB", (8, 8), "red"))
        >>> img.size, size
        ((2, 4), (8, 8))
    """

    def __init__(
        self, count: int, height: int, width: int, resize: Callable[[PIL.Image.Image], PIL.Image.Image]
    ) -> None:
        self._shape = count, height, width
        self._resize = resize
        # Anonymous and shared: no file behind it, and none of the small limits of /dev/shm.
        self._pictures = np.frombuffer(mmap.mmap(-1, self.needed(*self._shape)), np.uint8).reshape(*self._shape, 3)
        self._sizes = np.frombuffer(mmap.mmap(-1, count * 8), np.int32).reshape(count, 2)  # as read; 0: absent

    @staticmethod
    def needed(count: int, height: int, width: int) -> int:
        """Return the bytes that so many pictures take."""
        return count * height * width * 3

    def __reduce__(self) -> tuple:
        return type(self), (*self._shape, self._resize)

    def get(self, index: int, read: Callable[[], PIL.Image.Image]) -> tuple[PIL.Image.Image, tuple[int, int]]:
        """Return a picture at the cache's size, and the height and width it was read with.

        Args:
            index: which.
            read: gives the picture as RGB; called if it is not here yet.
        """
        height, width = self._sizes[index].tolist()
        if not height:
            img = read()
            height, width = img.height, img.width
            self._pictures[index] = np.asarray(self._resize(img))
            self._sizes[index] = height, width  # last: another process may look at any time
        return PIL.Image.fromarray(self._pictures[index]), (height, width)


def cache_for(transform: Callable | None, count: int, megabytes: int) -> PictureCache | None:
    """Return a place for pictures at the size that a transform first brings them to.

    Args:
        transform: of a data set.
        count: pictures.
        megabytes: the most that they may take, in MiB.

    Returns:
        The place; None if they take more, or if the transform does not begin with a resize to a fixed height and width.
    """
    resize = input_resize(transform)
    if resize is None or PictureCache.needed(count, *resize.size) > megabytes * 2**20:
        return None
    return PictureCache(count, *resize.size, resize=resize)
