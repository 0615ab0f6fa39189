"""Rows as a table of text, whatever names are in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from tabulate import tabulate

from torchreid_xres.terminal import printable, printable_lines

# In Markdown: the end of a cell, the start of HTML, and where a link or a picture begins its address.
_MARKDOWN = re.compile(r"[|<]|(?<=\])\(")


def text_table(
    rows: Sequence[Mapping[str, Any] | Sequence], style: str = "github", headers: Any = "keys", **how: Any
) -> str:
    r"""Return rows as a table that no name in them can break, or make more than a table.

    Control characters become escapes, line feeds too (but in the style ``grid``, which has cells of several lines). In
    Markdown ``|``, ``<`` and what makes links get a backslash; LaTeX and HTML are escaped by ``tabulate``.

    Args:
        rows: dictionaries with the same keys, or sequences.
        style: a table format of ``tabulate`` (``github``, ``latex``, ``simple``, ...).
        headers: of sequences; of dictionaries the keys.
        **how: what ``tabulate`` takes; texts that look like numbers stay as they are unless it says so.

    Example:
        >>> print(text_table([{"file": "a|b\n.jpg", "score": 0.5}]))
        | file       | score   |
        |------------|---------|
        | a\|b\n.jpg | 0.5     |
    """

    def shown(value: Any) -> Any:
        if not isinstance(value, (str, PathLike)):
            return value
        text = printable_lines(str(value)) if style == "grid" else printable(value)
        return _MARKDOWN.sub(r"\\\g<0>", text) if style in ("github", "pipe") else text

    clean = [
        {shown(key): shown(value) for key, value in row.items()}
        if isinstance(row, Mapping)
        else [shown(value) for value in row]
        for row in rows
    ]
    names = headers if isinstance(headers, str) else [shown(name) for name in headers]
    return tabulate(clean, headers=names, tablefmt=style, **{"disable_numparse": True, **how})
