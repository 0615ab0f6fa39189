"""Pages from the templates of this folder: what comes from names is escaped, what a template misses is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from torchreid_xres.version import __version__


def rendered(template: str, filters: dict[str, Callable], **values: Any) -> str:
    """Return an HTML document.

    Args:
        template: a file of this folder.
        filters: functions that the template calls, by name.
        **values: what it shows, beside the package's ``version``.

    Example:
        >>> rendered("answers.html", dict.fromkeys(("thumbnail", "in_words", "printable", "shown"), str))
        Traceback (most recent call last):
        jinja2.exceptions.UndefinedError: 'about' is undefined
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(version=__version__, **values)
