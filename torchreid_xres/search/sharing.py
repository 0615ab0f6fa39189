"""A build by several processes: each keeps its share in a file of its own, which the first one takes into the gallery.

A process that is killed leaves its file behind; the next build, by however many processes, begins with what is in it.
Where several can write to a gallery at once, in a server, there are no such files.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torchreid_xres.archive.entries import Entries
from torchreid_xres.devices import distributed
from torchreid_xres.search.building import Update, shares
from torchreid_xres.search.storage import Changes, Storage

if TYPE_CHECKING:
    from torchreid_xres.search import milvus

logger = logging.getLogger(__name__)

SHARES = "shares"
_PIECE = 1000  # rows that the gallery takes at once


def own_names(entries: Entries, names: Sequence[str], batch: int) -> list[str]:
    """Return those of some names that this process works on: every so many shares are its own."""
    parts, number, count = shares(entries, names, batch), distributed.process(), distributed.world()
    return [name for share in sorted(parts) if share % count == number for name in parts[share]]


@contextmanager
def own_changes(home: Storage | milvus.Milvus, facts: dict[str, str]) -> Iterator[Changes | milvus.Changes]:
    """Give a process that is not the first the means to keep what it has described."""
    if home.shared:
        with home.changing() as changes:
            yield changes
        return
    own = Storage(home.folder / SHARES / f"{distributed.process()}.sqlite")
    own.path.parent.mkdir(exist_ok=True)
    if not own.facts():
        own.begin(**{name: facts[name] for name in ("about", "weights", "images")})
    with own.changing() as changes:
        yield changes


def is_left(folder: Path) -> bool:
    """Return whether processes of a build that was killed have left something in a gallery's folder."""
    return (folder / SHARES).is_dir()


def take_in(changes: Changes | milvus.Changes, folder: Path) -> None:
    """Take what is in the files of shares into the gallery; they go.

    One that is of another network, or damaged, goes without, as its images are then read anew.
    """
    for path in sorted((folder / SHARES).glob("*.sqlite")):
        own = Storage(path)
        try:
            rows = own.rows() if own.facts().get("about") == changes.facts["about"] else []
        except ValueError as error:
            logger.warning("%s", error)
            rows = []
        for start in range(0, len(rows), _PIECE):
            changes.make(rows[start : start + _PIECE])
    shutil.rmtree(folder / SHARES, ignore_errors=True)


def add_up(done: Update) -> None:
    """Add to what this process did what the others have done, once all have."""
    counts = {"added": done.added, "changed": done.changed, "faults": done.faults}
    others = [json.loads(text) for text in distributed.told_by_all(json.dumps(counts))]
    done.added, done.changed = (sum(other[name] for other in others) for name in ("added", "changed"))
    done.faults = {name: fault for other in others for name, fault in other["faults"].items()}
