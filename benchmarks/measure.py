"""What the benchmarks of speed share: threads, clocks, memory peaks, the facts of the machine, and the file they write.

Sides take turns, so that a busy machine slows all alike. With one thread the clock is the processor time of the side's
process, in which waiting for a busy machine does not count; with more it is the wall's.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from provenance import processor_name
from tabulate import tabulate

from torchreid_xres.features.record import versions
from torchreid_xres.files import write_json

FORKS = "forkserver" in multiprocessing.get_all_start_methods()
# What says where things lie, and not how they are measured.
PLACES = ("keep", "place", "cython", "root", "run", "runs", "build", "weights")


def options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--repeats", type=int, default=repeats, help="timed runs of each side, after one that is not")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the result to this JSON file")


def by_turns(
    sides: Mapping[str, Callable[[], Any]], repeats: int, once: tuple[str, ...] = ()
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run each side several times and return a row for each, and what each returned.

    Args:
        sides: name to call; one with a method ``timed`` (see :class:`Remote`) measures itself.
        repeats: timed runs, after one that is not (in which the memory is measured).
        once: sides so slow that their first run is the timed one.

    Returns:
        Rows with the median and the quartiles of the seconds, and the peak of memory beyond what was held before, in
        MB (None where the system does not tell); and name to result.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks, results = {}, {}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            if turn and name in once:
                continue
            first = turn == 0
            elapsed, more, results[name] = call.timed(first) if hasattr(call, "timed") else timed(call, first)
            if first:
                peaks[name] = more
            if not first or name in once:
                seconds[name].append(elapsed)
    rows = []
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        row = {"side": name, "seconds": middle, "lower quartile": low, "upper quartile": high}
        rows.append(row | {"runs": len(times), "MB": peaks[name]})
    return rows, results


def timed(call: Callable[[], Any], with_memory: bool) -> tuple[float, float | None, Any]:
    """Return the seconds of a call, the peak of memory beyond what was held before in MB, and its result."""
    before = start_of_peak() if with_memory else None
    start = clock()
    result = call()
    return clock() - start, None if before is None else round(peak() - before, 1), result


class Remote:
    """Calls that live in a process of their own: no side finds the memory or the caches that another left.

    Where the system can fork, it is the fork of a server that has done nothing but load the libraries.

    Args:
        make: a function of a module that returns them by name.
        *args: its arguments, which can be pickled.
    """

    def __init__(self, make: Callable[..., Mapping[str, Callable[[], Any]]], *args: Any) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        work = (theirs, torch.get_num_threads(), make, args)
        context = multiprocessing.get_context("forkserver" if FORKS else "spawn")
        if FORKS:
            context.set_forkserver_preload([make.__module__])
        self._process = context.Process(target=_serve, args=work, daemon=True)
        self._process.start()
        theirs.close()
        self._received()

    def call(self, name: str) -> RemoteCall:
        """Return one of the calls, as a side."""
        return RemoteCall(self, name)

    def timed(self, name: str, with_memory: bool) -> tuple[float, float | None, Any]:
        """Let the process measure one of its calls; its result stays there."""
        self._pipe.send((name, with_memory))
        return (*self._received(), None)

    def close(self) -> None:
        """End the process, which holds nothing worth a clean end."""
        self._process.kill()
        self._process.join()

    def _received(self) -> Any:
        try:
            found = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a side's process ended; its reason stands above") from None
        if isinstance(found, Exception):
            raise found
        return found


class RemoteCall:
    """One call of a process of its own."""

    def __init__(self, remote: Remote, name: str) -> None:
        self.remote, self.name = remote, name

    def timed(self, with_memory: bool) -> tuple[float, float | None, Any]:
        return self.remote.timed(self.name, with_memory)


def _serve(pipe: Connection, threads: int, make: Callable[..., Mapping[str, Callable]], args: tuple) -> None:
    """Make the calls and measure them when asked, until nobody asks any more."""
    torch.set_num_threads(threads)
    try:
        calls = make(*args)
        pipe.send("ready")
        while True:
            name, with_memory = pipe.recv()
            pipe.send(timed(calls[name], with_memory)[:2])
    except EOFError:
        return
    except Exception as error:  # the asking process says it
        pipe.send(error)


def clock() -> float:
    """Return the processor's seconds for one thread, the wall's for more; a GPU is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def start_of_peak() -> float | None:
    """Forget this process's highest memory so far, and return what it holds, in MB; None where that cannot be done.

    Where there is a GPU, it is the GPU's memory.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return peak()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or the next side would use it unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return None
    return peak()


def peak() -> float:
    """Return the highest memory since then, in MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM"))


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """Return the machine, its load, the threads, the versions and the command, for the file that is kept."""
    return {
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "clock": "processor" if torch.get_num_threads() == 1 and not torch.cuda.is_available() else "wall",
            "load": [round(value, 2) for value in os.getloadavg()],
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": versions(),
        "settings": {name: value for name, value in vars(args).items() if name not in PLACES},
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_arguments(args)]),
    }


def compared(rows: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the rows with what they measure in front, and their seconds in units of the first row's at the end."""
    return [{"what": what, **row, "ratio": row["seconds"] / rows[0]["seconds"]} for row in rows]


def _arguments(args: argparse.Namespace) -> list[str]:
    """Return the command line as another machine can use it: DATA in place of where the data lie, no other folders."""
    given = [part for part in sys.argv[1:] if part not in ("--keep", str(args.keep))]
    given = ["DATA" if part == str(getattr(args, "root", None)) else part for part in given]
    return [Path(part).name if Path(part).is_absolute() else part for part in given]


def finish(args: argparse.Namespace, title: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Print the table and the facts, and write both to ``args.keep``."""
    found = facts(args)
    print(f"{title}\n")
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g"))
    print(*(f"{name}: {value}" for name, value in {**more, **found}.items()), sep="\n")
    if args.keep:
        write_json({"rows": rows, **more, **found}, args.keep)
