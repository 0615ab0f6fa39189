"""Mends of the split files that several of the host's data sets write beside their images.

New files hold paths relative to their own folder, old ones are read wherever the folder is now. A host
without these mends does not find the images of a new file; remove the file and it writes its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchreid_xres.files import write_json as write_json_atomic
from torchreid_xres.host_mends.table import mend

# Marks a path that is relative to the split file's folder; other text in a file is left alone.
_HERE = "./"
_ABSOLUTE = re.compile(r"[\\/]|[A-Za-z]:[\\/]")


def _map_text(content: Any, change: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return change(content)
    if isinstance(content, (list, tuple)):
        return [_map_text(item, change) for item in content]
    if isinstance(content, dict):
        return {key: _map_text(item, change) for key, item in content.items()}
    return content


class _Reroot:
    """Turns the paths of a split file into paths that exist, if the folder has moved since.

    Args:
        folder: the split file's folder, below which the images are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moved: dict[str, str] = {}  # a folder as stored -> the same folder as it is now

    def __call__(self, text: str) -> str:
        if text.startswith(_HERE):
            return str(self.folder / text[len(_HERE) :])
        if not _ABSOLUTE.match(text):
            return text
        # Images of one folder move together: the file system is asked once for each folder.
        parent, name = re.fullmatch(r"(.*[\\/])(.*)", text, re.DOTALL).groups()
        if parent not in self.moved:
            self.moved[parent] = self._find(parent, name)
        return self.moved[parent] + name

    def _find(self, parent: str, name: str) -> str:
        if not os.path.exists(parent + name):
            parts = [part for part in re.split(r"[\\/]", parent) if part]
            for start in range(len(parts) + 1):  # the longest tail first
                here = self.folder.joinpath(*parts[start:])
                if (here / name).exists():
                    return f"{here}{os.sep}"
        return parent


@mend(
    "read-splits",
    "data/datasets/image/viper.py:40 and others: split files hold absolute paths, so a moved folder is not found",
    "utils.tools:read_json",
    within="data.datasets",
)
def _read_json(original: Callable) -> Callable:
    def read_json(fpath: str | os.PathLike) -> Any:
        return _map_text(original(fpath), _Reroot(Path(fpath).absolute().parent))

    return read_json


@mend(
    "write-splits",
    "data/datasets/image/viper.py:127 and others: absolute paths are written, into a file a kill can leave half done",
    "utils.tools:write_json",
    within="data.datasets",
)
def _write_json(original: Callable) -> Callable:
    def write_json(obj: Any, fpath: str | os.PathLike) -> None:
        path = Path(fpath).absolute()

        def relative(text: str) -> str:
            if not _ABSOLUTE.match(text) or path.parent not in Path(text).parents:
                return text
            return _HERE + Path(text).relative_to(path.parent).as_posix()

        write_json_atomic(_map_text(obj, relative), path)

    return write_json
