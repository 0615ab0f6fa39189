"""What the benchmarks of speed share: threads, clocks, memory peaks, the facts of the machine, and the file they write.

Sides take turns, so that a busy machine slows all alike. With one thread the clock is the processor time of this
process, in which waiting for a busy machine does not count; with more it is the wall's.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from torchreid_xres.engine.record import versions
from torchreid_xres.engine.stages import write_json


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
        sides: name to call.
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
            before = None if turn else start_of_peak()
            start = clock()
            results[name] = call()
            elapsed = clock() - start
            if not turn:
                peaks[name] = None if before is None else round(peak() - before, 1)
            if turn or name in once:
                seconds[name].append(elapsed)
    rows = []
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        row = {"side": name, "seconds": middle, "lower quartile": low, "upper quartile": high}
        rows.append(row | {"runs": len(times), "MB": peaks[name]})
    return rows, results


def clock() -> float:
    """Return the processor's seconds for one thread, the wall's for more; a GPU is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def start_of_peak() -> float | None:
    """Forget this process's highest memory so far, and return what it holds, in MB; None where that cannot be done."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or the next side would use it unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return None
    return peak()


def peak() -> float:
    """Return the highest memory since then, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM"))


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """Return the machine, its load, the threads, the versions and the command, for the file that is kept."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": {
            "processor": names[0] if names else platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "clock": "processor" if torch.get_num_threads() == 1 and not torch.cuda.is_available() else "wall",
            "load": [round(value, 2) for value in os.getloadavg()],
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": versions(),
        "settings": {name: value for name, value in vars(args).items() if name not in ("keep", "cython", "root")},
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
