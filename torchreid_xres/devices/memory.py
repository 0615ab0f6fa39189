"""Memory that is freed and wanted again in the next batch."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt(3) in glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_PERTURB = -1, -4, -6


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for its next batch; it goes back at the process's end.

    A network on a CPU makes the same large arrays for every batch. glibc hands those over 32 MB back at once, and the
    system clears every page of them anew: up to half the time of an extraction. The highest use of memory stays about
    the same, but between peaks nothing is given to other processes.

    Returns:
        Whether the C library can do that (glibc can).

    Example:
        >>> kept = keep_freed_memory()  # once, at a program's start
    """
    return _mallopt(_M_MMAP_MAX, 0) and _mallopt(_M_TRIM_THRESHOLD, -1)


@contextmanager
def perturbed_memory() -> Iterator[bool]:
    """Fill all memory that is handed out in a block with a pattern that is huge in any floating-point format.

    What reads memory before writing it shows itself. The block is told whether the C library can do that (glibc can). A
    pattern of the environment's (``MALLOC_PERTURB_``) stays as it is.

    Example:
        >>> with perturbed_memory():
        ...     kept = bytearray(8)
    """
    own = os.environ.get("MALLOC_PERTURB_", "0") in ("", "0")
    # Memory gets the pattern's complement, 0xFE in each byte: -1.7e38 in bf16 and in float32.
    able = own and _mallopt(_M_PERTURB, 1)
    try:
        yield able or not own
    finally:
        if able:
            _mallopt(_M_PERTURB, 0)


def _mallopt(parameter: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(parameter, value))
