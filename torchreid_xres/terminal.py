"""What is printed reaches the terminal whatever names it holds, and a terminal that is gone ends no work."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

from tqdm import tqdm

# Control characters, those that turn the direction of writing, and Python's stand-ins for bytes that are no text.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSEEN_IN_LINES = re.compile(_UNSEEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))  # but tab and line feed
_CURSOR = re.compile("(\n|\x1b\\[A)*")  # what a progress bar moves by
_GONE = (errno.EPIPE, errno.EIO)


def printable(text: object) -> str:
    r"""Return a text as one line in which nothing acts on a terminal: control characters become escapes.

    Args:
        text: anything that has a text, such as a path.

    Example:
        >>> print(printable("a\x1b[2J\nb.jpg"))
        a\x1b[2J\nb.jpg
    """
    return _UNSEEN.sub(_escaped, str(text))


def printable_lines(text: str) -> str:
    """Return a text of several lines in which nothing acts on a terminal; a carriage return may begin it."""
    if _CURSOR.fullmatch(text):
        return text
    start = int(text.startswith("\r"))
    return text[:start] + _UNSEEN_IN_LINES.sub(_escaped, text[start:])


def _escaped(found: re.Match) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class Terminal:
    """A stream that takes any text: what its encoding lacks becomes escapes, and what nobody reads is dropped.

    Args:
        stream: to write to; everything else is asked of it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as it may be shown; nothing where the reader has left."""
        shown = printable_lines(text)
        with self._reader_may_leave():
            try:
                self._stream.write(shown)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits, if somebody reads it."""
        with self._reader_may_leave():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    @contextmanager
    def _reader_may_leave(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            with suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # also for what waits in its buffer


@contextmanager
def any_text() -> Iterator[None]:
    """Let standard output and standard error be a :class:`Terminal` each in a block."""
    with redirect_stdout(Terminal(sys.stdout)), redirect_stderr(Terminal(sys.stderr)):
        yield


def progress(items: Iterable | None = None, *, main: bool = True, **how: Any) -> tqdm:
    """Return tqdm's bar over some items; in a file, where it would be noise, it shows nothing.

    Args:
        items: to go over; None: the caller tells what is done.
        main: this process is the one that shows it.
        **how: tqdm's own keywords, such as ``desc``, ``unit`` and ``total``.

    Example:
        >>> sum(progress([1, 2, 3], desc="adding", unit="number"))
        6
    """
    return tqdm(items, leave=False, disable=not (main and sys.stderr.isatty()), **how)
