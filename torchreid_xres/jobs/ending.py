"""How a program ends: its status, and a user's error in one line; known without torch."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from torchreid_xres.data.walk import FoundImages
from torchreid_xres.terminal import any_text, printable

# What a user's mistake, a file, a disk, the memory or a network of torchreid at another input size can raise.
USER_ERRORS = (
    ValueError, TypeError, LookupError, OSError, ArithmeticError, RuntimeError, ImportError, MemoryError,
    AssertionError,
)  # fmt: skip
INTERRUPTED = 130


def tell(error: Exception) -> int:
    """Print an error, whose message names the key, path or value, in a line on standard error; return the status 2."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError quotes its message
    line = printable(re.sub(r"\s*\n\s*", " ", str(text)).strip())  # a YAML parser's message has several
    if not line and error.__traceback__ is not None:
        at = traceback.extract_tb(error.__traceback__)[-1]
        line = f"at {at.filename}:{at.lineno}, {at.line}"
    distributed = sys.modules.get("torchreid_xres.devices.distributed")  # where it is not loaded, nobody works together
    label = distributed.label() if distributed else ""
    print(f"{label}{type(error).__name__}: {line}", file=sys.stderr)
    return 2


def tell_of_others(found: FoundImages) -> list[Path]:
    """Return the images that were found; what else is there is told in a line on standard error."""
    if found.left_out or found.unseen:
        print(found.told(), file=sys.stderr)
    return list(found.images.values())


def carried_out(work: Callable[[], int], stopped: str) -> int:
    """Do the work of a program and return its exit status.

    Whatever it prints reaches the terminal or, if nobody reads it any more, nobody; a user's error and an interruption
    end in one line.

    Args:
        work: returns the exit status.
        stopped: what becomes of an interrupted command.

    Example:
        >>> carried_out(lambda: 0, "nothing is lost"), carried_out(lambda: [][1], "nothing is lost")
        (0, 2)
    """
    with any_text():
        try:
            status = work()
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            print(f"stopped; {stopped}", file=sys.stderr)
            return INTERRUPTED
        except USER_ERRORS as error:
            return tell(error)
