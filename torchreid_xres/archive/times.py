"""Times of pictures: a date, or seconds from the start of a video."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import PIL.Image

# EXIF: the folder of a camera's own notes, when it took the picture, and when the file was changed.
_NOTES, _TAKEN, _CHANGED = 0x8769, 0x9003, 0x0132
_JPEG, _EXIF = b"\xff\xd8", b"Exif\0"
_WITH_EXIF = ("JPEG", "MPO", "TIFF", "WEBP")  # of others Pillow finds it by decoding them


def moment(text: str) -> tuple[str, float]:
    """Return what kind of a time it is, ``seconds`` or ``date``, and the time as a number that can be compared.

    Args:
        text: a number, or a date as ISO 8601 has it; without a zone it is of this machine's.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> moment("12.5"), moment("2024-05-01 12:00:00+00:00")
        (('seconds', 12.5), ('date', 1714564800.0))
    """
    with suppress(ValueError):
        if math.isfinite(seconds := float(text)):
            return "seconds", seconds
    try:
        return "date", datetime.fromisoformat(text.strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"the time {text!r} is neither seconds nor a date such as 2024-05-01 or 2024-05-01T12:30:00"
        ) from None


def date_taken(path: Path) -> str | None:
    """Return when a picture was taken, by its EXIF, as ISO 8601; None if it does not say."""
    try:
        content = path.read_bytes()
        if content.startswith(_JPEG) and _EXIF not in content:  # Pillow would parse the file a second time
            return None
        with PIL.Image.open(path) as img:
            if img.format not in _WITH_EXIF:
                return None
            exif = img.getexif()
            text = exif.get_ifd(_NOTES).get(_TAKEN) or exif.get(_CHANGED)
            return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat() if text else None
    except Exception:  # damaged EXIF, of which viewers show the picture, too
        return None
