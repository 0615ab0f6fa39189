"""Sets whose images are first brought to a fixed square: the x8 vehicle protocols of KGNet."""

from __future__ import annotations

import PIL.Image

from torchreid_xres.data.base import CrossResolutionDataset

SIDE = 128


class SquareDataset(CrossResolutionDataset):
    """A set in which "as captured" means resized to 128 x 128, whatever the file's size and shape.

    So an image at rate 8 is 16 x 16 (KGNet, Section 4). Items are as in ``CrossResolutionDataset``.
    """

    rates = (8.0,)

    def read(self, path: str) -> PIL.Image.Image:
        return super().read(path).resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)
