"""Starting over: the old job is set aside, and goes when the new one has something of its own."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from torchreid_xres.devices import distributed
from torchreid_xres.files import write_json
from torchreid_xres.jobs.lock import LOCK

logger = logging.getLogger(__name__)

JOB_FILES = ("config.yaml", "stages.json")  # what a job writes beside its runs
ASIDE = "set-aside"
# In it: {"state": a step of the way, "old": names that go aside, "new": those of the new job}. Without it all may go.
MOVED = "moved.json"
# What a start leaves that ended before there was a run.
_OF_ANY_START = re.compile(rf"{re.escape(LOCK)}|(train|test)-[\d-]+(\.\d+)?\.log")
# What only a run that has learned or restored something leaves.
_OF_WORTH = ("*.pth.tar", "restored*.json*")


def require_jobs_own(folder: Path) -> None:
    """Refuse to start over in a folder that no job made.

    Raises:
        ValueError: if it has files, and none of them says that a job made it.
    """
    own = any((folder / name).exists() for name in ("stages.json", ASIDE))
    if not own and folder.is_dir() and not all(_OF_ANY_START.fullmatch(part.name) for part in folder.iterdir()):
        raise ValueError(f"{folder} was not made by a run (it has no stages.json), and --fresh removes nothing there")


def done_names(folder: Path) -> list[str]:
    """Return the runs in a job's folder that its ``stages.json`` lists; none where it cannot be read."""
    try:
        done = json.loads((folder / "stages.json").read_text(encoding="utf-8"))["done"]
        return [name for name in done if _is_runs(name)]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _is_runs(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) > 1 and re.fullmatch(r"split\d+", parts[0]) is not None and ".." not in parts


@contextmanager
def set_aside(folder: Path, known: Collection[str], new: Collection[str]) -> Iterator[None]:
    """Start over in a folder: old runs are out of the way in a block, and gone after it.

    They are put back if the block fails before a new run has a state of its own, and by :func:`settle` where the
    process was killed. Nothing but the runs named, ``stages.json`` and ``config.yaml`` is touched.

    Args:
        folder: of the job, in this process's use.
        known: names of runs that may be of the old job, such as ``split0/sr_reid``.
        new: those of the new one.

    Raises:
        ValueError: if no job made the folder.
    """
    aside = folder / ASIDE

    def move() -> None:
        require_jobs_own(folder)
        runs = {name for name in {*known, *new} if os.path.lexists(folder / name)}
        outermost = [name for name in sorted(runs) if not any(map(runs.__contains__, _around(name)))]
        old = [*outermost, *(name for name in JOB_FILES if (folder / name).exists())]
        _note(aside, "moving", old, [*new, *JOB_FILES])
        for name in old:
            _rename(folder / name, aside / name)
            _remove_empty(folder, name)
        _note(aside, "moved", old, [*new, *JOB_FILES])

    distributed.on_main(move)
    try:
        yield
    except BaseException:
        if distributed.is_main():
            settle(folder)
        raise
    distributed.on_main(lambda: _drop(aside))


def settle(folder: Path) -> None:
    """End what a stop left half done: put the old job back, or remove it if the new one has something of its own."""
    aside = folder / ASIDE
    if not aside.is_dir():
        return
    try:
        kept = json.loads((aside / MOVED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        shutil.rmtree(aside)
        return
    state, old, new = kept["state"], kept["old"], kept["new"]
    if state == "moved" and any(any((folder / name).rglob(kind)) for name in new for kind in _OF_WORTH):
        _drop(aside)
        return
    if state in ("moved", "removing"):
        _note(aside, "removing", old, new)
        for name in new:
            _remove(folder / name)
            _remove_empty(folder, name)
        _note(aside, "back", old, new)
    for name in old:
        if os.path.lexists(aside / name):
            _rename(aside / name, folder / name)
    _drop(aside)
    logger.warning("the new job in %s had learned nothing yet: what --fresh had set aside is back", folder)


def _note(aside: Path, state: str, old: list[str], new: list[str]) -> None:
    write_json({"state": state, "old": old, "new": new}, aside / MOVED)


def _drop(aside: Path) -> None:
    (aside / MOVED).unlink(missing_ok=True)
    shutil.rmtree(aside)


def _around(name: str) -> list[str]:
    """Return the folders around a run, the nearest first, without the job's own."""
    return [str(parent) for parent in PurePosixPath(name).parents][:-1]


def _remove_empty(folder: Path, name: str) -> None:
    with suppress(OSError):  # one that holds something else, and those around it
        for around in _around(name):
            (folder / around).rmdir()


def _rename(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(path, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
