"""What an engine is asked for: conditions on the fields of a gallery's images, in Milvus's language."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

FIELDS = {"camera": "of_camera", "identity": "of_identity", "track": "of_track"}  # by what images are grouped


def of_cameras(asked: Collection[str], refused: Collection[str]) -> str:
    """Return the expression for images of some cameras, and not of others."""
    parts = [within("of_camera", [f"1 {one}" for one in sorted(asked)])] if asked else []
    parts += [f"not ({within('of_camera', [f'1 {one}' for one in sorted(refused)])})"] if refused else []
    return " and ".join(parts)


def of_times(least: float, most: float) -> str:
    """Return the expression for images of a time, both ends within."""
    parts = [f"moment {sign} {limit!r}" for sign, limit in ((">=", least), ("<=", most)) if abs(limit) < float("inf")]
    return " and ".join(parts)


def of_names(names: Collection[str]) -> str:
    """Return the expression for images of these names."""
    return within("name", sorted(names))


def within(field: str, values: Sequence[str]) -> str:
    """Return the expression for images that have one of some values in a field."""
    return f"{field} in {json.dumps(list(values), ensure_ascii=False)}"
