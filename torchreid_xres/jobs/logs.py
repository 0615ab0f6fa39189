"""What is printed also lands in a file: the host's own lines and our log messages alike."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO

from torchreid_xres.devices.distributed import is_main, process
from torchreid_xres.terminal import Terminal, printable_lines


class _Tee:
    """A stream that writes to two; everything else is asked of the first."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self.first, self.second = first, second

    def write(self, text: str) -> int:
        with suppress(OSError):  # a full disk: the first file that a run cannot do without will say so, with its name
            self.second.write(printable_lines(text))
        return self.first.write(text)

    def flush(self) -> None:
        self.first.flush()
        with suppress(OSError):
            self.second.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self.first, name)


@contextmanager
def logged_to(folder: str | Path, name: str) -> Iterator[Path]:
    """Copy standard output and this package's log messages to ``<folder>/<name>-<time>.log``.

    Progress bars go to standard error and so stay out of the file. (The host's ``Logger`` closes the real standard
    output when it is collected; this gives it back.) Of several processes the first one prints and writes, another
    one its traceback only.
    """
    folder = Path(folder)
    path = folder / f"{name}-{time.strftime('%Y-%m-%d-%H-%M-%S')}.log"
    if not is_main():
        try:
            with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
                yield path
        except BaseException:
            folder.mkdir(parents=True, exist_ok=True)
            told = printable_lines(traceback.format_exc())
            path.with_suffix(f".{process()}.log").write_text(told, encoding="utf-8")
            raise
        return
    folder.mkdir(parents=True, exist_ok=True)
    stdout = sys.stdout
    file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (on a full disk closing fails, see below)
    both = _Tee(Terminal(stdout), file)
    sys.stdout = both
    handler = logging.StreamHandler(both)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("torchreid_xres")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            # In the file only: the caller decides what the terminal shows.
            file.write(printable_lines(traceback.format_exc()))
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        sys.stdout = stdout
        with suppress(OSError):
            file.close()
