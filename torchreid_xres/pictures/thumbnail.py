"""Small pictures that lie in a page itself."""

from __future__ import annotations

import base64
import io

import PIL.Image

HEIGHT = 128  # pixels
WIDEST = 2  # times its height
QUALITY = 80  # of its JPEG


def thumbnail(img: PIL.Image.Image) -> str:
    """Return a picture as a small JPEG in a data URI, without what its file told of it.

    A small one is enlarged in squares, so that its pixels can be seen.

    Args:
        img: 8-bit RGB.
    """
    scale = min(HEIGHT / img.height, WIDEST * HEIGHT / img.width)
    size = max(1, round(img.width * scale)), max(1, round(img.height * scale))
    small = img.resize(size, PIL.Image.Resampling.NEAREST if scale >= 2 else PIL.Image.Resampling.BICUBIC)
    small.info.clear()  # or Pillow writes a comment of the original file
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
