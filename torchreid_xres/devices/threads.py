"""How many threads torch computes with: all it has, unless other work on the cores makes one faster.

torch's threads wait for each other by spinning. Where another process takes one of their cores, all wait for its turn,
after every small piece of work: a step takes twenty times as long as on one thread.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch.nn import functional as F

T = TypeVar("T")

logger = logging.getLogger(__name__)

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# One thread is chosen where all take this many times as long. On a quiet machine with two cores it is about 0.6.
SLOWER = 1.25
# A batch that takes this many times as long as usual has the threads tried again.
UNUSUAL = 3.0
# Seconds between two trials; one takes a tenth of a second on a quiet machine, and half a second on a busy one.
APART = 20.0


class Threads:
    """Tries, now and then, whether a network's small pieces of work are done faster by all threads or by one.

    Numbers that are asked for stay: by ``OMP_NUM_THREADS``, or by ``torch.set_num_threads`` before the package is
    imported or after. A trial leaves no trace in a result; another number of threads rounds sums otherwise.

    Args:
        trial: returns the seconds of some work on this many threads, or infinity once it took longer than its limit.
        clock: returns the time in seconds.

    Example:
        >>> threads = Threads()
        >>> threads.timed(lambda: 2 + 2)
        4
    """

    def __init__(
        self, trial: Callable[[int, float], float] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._trial, self._clock = trial or _seconds, clock
        self._most = self._now = torch.get_num_threads()
        self._tried: float | None = None
        self._usual: dict[str, deque[float]] = defaultdict(partial(deque, maxlen=9))

    @property
    def free(self) -> bool:
        """Whether there is a choice: nobody asked for a number of threads, and torch has several."""
        asked = any(os.environ.get(name) for name in VARIABLES)
        return self._most > 1 and not asked and torch.get_num_threads() == self._now

    def choose(self) -> int:
        """Try all threads beside one, unless that was done a moment ago; return the number that torch uses now."""
        if not self.free or (self._tried is not None and self._clock() - self._tried < APART):
            return torch.get_num_threads()
        alone = self._trial(1, float("inf"))
        together = self._trial(self._most, SLOWER * alone)
        self._tried = self._clock()
        before, self._now = self._now, self._most if together <= SLOWER * alone else 1
        torch.set_num_threads(self._now)
        if self._now != before:
            self._usual.clear()
            why = "other work on the cores makes that faster than all" if self._now == 1 else "the cores are free again"
            logger.warning(
                "computing on %d of %d threads from here on: %s (results may differ in their last digits; "
                "OMP_NUM_THREADS fixes the number)", self._now, self._most, why
            )  # fmt: skip
        return self._now

    def timed(self, work: Callable[[], T], kind: str = "") -> T:
        """Do the work of one batch, and try the threads if it takes longer than usual, or is the first.

        Args:
            work: what to do.
            kind: what batches take about the same time as this one.
        """
        start = self._clock()
        result = work()
        seconds = self._clock() - start
        usual = self._usual[kind]
        unusual = len(usual) >= 3 and seconds > UNUSUAL * statistics.median(usual)
        usual.append(seconds)
        if self._tried is None or unusual:
            self.choose()
        return result

    def keep(self, number: int) -> None:
        """Go on with the number of threads that a run was computed with before, as far as they are there."""
        if self.free and number != self._now and number in (1, self._most):
            self._now = number
            torch.set_num_threads(number)
        elif number != torch.get_num_threads():
            logger.warning(
                "the run was computed on %d threads so far and goes on with %d: results may differ in their last "
                "digits from those of a run that was not stopped", number, torch.get_num_threads()
            )  # fmt: skip


def _seconds(threads: int, limit: float) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        img, weight = torch.ones(4, 32, 32, 16), torch.ones(32, 32, 3, 3)
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(60):  # about what lies between two waits in a network on small images
                F.conv2d(img, weight, padding=1).relu_().add_(1.0)
                if time.perf_counter() - start > limit:
                    return float("inf")
        return time.perf_counter() - start
    finally:
        torch.set_num_threads(before)


#: Of this process: torch has one number of threads for all.
THREADS = Threads()
