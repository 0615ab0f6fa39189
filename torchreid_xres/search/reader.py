"""A gallery as it is read and searched, without a network, and without torch where it is kept in a file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from torchreid_xres.archive.entries import corners_of
from torchreid_xres.archive.frames import cropped, frame_file, read_frame
from torchreid_xres.data.io import as_rgb
from torchreid_xres.files import require_regular
from torchreid_xres.search.expressions import of_names
from torchreid_xres.search.hits import Hit
from torchreid_xres.search.model import read_about
from torchreid_xres.search.nearest import Nearest
from torchreid_xres.search.storage import Row, Storage

if TYPE_CHECKING:
    from torchreid_xres.search import milvus

DATABASE, CONFIG = "gallery.sqlite", "config.yaml"


class Reader:
    """What a gallery holds, and what of it is like a query.

    Args:
        place: where the gallery is kept, as for :class:`~torchreid_xres.search.gallery.Gallery`.
        index: of one in Milvus that is built again.

    Attributes:
        place: as it is named in messages.
        folder: on this machine; of a gallery in Milvus it holds what lies beside, such as the configuration.
        facts: what the gallery says of itself, as texts.
        about: what it says of its model.
        weights: the file of these.
        images: the folder of the images.
        measured_of: hash of the network that it was built with, if it uses that with batch statistics of its own
            images; else empty.
        searches: whether an engine answers; then rows and features of a very large gallery are a part of it, drawn by
            name.

    Raises:
        FileNotFoundError: if there is no gallery.
        ValueError: if it is damaged, or none, or there is no such index.
        OSError: if the file cannot be read, or the engine does not answer.
        ImportError: if the place is Milvus, and pymilvus is not installed.

    Example:
        The ten images that are most like the first one of the gallery itself::

            gallery = Reader("log/gallery")
            for hit in gallery.search(gallery.matrix[:1], top=10)[0]:
                print(hit.rank, hit.score, hit.path)
    """

    def __init__(self, place: str | Path, index: str = "") -> None:
        self._storage = _home(place, index)
        self.folder, self.searches = self._storage.folder, self._storage.searches
        self.place = str(self._storage.path if self.searches else self.folder)
        self.about: dict[str, Any]
        self.images: Path | None
        self.facts = facts = self._read_facts()
        self.measured_of = facts.get("measured_of", "")
        if not facts:
            self._not_begun()
            return
        self.about = read_about(facts["about"], self._storage.path)
        self.weights = self.folder / facts["weights"]
        self.images = Path(facts["images"])

    def _read_facts(self) -> dict[str, str]:
        return self._storage.facts()

    def _not_begun(self) -> None:
        lacks = "it was not begun" if self.searches else f"no {DATABASE}, or nothing in it"
        raise FileNotFoundError(f"there is no gallery in {self.place} ({lacks}); build one first")

    def config_is_whole(self, facts: Mapping[str, str]) -> bool:
        """Return whether the model's configuration is as it was written; galleries of before know no checksum."""
        path = self.folder / CONFIG
        require_regular(path)
        return path.is_file() and facts.get("config") in (None, str(zlib.crc32(path.read_bytes())))

    def checkpoint(self, weights: str | Path = "") -> Path:
        """Return the file of the weights that the gallery was made with, which may be gone.

        Args:
            weights: where run or checkpoint are now; empty: where they were.
        """
        place = Path(weights).expanduser().absolute() if weights else self.weights
        return place / self.weights.name if place.is_dir() else place

    @cached_property
    def _held(self) -> tuple[list[Row], np.ndarray, dict[str, str]]:
        read, rows, features, faults = self._storage.rows()[::-1], [], bytearray(), {}
        while read:  # each is let go of when its feature is taken over: there is no room for all of them twice
            row = read.pop()
            if row.fault is not None:
                faults[row.name] = row.fault
            if row.feature is not None:
                features += row.feature
                rows.append(row._replace(feature=None))
        found = np.frombuffer(features, dtype=np.float32)
        return rows, found.reshape(len(rows), len(found) // max(1, len(rows))), faults

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return self._storage.count() if self.searches else len(self.rows)

    def count(self, among: np.ndarray | str | None = None) -> int:
        """Return the number of images that are searched, all or those among which it is searched."""
        if among is None:
            return len(self)
        return self._storage.count(among) if isinstance(among, str) else int(among.sum())

    @property
    def rows(self) -> list[Row]:
        """What is known of each image, box or track, in the order of :attr:`matrix`, whose features are not in them."""
        return self._held[0]

    @property
    def names(self) -> list[str]:
        """Paths of the images below their folder, in the same order; of boxes and tracks more."""
        return [row.name for row in self.rows]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image in pixels, in the same order."""
        return [(row.height, row.width) for row in self.rows]

    @property
    def matrix(self) -> np.ndarray:
        """The features, (N, D), float32."""
        return self._held[1]

    @property
    def faults(self) -> dict[str, str]:
        """Why files of the folder are not in the gallery, by name."""
        return self._held[2]

    def file(self, row: Row) -> Path:
        """Return the file that an image, or the frame of a box, is in; it may be gone."""
        return self.images / frame_file(row.frame or row.name)

    def picture(self, of: Row | Hit, image: Callable[[Any], PIL.Image.Image] = as_rgb) -> PIL.Image.Image:
        """Return what an image or box shows, a track at its best, read from its file.

        Args:
            of: one of :attr:`rows`, or a hit.
            image: how files are read: the ``image`` of the extractor.

        Raises:
            OSError: if the file is gone or cannot be read.
            ValueError: if the frame is smaller than it was.
        """
        img = read_frame(self.images, of.frame or of.name, image)
        return cropped(img, corners_of(of.box)) if of.box else img

    def search(
        self,
        queries: np.ndarray,
        top: int = 10,
        among: np.ndarray | str | None = None,
        groups: Sequence[str] | str | None = None,
    ) -> list[list[Hit]]:
        """Return the images nearest to each query, nearest first; the search is exact, but for other indexes of Milvus.

        Args:
            queries: (Q, D), by the model that the gallery was made with.
            top: at most so many for each.
            among: (N,) bool, of the gallery: which images are searched, or an expression for its engine; None: all.
            groups: (N,) of the gallery, such as identities: of images of one group the best alone is found; for an
                engine what they are called there. Both as :mod:`torchreid_xres.search.filters` gives them.

        Raises:
            ValueError: for an empty gallery, a number below 1, or nothing to search.
        """
        if top < 1:
            raise ValueError(f"top is {top}; at least 1 image is found")
        if not len(self):
            raise ValueError(f"the gallery in {self.place} holds no image")
        if among is not None and not self.count(among):
            raise ValueError(f"none of the {len(self)} images of the gallery in {self.place} is left to search")
        if self.searches:
            if isinstance(among, np.ndarray):
                among = of_names([self.names[place] for place in np.flatnonzero(among)])
            found = self._storage.nearest(queries, top, self.facts, among or "", groups or "")
        else:
            distances, places = self._nearest.find(queries, top, among, groups)
            rows = [[self.rows[place] for place in one] for one in places]
            found = [list(zip(*one, strict=True)) for one in zip(distances, rows, strict=True)]
        return [[self._hit(rank, *one) for rank, one in enumerate(hits, start=1)] for hits in found]

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.matrix, self.about["metric"])

    def recall(self) -> float | None:
        """Return the share of the 10 nearest of some images that the engine's index finds; None: not measured."""
        return self._storage.recall(self.facts) if self.searches else 1.0

    def _hit(self, rank: int, distance: float, row: Row) -> Hit:
        return Hit(
            rank, self.score(distance), row.name, self.file(row), (row.height, row.width), row.frame or "",
            corners_of(row.box) if row.box else None, row.time or row.taken or "", row.camera or "", row.track or "",
            row.identity or "",
        )  # fmt: skip

    def score(self, distance: float) -> float:
        """Return what a hit at a distance has as its score."""
        return (1 if self.about["metric"] == "cosine" else 0) - distance

    def distance(self, score: float) -> float:
        """Return the distance of a hit by its score."""
        return self.score(0) - score


def _home(place: str | Path, index: str) -> Storage | milvus.Milvus:
    """Return where a gallery is kept, by what names it."""
    if str(place).startswith("milvus:"):
        from torchreid_xres.search.milvus import Milvus

        return Milvus(str(place), index)
    if index:
        raise ValueError(f"{place} is a folder, whose search is exact: an index such as {index} is for milvus:...")
    return Storage(Path(place).expanduser().absolute() / DATABASE)
