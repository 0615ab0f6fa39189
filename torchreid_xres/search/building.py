"""The work of a build: entries are read, described and kept, batch by batch."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.archive.entries import Entries, Entry
from torchreid_xres.archive.reading import Read, read_entries
from torchreid_xres.data.walk import FoundImages
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.search.storage import Changes, Row
from torchreid_xres.terminal import progress


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
    found = {name: entries.found[name] for name in names}
    if names:
        extractor.backend.expect(len(names))
        changes.make(backend=extractor.backend.name)
    reading = read_entries(extractor, entries.base, found)
    # While the network works, the next batch is read.
    with ThreadPoolExecutor(1) as reader, progress(total=len(names), unit="image") as bar:
        ahead = reader.submit(_take, reading, extractor.batch_size)
        while batch := ahead.result():
            ahead = reader.submit(_take, reading, extractor.batch_size)
            done.faults |= {read.name: read.unopened for read in batch if read.unopened}
            for read in batch:
                done.faults |= read.parts
            rows = _rows(extractor, [read for read in batch if not read.unopened], found)
            changes.make(rows)
            for row in rows:
                if row.fault:
                    done.faults[row.name] = row.fault
                elif row.name in held:
                    done.changed += 1
                else:
                    done.added += 1
            bar.update(len(batch))


def _take(reading: Iterator[Read], count: int) -> list[Read]:
    return list(islice(reading, count))


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
