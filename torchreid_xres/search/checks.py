"""What about a query looks as if its answer will be poor: a line each, and never a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from torchreid_xres.archive.reading import sharpness
from torchreid_xres.data.io import orientation

if TYPE_CHECKING:
    from torchreid_xres.inference.extractor import Extractor, Prepared
    from torchreid_xres.search.reader import Reader

WIDE, LARGE = 1.5, 4.0  # times the archive's own pictures: by shape those few widest, by area the middle one
BLURRED = 0.02  # share of the archive's own pictures, the most blurred; half as sharp as the best of them is told of
_TURNED = {3: "by half a turn", 4: "upside down and mirrored"}


class Checks:
    """What a gallery's own pictures are like, to hold queries against.

    Args:
        gallery: built before; of one of an older version less is known.
        extractor: that prepares the queries.
    """

    def __init__(self, gallery: Reader, extractor: Extractor) -> None:
        self.extractor = extractor
        sizes = np.array(gallery.sizes, dtype=float).reshape(-1, 2)
        self.widest, self.area = 0.0, 0.0
        if len(sizes):
            self.widest = float(np.quantile(sizes[:, 1] / sizes[:, 0], 0.99))
            self.area = float(np.median(sizes.prod(1)))
        known = [row.sharpness for row in gallery.rows if row.sharpness is not None]
        self.blurred = float(np.quantile(known, BLURRED)) / 2 if known else 0.0

    def told(self, file: str | PathLike, prepared: Prepared, box: Sequence[int] | None = None) -> list[str]:
        """Return what is to be said of a query.

        Args:
            file: the picture.
            prepared: what the network gets of it.
            box: the part of it that is asked for; None: all.
        """
        lines = []
        height, width = prepared.size
        if box is None and width / height > WIDE * self.widest > 0 and height * width > LARGE * self.area:
            lines.append(
                f"it looks like a whole scene ({width}x{height}, wider and larger than the pictures here): "
                "--box X Y W H names the part that is meant"
            )
        encoder = self.extractor.query_encoder
        low = self.extractor.is_low(prepared.size)
        if encoder is not None and encoder.about["threshold"] is not None:
            magnification, most = self.extractor.size[0] / height, encoder.about["magnifications"][-1]
            if magnification > most:
                lines.append(
                    f"it is smaller than anything that adapt learned from: enlarged {magnification:.1f} times, and "
                    f"{most:.1f} is the most there"
                )
        if not low and sharpness(prepared.pixels) < self.blurred:
            lines.append(f"it is blurred: {100 - 100 * BLURRED:g} % of the pictures here are more than twice as sharp")
        turned = _TURNED.get(_orientation(file))
        if turned:
            lines.append(f"its EXIF has it turned {turned}, and so it was: look whether it is upright")
        return lines


def _orientation(file: str | PathLike) -> int:
    with PIL.Image.open(file) as img:
        return orientation(img)
