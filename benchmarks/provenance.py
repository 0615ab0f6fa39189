"""What made a cell: code, libraries, processor and its instruction set, threads, precision."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import torchreid_xres
from torchreid_xres.features.record import versions
from torchreid_xres.files import write_json
from torchreid_xres.version import __version__

ROOT = Path(__file__).resolve().parents[1]
MADE_BY = "made_by.json"  # beside a run


def _commit(folder: Path) -> str:
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"
    return done.stdout.strip()


def _of_both() -> str:
    """Return the commit of this program's checkout, and where the package is of another one that one's, too."""
    own, package = _commit(ROOT), _commit(Path(torchreid_xres.__file__).resolve().parents[1])
    return own if own == package else f"{own}, package {package}"


COMMIT = _of_both()  # of what was loaded, whatever is committed while it runs


def processor_name() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def processor() -> str:
    """Return the processor's name and the instruction set that torch uses on it, or the GPU's name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor_name()} ({torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores)"


def origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made a cell, for the cell to keep.

    Args:
        record: the record of its last stage.
    """
    return {
        "commit": COMMIT,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": record.get("precision", "fp32"),
        "versions": versions(),
    }


def made_by(folder: Path, now: Mapping[str, Any], peak: int | None, begun: bool) -> dict[str, Any]:
    """Return what made a run, from the file beside it, or write that file after the run was made.

    Args:
        folder: of the run, which may be a stage that other cells share.
        now: :func:`origin` of what works here.
        peak: of memory while it was made, MB; None where the system does not tell.
        begun: whether an earlier call had begun with it.

    Returns:
        ``now``, ``peak_mb``, and ``resumed``.
    """
    path = folder / MADE_BY
    if not path.is_file():
        write_json({**now, "peak_mb": peak, "resumed": begun}, path)
    return json.loads(path.read_text(encoding="utf-8"))


def origin_of_all(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what made a cell from what made its runs, the last of which counts.

    Returns:
        :func:`origin`; ``earlier``: commits of its other runs, where they differ; ``resumed``, where a run is.

    Example:
        >>> origin_of_all([{"commit": "a", "peak_mb": 1, "resumed": True}, {"commit": "b", "peak_mb": 2}])
        {'commit': 'b', 'earlier': ['a'], 'resumed': True}
    """
    told = {key: value for key, value in made[-1].items() if key not in ("peak_mb", "resumed")}
    earlier = list(dict.fromkeys(part["commit"] for part in made if part["commit"] != told["commit"]))
    told |= {"earlier": earlier} if earlier else {}
    return told | ({"resumed": True} if any(part.get("resumed") for part in made) else {})
