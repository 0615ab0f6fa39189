"""What a full disk does to a process, as far as a test can have it so."""

import signal
from contextlib import contextmanager

import pytest


@contextmanager
def small_files(size):
    """Let no file grow beyond so many bytes, as if the disk were full: pytest's own neither, so only for a block."""
    resource = pytest.importorskip("resource", reason="this system cannot bound the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
