"""Images, boxes or tracks as a gallery: their features kept in one file, brought up to date by what changed, searched.

Every batch of features is one change of the file. So a build that is stopped, at whatever moment, has lost no more than
the batch it was at, and the next one goes on behind it. What is damaged in the file is told, not searched.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from torchreid_xres.archive.boxes import read_boxes
from torchreid_xres.archive.entries import Entries, corners_of, find_entries
from torchreid_xres.archive.frames import frame_file, read_frame
from torchreid_xres.config import config_text
from torchreid_xres.devices import distributed
from torchreid_xres.files import require_regular, write_text
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.inference.pictures import as_image, cropped
from torchreid_xres.jobs.lock import sole_use
from torchreid_xres.search.building import Update, add_entries
from torchreid_xres.search.expressions import of_names
from torchreid_xres.search.filters import require_names
from torchreid_xres.search.hits import Hit
from torchreid_xres.search.model import read_about, require_same
from torchreid_xres.search.nearest import Nearest
from torchreid_xres.search.own_network import NETWORK, own_network
from torchreid_xres.search.sharing import add_up, is_left, own_changes, own_names, take_in
from torchreid_xres.search.storage import Changes, Row, Storage

if TYPE_CHECKING:
    from torchreid_xres.search import milvus

logger = logging.getLogger(__name__)

DATABASE, CONFIG = "gallery.sqlite", "config.yaml"


class Gallery:
    """The features of the images in a folder, or of boxes or tracks in them, by one model.

    Args:
        place: where the gallery is kept: a folder, which gets ``gallery.sqlite`` and the model's ``config.yaml``, or
            ``milvus:FILE.db`` or ``milvus:http://HOST:PORT/COLLECTION``. With an extractor it is begun if it is not
            there.
        extractor: the model; needed to :meth:`update`, not to search. Nothing is written before the first update.
        index: of Milvus: FLAT (exact), HNSW or DISKANN, made by the next update; empty: as it is, FLAT for a new one.

    Attributes:
        place: as it is named in messages.
        folder: on this machine; of a gallery in Milvus it holds what lies beside, such as the configuration.
        measured_of: hash of the network that it was built with, if it uses that with batch statistics of its own
            images; else empty.
        searches: whether an engine answers; then rows and features of a very large gallery are a part of it, drawn by
            name.

    Raises:
        FileNotFoundError: if there is no gallery, and no extractor to begin one.
        ValueError: if the gallery was made by another model, is damaged, or none, or there is no such index.
        OSError: if the file cannot be read, or the engine does not answer.
        ImportError: if the place is Milvus, and pymilvus is not installed.

    Example:
        A gallery of all images in and below a folder, and the ten that are most like a picture::

            extractor = Extractor("log/sr_reid/split0/sr_reid")
            gallery = Gallery("log/gallery", extractor)
            gallery.update("path/to/images")
            for hit in gallery.search(extractor("query.jpg"), top=10)[0]:
                print(hit.rank, hit.score, hit.path)
    """

    def __init__(self, place: str | Path, extractor: Extractor | None = None, index: str = "") -> None:
        self._storage = _home(place, index)
        self.folder, self.searches = self._storage.folder, self._storage.searches
        self.place = str(self._storage.path if self.searches else self.folder)
        self.extractor = extractor
        self.about: dict[str, Any]
        self.images: Path | None
        self.facts = facts = self._read_facts()
        self.measured_of = facts.get("measured_of", "")
        if not facts:
            if extractor is None:
                lacks = "it was not begun" if self.searches else f"no {DATABASE}, or nothing in it"
                told = f"there is no gallery in {self.place} ({lacks})"
                raise FileNotFoundError(f"{told}; build one first")
            self.about, self.weights, self.images = extractor.about, extractor.weights, None
            return
        self.about = read_about(facts["about"], self._storage.path)
        self.weights = self.folder / facts["weights"]
        self.images = Path(facts["images"])
        if extractor is not None:
            require_same(self.place, self.about, extractor)

    def _read_facts(self) -> dict[str, str]:
        facts = self._storage.facts()
        if self.searches and distributed.active() and not self._storage.shared:
            self._storage.close()  # one process at a time can open it
        return facts

    def _begin(self, images: Path) -> None:
        facts = {"about": json.dumps(self.about), "weights": self._kept_weights(), "images": str(images)}
        if self.measured_of:
            facts["measured_of"] = self.measured_of
        self._storage.begin(**facts, **self._keep_config({"config": ""}))

    def _kept_weights(self) -> str:
        """Return where the weights are as it is kept: those in the gallery's folder move with it."""
        return NETWORK if self.weights == self.folder / NETWORK else str(self.weights)

    def _config_is_whole(self, facts: Mapping[str, str]) -> bool:
        """Return whether the model's configuration is as it was written; galleries of before know no checksum."""
        path = self.folder / CONFIG
        require_regular(path)
        return path.is_file() and facts.get("config") in (None, str(zlib.crc32(path.read_bytes())))

    def _keep_config(self, facts: Mapping[str, str]) -> dict[str, str]:
        """Write the model's configuration, unless it is there; return its checksum, and for other machines its text."""
        path = self.folder / CONFIG
        if not self._config_is_whole(facts):
            write_text(config_text(self.extractor.cfg), path)
        text = {"config_text": path.read_text(encoding="utf-8")} if self.searches else {}
        return {"config": str(zlib.crc32(path.read_bytes()))} | text

    def make_extractor(self, weights: str | Path = "", **kwargs: Any) -> Extractor:
        """Return the extractor that the gallery was made with.

        Args:
            weights: where run or checkpoint are now; empty: where they were.
            **kwargs: ``device``, ``precision``, ``batch_size``, ``query_encoder``.

        Raises:
            FileNotFoundError: if they are no longer there.
            ValueError: if the file holds other weights now, or the gallery's configuration is damaged.
        """
        facts = self._read_facts()
        if "config_text" in facts and not (self.folder / CONFIG).is_file():  # another machine built it
            write_text(facts["config_text"], self.folder / CONFIG)
        if not self._config_is_whole(facts):
            where = f"the {CONFIG} in {self.folder}"
            raise ValueError(
                f"{where} is not what the gallery was built with: build it again, naming its run or --model as at "
                "first, which writes it anew"
            )
        of = {"config": self.folder / CONFIG, "full_size": self.about["full_size"]}
        path = self.checkpoint(weights)
        if not path.exists():
            raise FileNotFoundError(
                f"there is no run or checkpoint at {path}, with which the gallery in {self.place} was made "
                f"({self.about['model']}); say where it is now (--run; to build before the images), or build the "
                "gallery again with it"
            )
        extractor = Extractor(path, **of, **kwargs)
        require_same(self.place, self.about, extractor)
        return extractor

    def is_measured_of(self, given: Extractor) -> bool:
        """Return whether this is the extractor that the gallery uses with batch statistics of its own images.

        Raises:
            ValueError: if it is, with other settings.
        """
        if given.about["weights_sha256"] != self.measured_of:
            return False
        require_same(self.place, self.about | {"weights_sha256": self.measured_of}, given)
        return True

    def checkpoint(self, weights: str | Path = "") -> Path:
        """Return the file of the weights that the gallery was made with, which may be gone.

        Args:
            weights: where run or checkpoint are now; empty: where they were.
        """
        place = Path(weights).expanduser().absolute() if weights else self.weights
        return place / self.weights.name if place.is_dir() else place

    # -- building --------------------------------------------------------------------------------------------

    def update(
        self,
        images: str | Path,
        boxes: str | Path = "",
        *,
        rate: float = 0,
        names: str | None = None,
        own_statistics: bool = False,
    ) -> Update:
        """Bring the gallery to what is in and below a folder now: new and changed files in, vanished ones out.

        Files that cannot be used are left out, with their reason, and tried again when they change. What could not be
        looked at stays as it is, and is tried again: images below a folder that cannot be read or a link that leads
        nowhere now, and files that cannot be opened. On a terminal a bar shows the progress. Processes that torchrun
        started share the work, where all of them update the gallery.

        Args:
            images: the folder, or a video's file. It may have moved since the last time; what counts is a file's path
                below it.
            boxes: list of boxes, see :func:`~torchreid_xres.archive.boxes.read_boxes`: these are taken in place of
                whole images. Boxes with a track become one entry, the mean of its clearest crops.
            rate: frames of each second of a video that are taken; 0: all that boxes are in, without boxes one.
            names: regular expression whose groups ``camera`` and ``identity`` are found in names; None: as before.
            own_statistics: a new gallery of 200 images or more uses the network with batch statistics that are measured
                on up to 500 of them, kept in its folder (:mod:`torchreid_xres.search.own_network`). For networks that
                have learned from other cameras.

        Raises:
            FileNotFoundError: if there is no such folder or list, or no image in it.
            ValueError: if none of the gallery's images is in a folder other than the last, the gallery is of boxes and
                there is no list now or the other way round, the list has no box that can be used, or ``names`` is no
                such expression.
            OSError: if another build of this gallery is at work, or nothing can be written.
        """
        if self.extractor is None:
            raise ValueError("a gallery is updated by the extractor that it was made with; give it one")
        if self.extractor.query_encoder is not None:
            raise ValueError("a gallery is updated by an extractor without a query encoder, which is for queries alone")
        if names:
            require_names(names)
        images = Path(images).expanduser().absolute()
        listed = read_boxes(boxes) if boxes else None
        entries = find_entries(images, self.folder, listed, rate)
        kept = {"boxes": "" if listed is None else str(listed.file)} | ({} if names is None else {"names": names})
        del listed  # of a million boxes some 400 MB
        with sole_use(self.folder):
            if own_statistics and not self.facts:
                given, self.extractor = self.extractor, own_network(self.extractor, entries, self.folder)
                self.measured_of = "" if self.extractor is given else given.about["weights_sha256"]
                self.about, self.weights = self.extractor.about, self.extractor.weights
            done = self._follow(entries, kept)
        logger.info(
            "%s: %d added, %d changed, %d removed, %d kept, %d unseen, %d faults, %d boxes that cannot be; %s",
            self.folder, done.added, done.changed, done.removed, done.kept, done.unseen, len(done.faults),
            len(done.listed), entries.tree.told(),
        )  # fmt: skip
        return done

    def _follow(self, entries: Entries, kept: dict[str, str]) -> Update:
        with ExitStack() as stack:
            changes: Any = None

            def settle() -> tuple[Update, list[str], set[str], dict[str, str]]:
                nonlocal changes
                self._take_up(entries.base)
                changes = stack.enter_context(self._storage.changing())
                return *self._settle(changes, entries, kept), changes.facts

            done, wanted, known, self.facts = distributed.on_main(settle)
            distributed.require_seen(self.folder / CONFIG, "the gallery's folder")
            if changes is None:
                changes = stack.enter_context(own_changes(self._storage, self.facts))
            self.images, self.weights = entries.base, self.extractor.weights
            for cached in ("_held", "_nearest", "_count"):
                self.__dict__.pop(cached, None)
            mine = own_names(entries, wanted, self.extractor.batch_size)
            add_entries(self.extractor, changes, entries, mine, known, done)
            add_up(done)
            if distributed.is_main():
                take_in(changes, self.folder)
        distributed.wait()  # until what all have done is there
        return done

    def _take_up(self, images: Path) -> None:
        """Begin the gallery if it is new; take in what the processes of a build that was killed have left."""
        if not self._storage.facts():
            self._begin(images)
        if is_left(self.folder):
            with self._storage.changing() as changes:
                take_in(changes, self.folder)

    def _settle(
        self, changes: Changes | milvus.Changes, entries: Entries, kept: dict[str, str]
    ) -> tuple[Update, list[str], set[str]]:
        """Drop what is gone; return what was done, what is to be read, and what of that the gallery holds already."""
        images, found, tree = entries.base, entries.found, entries.tree
        held, facts = changes.held, changes.facts
        if held and bool(facts.get("boxes")) != bool(kept["boxes"]):
            what = f"the boxes of {facts['boxes']}" if facts.get("boxes") else "whole images"
            raise ValueError(
                f"the gallery in {self.place} is of {what}: build it of these again, or name another folder for "
                "another gallery"
            )
        if images != self.images and held and not held.keys() & found.keys():
            raise ValueError(
                f"the gallery in {self.place} is of the images in {self.images}, and none of them is in {images}: "
                "name another folder for another gallery"
            )
        unseen = {name for name in held.keys() - found.keys() if tree.is_unseen(name)}
        vanished = held.keys() - found.keys() - unseen
        wanted = sorted(name for name, entry in found.items() if held.get(name) != [entry.bytes, entry.mtime_ns])
        config = self._keep_config(facts)
        self.weights = self.extractor.weights  # they may have moved
        changes.make(gone=vanished, images=str(images), weights=self._kept_weights(), **config, **kept)
        done = Update(
            removed=len(vanished), kept=len(found) - len(wanted), unseen=len(unseen), tree=tree,
            listed=entries.faults, thinned=entries.thinned,
        )  # fmt: skip
        return done, wanted, held.keys() & {*wanted}

    # -- searching -------------------------------------------------------------------------------------------

    @cached_property
    def _held(self) -> tuple[list[Row], Tensor, dict[str, str]]:
        read, rows, features, faults = self._storage.rows()[::-1], [], bytearray(), {}
        while read:  # each is let go of when its feature is taken over: there is no room for all of them twice
            row = read.pop()
            if row.fault is not None:
                faults[row.name] = row.fault
            if row.feature is not None:
                features += row.feature
                rows.append(row._replace(feature=None))
        found = torch.from_numpy(np.frombuffer(features, dtype=np.float32))
        return rows, found.view(len(rows), len(found) // max(1, len(rows))), faults

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return self._storage.count() if self.searches else len(self.rows)

    def count(self, among: Tensor | str | None = None) -> int:
        """Return the number of images that are searched, all or those among which it is searched."""
        if among is None:
            return len(self)
        return self._storage.count(among) if isinstance(among, str) else int(among.sum())

    @property
    def rows(self) -> list[Row]:
        """What is known of each image, box or track, in the order of :attr:`features`, which are not in them."""
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
    def features(self) -> Tensor:
        """(N, D), float32."""
        return self._held[1]

    @property
    def faults(self) -> dict[str, str]:
        """Why files of the folder are not in the gallery, by name."""
        return self._held[2]

    def file(self, row: Row) -> Path:
        """Return the file that an image, or the frame of a box, is in; it may be gone."""
        return self.images / frame_file(row.frame or row.name)

    def picture(self, of: Row | Hit, image: Callable[[Any], PIL.Image.Image] = as_image) -> PIL.Image.Image:
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
        queries: Tensor,
        top: int = 10,
        among: Tensor | str | None = None,
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
            if isinstance(among, Tensor):
                among = of_names([self.names[place] for place in among.nonzero()[:, 0].tolist()])
            found = self._storage.nearest(queries, top, self.facts, among or "", groups or "")
        else:
            distances, places = self._nearest.find(queries, top, among, groups)
            rows = [[self.rows[place] for place in one] for one in places]
            found = [list(zip(*one, strict=True)) for one in zip(distances, rows, strict=True)]
        return [[self._hit(rank, *one) for rank, one in enumerate(hits, start=1)] for hits in found]

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.features, self.about["metric"])

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
