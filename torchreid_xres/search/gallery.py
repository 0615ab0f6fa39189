"""Images, boxes or tracks as a gallery: their features kept in one file, brought up to date by what changed, searched.

Every batch of features is one change of the file. So a build that is stopped, at whatever moment, has lost no more than
the batch it was at, and the next one goes on behind it. What is damaged in the file is told, not searched.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchreid_xres.archive.boxes import read_boxes
from torchreid_xres.archive.entries import Entries, find_entries
from torchreid_xres.config import config_text
from torchreid_xres.devices import distributed
from torchreid_xres.files import write_text
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.jobs.lock import sole_use
from torchreid_xres.search.building import Update, add_entries
from torchreid_xres.search.filters import require_names
from torchreid_xres.search.hits import Hit
from torchreid_xres.search.model import require_same
from torchreid_xres.search.own_network import NETWORK, own_network
from torchreid_xres.search.reader import CONFIG, Reader
from torchreid_xres.search.sharing import add_up, is_left, own_changes, own_names, take_in
from torchreid_xres.search.storage import Changes

if TYPE_CHECKING:
    from torchreid_xres.search import milvus

logger = logging.getLogger(__name__)


class Gallery(Reader):
    """The features of the images in a folder, or of boxes or tracks in them, by one model.

    Args:
        place: where the gallery is kept: a folder, which gets ``gallery.sqlite`` and the model's ``config.yaml``, or
            ``milvus:FILE.db`` or ``milvus:http://HOST:PORT/COLLECTION``. With an extractor it is begun if it is not
            there.
        extractor: the model; needed to :meth:`update`, not to search. Nothing is written before the first update.
        index: of Milvus: FLAT (exact), HNSW or DISKANN, made by the next update; empty: as it is, FLAT for a new one.

    Attributes are those of a :class:`~torchreid_xres.search.reader.Reader`, and ``extractor``.

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
        self.extractor = extractor
        super().__init__(place, index)
        if extractor is not None and self.facts:
            require_same(self.place, self.about, extractor)

    def _not_begun(self) -> None:
        if self.extractor is None:
            super()._not_begun()
        self.about, self.weights, self.images = self.extractor.about, self.extractor.weights, None

    def _read_facts(self) -> dict[str, str]:
        facts = super()._read_facts()
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

    def _keep_config(self, facts: Mapping[str, str]) -> dict[str, str]:
        """Write the model's configuration, unless it is there; return its checksum, and for other machines its text."""
        path = self.folder / CONFIG
        if not self.config_is_whole(facts):
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
        if not self.config_is_whole(facts):
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
        try:
            extractor = Extractor(path, **of, **kwargs)
        except ValueError as error:
            if path != self.folder / NETWORK or "damaged" not in str(error):
                raise
            told = "It was measured on this gallery's images: build another gallery of them"
            raise ValueError(f"{error}. {told}") from error
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

    @property
    def features(self) -> Tensor:
        """(N, D), float32."""
        return torch.from_numpy(self.matrix)

    def search(
        self,
        queries: Tensor | np.ndarray,
        top: int = 10,
        among: Tensor | np.ndarray | str | None = None,
        groups: Sequence[str] | str | None = None,
    ) -> list[list[Hit]]:
        """Return the images nearest to each query, see :meth:`Reader.search`; of tensors, too."""
        asked = torch.as_tensor(queries).float().numpy()
        return super().search(asked, top, among.numpy() if isinstance(among, Tensor) else among, groups)
