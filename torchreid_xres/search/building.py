"""The work of a build: entries are read, described and kept, batch by batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.archive.entries import Entries, Entry
from torchreid_xres.archive.frames import frame_file
from torchreid_xres.archive.reading import Read, read_entries
from torchreid_xres.data.split import hashed
from torchreid_xres.data.walk import FoundImages
from torchreid_xres.devices import distributed
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.search.storage import Changes, Row
from torchreid_xres.terminal import progress

SHARE = 4  # batches of a share, about


@dataclass
class Update:
    """What a build did.

    Attributes:
        added: images that are new.
        changed: images that were read again because the file changed.
        removed: images whose file is gone.
        kept: images, and files known to be unusable, that were left as they are.
        unseen: images that stay although nobody could look whether they are still there.
        faults: why files among the new and changed ones cannot be used, by name.
        tree: what else is in the folder: what was left out, and what could not be looked at.
        listed: why boxes of the list cannot be used, by their places in it.
        thinned: boxes in frames of videos between those that were taken.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    unseen: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    tree: FoundImages | None = None
    listed: dict[str, str] = field(default_factory=dict)
    thinned: int = 0


def add_entries(
    extractor: Extractor, changes: Changes, entries: Entries, names: Sequence[str], held: Container[str], done: Update
) -> None:
    """Read entries, describe them, and keep them batch by batch.

    Args:
        extractor: describes them.
        changes: of the gallery's file.
        entries: all that were found.
        names: of those that are read.
        held: names of those that the gallery holds already, in another state.
        done: what the build did; added to.
    """
    if names:
        extractor.backend.expect(len(names))
        changes.make(backend=extractor.backend.name)
    reading = _batches(extractor, entries, shares(entries, names, extractor.batch_size))
    # While the network works, the next batch is read.
    with (
        ThreadPoolExecutor(1) as reader,
        progress(main=distributed.is_main(), total=len(names), unit="image") as bar,
    ):
        ahead = reader.submit(next, reading, None)
        while batch := ahead.result():
            ahead = reader.submit(next, reading, None)
            done.faults |= {read.name: read.unopened for read in batch if read.unopened}
            for read in batch:
                done.faults |= read.parts
            rows = _rows(extractor, [read for read in batch if not read.unopened], entries.found)
            changes.make(rows)
            for row in rows:
                if row.fault:
                    done.faults[row.name] = row.fault
                elif row.name in held:
                    done.changed += 1
                else:
                    done.added += 1
            bar.update(len(batch))


def shares(entries: Entries, names: Sequence[str], batch: int) -> dict[int, list[str]]:
    """Return names by the share that the file of each is in, by a hash of its path.

    How many shares there are depends on what was found, not on who works on them, and no batch reaches over one: the
    same images pass the network together in one process and in several, and so get the same features.

    Args:
        entries: all that were found.
        names: of some of them.
        batch: images that pass the network at once.

    Example:
        >>> from torchreid_xres.archive.entries import Entry, View
        >>> found = {f"{i}.jpg": Entry((View(f"{i}.jpg"),), 1, 1) for i in range(64)}
        >>> {share: len(of) for share, of in shares(Entries("", found, None), sorted(found), batch=4).items()}
        {3: 21, 2: 16, 1: 16, 0: 11}
    """
    count, made = max(1, len(entries.found) // (SHARE * batch)), defaultdict(list)
    for name in names:
        entry = entries.found[name]
        # A track's views lie in one folder or video; those of others may be read for it only once.
        file = name.rpartition("/")[0] if entry.track else frame_file(entry.views[0].frame)
        made[hashed(file) % count].append(name)
    return dict(made)


def _batches(extractor: Extractor, entries: Entries, parts: Mapping[int, Sequence[str]]) -> Iterator[list[Read]]:
    for share in sorted(parts):
        reading = read_entries(extractor, entries.base, {name: entries.found[name] for name in parts[share]})
        while batch := list(islice(reading, extractor.batch_size)):
            yield batch


def _rows(extractor: Extractor, batch: Sequence[Read], entries: Mapping[str, Entry]) -> list[Row]:
    pictures = [picture for read in batch for picture in read.pictures]
    most = extractor.batch_size
    described = [extractor.describe(pictures[i : i + most]) for i in range(0, len(pictures), most)]
    features = iter(torch.cat(described) if described else ())
    rows = []
    for read in batch:
        entry, view = entries[read.name], read.view
        box = None if view.box is None else ",".join(map(str, view.box))
        known = {
            "frame": view.frame if view.frame != read.name else None, "box": box, "time": view.time or None,
            "taken": read.taken, "camera": entry.camera, "track": entry.track, "identity": entry.identity,
            "sharpness": read.sharpness,
        }  # fmt: skip
        stamp = read.name, entry.bytes, entry.mtime_ns
        if read.fault:
            rows.append(Row(*stamp, None, None, None, read.fault, **known))
            continue
        feature = _mean(list(islice(features, len(read.pictures))), extractor.about["metric"])
        size = read.pictures[0].size
        if not torch.isfinite(feature).all():
            rows.append(Row(*stamp, *size, None, "the network gives no finite feature for it", **known))
        else:
            rows.append(Row(*stamp, *size, feature.numpy().tobytes(), None, **known))
    return rows


def _mean(features: Sequence[Tensor], metric: str) -> Tensor:
    """Return the feature of a track: the mean of those of its crops, where only directions count of unit ones."""
    if len(features) == 1:
        return features[0]
    of = torch.stack(list(features))
    return (F.normalize(of, dim=1) if metric == "cosine" else of).mean(0)
