"""How long a training has taken, over all the times that it was started."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Seconds of the wall's clock and of the processor since it was made, and those of the run it goes on from.

    On a machine that has other work to do the processor's are nearer to what a run costs.
    """

    def __init__(self) -> None:
        self._before = {"seconds": 0.0, "processor_seconds": 0.0}
        self._start = self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        return {"seconds": time.perf_counter(), "processor_seconds": time.process_time()}

    def read(self) -> dict[str, float]:
        """Return both: ``seconds`` and ``processor_seconds``, the latter of all threads."""
        return {key: self._before[key] + now - self._start[key] for key, now in self._now().items()}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count what is done inside the ``with``."""
        begun = self._now()
        try:
            yield
        finally:
            self._start = {key: self._start[key] + now - begun[key] for key, now in self._now().items()}

    def go_on_from(self, read: Mapping[str, float]) -> None:
        """Add what another one had read; a state written before the processor's were kept has none of them."""
        self._before = {key: read.get(key, 0.0) for key in self._before}
