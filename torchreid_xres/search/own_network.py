"""A gallery's own network: the given one, with batch statistics of the gallery's images (``models/statistics.py``)."""

from __future__ import annotations

from pathlib import Path

from torchreid_xres.archive.entries import Entries
from torchreid_xres.archive.reading import read_entries
from torchreid_xres.data.split import shuffled
from torchreid_xres.devices import distributed
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.models.statistics import IMAGES

NETWORK = "network.pth.tar"  # in the gallery's folder
LEAST = 200  # images; of fewer the statistics may be worse than the network's own


def own_network(given: Extractor, entries: Entries, folder: Path) -> Extractor:
    """Return the extractor with batch statistics measured on some entries; the given one where there are too few.

    Args:
        given: the extractor to begin with.
        entries: all that were found; of up to 500, drawn by name, what they show first is taken.
        folder: the gallery's, in which the network is kept.

    Raises:
        ValueError: if the network has no batch normalisation.
    """

    def measured() -> bool:
        drawn = shuffled(entries.found, "statistics")[:IMAGES]
        reading = read_entries(given, entries.base, {name: entries.found[name] for name in drawn})
        read = {one.name: one.pictures[0] for one in reading if one.pictures}
        if len(read) < LEAST:
            return False
        given.with_own_statistics([read[name] for name in drawn if name in read], folder / NETWORK)
        return True

    if len(entries.found) < LEAST or not distributed.on_main(measured):
        return given
    distributed.require_seen(folder / NETWORK, "the gallery's folder")
    return given.with_weights(folder / NETWORK)
