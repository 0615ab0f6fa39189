"""Images, boxes or tracks as a gallery: their features kept in one file, brought up to date by what changed, searched.

Every batch of features is one change of the file. So a build that is stopped, at whatever moment, has lost no more than
the batch it was at, and the next one goes on behind it. What is damaged in the file is told, not searched.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from torchreid_xres.archive.boxes import read_boxes
from torchreid_xres.archive.entries import Corners, Entries, corners_of, find_entries
from torchreid_xres.archive.frames import frame_file, read_frame
from torchreid_xres.config import config_text
from torchreid_xres.files import require_regular, write_text
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.inference.pictures import as_image, cropped
from torchreid_xres.jobs.lock import sole_use
from torchreid_xres.metrics.distance import distance_tiles
from torchreid_xres.metrics.search import GalleryIndex
from torchreid_xres.search.building import Update, add_entries
from torchreid_xres.search.filters import require_names
from torchreid_xres.search.storage import Row, Storage

logger = logging.getLogger(__name__)

DATABASE, CONFIG = "gallery.sqlite", "config.yaml"
# From so many images on FAISS searches, where it is installed: it prepares the features once, for all queries.
LARGE = 50_000


class Hit(NamedTuple):
    """An image that a search found.

    Attributes:
        rank: from 1.
        score: cosine similarity, at most 1; or minus the squared distance, if the run was evaluated by Euclidean ones.
        name: path below the folder of images; of a box also its place, of a track its number.
        path: the file, of a box that of its frame.
        size: height and width of the image, or the box.
        frame: name of the frame that a box is in, of a track the one that shows it best; empty for an image.
        box: left, top, width and height in it; None for the whole.
        time: as a list of boxes or EXIF has it, empty if neither does.
        camera, track, identity: as a list of boxes has them, empty if it does not.
    """

    rank: int
    score: float
    name: str
    path: Path
    size: tuple[int, int]
    frame: str = ""
    box: Corners | None = None
    time: str = ""
    camera: str = ""
    track: str = ""
    identity: str = ""


class Gallery:
    """The features of the images in a folder, or of boxes or tracks in them, by one model.

    Args:
        folder: where the gallery is kept: ``gallery.sqlite`` and the model's ``config.yaml``. With an extractor it is
            begun if it is not there.
        extractor: the model; needed to :meth:`update`, not to search. Nothing is written before the first update.

    Raises:
        FileNotFoundError: if there is no gallery, and no extractor to begin one.
        ValueError: if the gallery was made by another model, is damaged, or none.
        OSError: if the file cannot be read.

    Example:
        A gallery of all images in and below a folder, and the ten that are most like a picture::

            extractor = Extractor("log/sr_reid/split0/sr_reid")
            gallery = Gallery("log/gallery", extractor)
            gallery.update("path/to/images")
            for hit in gallery.search(extractor("query.jpg"), top=10)[0]:
                print(hit.rank, hit.score, hit.path)
    """

    def __init__(self, folder: str | Path, extractor: Extractor | None = None) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.extractor = extractor
        self._storage = Storage(self.folder / DATABASE)
        self.about: dict[str, Any]
        self.images: Path | None
        self.facts = facts = self._storage.facts()
        if not facts:
            if extractor is None:
                told = f"there is no gallery in {self.folder} (no {DATABASE}, or nothing in it)"
                raise FileNotFoundError(f"{told}; build one first")
            self.about, self.weights, self.images = extractor.about, extractor.weights, None
            return
        self.about = self._read_about(facts["about"])
        self.weights = Path(facts["weights"])
        self.images = Path(facts["images"])
        if extractor is not None:
            self._refuse_another(extractor)

    def _begin(self, images: Path) -> None:
        facts = {"about": json.dumps(self.about), "weights": str(self.weights), "images": str(images)}
        self._storage.begin(**facts, config=self._keep_config({"config": ""}))

    def _read_about(self, text: str) -> dict[str, Any]:
        try:
            about = json.loads(text)
            lacks = ", ".join(sorted({"model", "weights_sha256", "full_size", "metric"} - about.keys()))
        except (ValueError, AttributeError) as error:
            lacks = f"all ({error})"
        if lacks:
            raise ValueError(f"{self._storage.path} is not a readable gallery: what it says of its model lacks {lacks}")
        return about

    def _config_is_whole(self, facts: Mapping[str, str]) -> bool:
        """Return whether the model's configuration is as it was written; galleries of before know no checksum."""
        path = self.folder / CONFIG
        require_regular(path)
        return path.is_file() and facts.get("config") in (None, str(zlib.crc32(path.read_bytes())))

    def _keep_config(self, facts: Mapping[str, str]) -> str:
        """Write the model's configuration, unless it is there; return its checksum."""
        path = self.folder / CONFIG
        if not self._config_is_whole(facts):
            write_text(config_text(self.extractor.cfg), path)
        return str(zlib.crc32(path.read_bytes()))

    def _refuse_another(self, extractor: Extractor) -> None:
        ours, theirs = self.about, extractor.about
        where = f"the gallery in {self.folder} was made by {ours['model']}"
        if ours["weights_sha256"] != theirs["weights_sha256"]:
            raise ValueError(
                f"{where} with the weights {ours['weights_sha256'][:12]}; {extractor.weights} holds {theirs['model']} "
                f"with {theirs['weights_sha256'][:12]}. Features of two models cannot be compared: name another folder"
            )
        # A model goes by other names in other configurations.
        differing = [key for key in {**ours, **theirs} if key != "model" and ours.get(key) != theirs.get(key)]
        if differing:
            told = "; ".join(f"{key} is {ours.get(key)} there, {theirs.get(key)} here" for key in differing)
            raise ValueError(f"{where} with these weights but other settings: {told}")

    def make_extractor(self, weights: str | Path = "", **kwargs: Any) -> Extractor:
        """Return the extractor that the gallery was made with.

        Args:
            weights: where run or checkpoint are now; empty: where they were.
            **kwargs: ``device``, ``precision``, ``batch_size``, ``query_encoder``.

        Raises:
            FileNotFoundError: if they are no longer there.
            ValueError: if the file holds other weights now, or the gallery's configuration is damaged.
        """
        if not self._config_is_whole(self._storage.facts()):
            where = f"the {CONFIG} in {self.folder}"
            raise ValueError(f"{where} is not what the gallery was built with: build it again, which writes it anew")
        of = {"config": self.folder / CONFIG, "full_size": self.about["full_size"]}
        path = self.checkpoint(weights)
        if not path.exists():
            raise FileNotFoundError(
                f"there is no run or checkpoint at {path}, with which the gallery in {self.folder} was made "
                f"({self.about['model']}); say where it is now (--run), or build the gallery again with it"
            )
        extractor = Extractor(path, **of, **kwargs)
        self._refuse_another(extractor)
        return extractor

    def checkpoint(self, weights: str | Path = "") -> Path:
        """Return the file of the weights that the gallery was made with, which may be gone.

        Args:
            weights: where run or checkpoint are now; empty: where they were.
        """
        place = Path(weights).expanduser().absolute() if weights else self.weights
        return place / self.weights.name if place.is_dir() else place

    # -- building --------------------------------------------------------------------------------------------

    def update(
        self, images: str | Path, boxes: str | Path = "", *, rate: float = 0, names: str | None = None
    ) -> Update:
        """Bring the gallery to what is in and below a folder now: new and changed files in, vanished ones out.

        Files that cannot be used are left out, with their reason, and tried again when they change. What could not be
        looked at stays as it is, and is tried again: images below a folder that cannot be read or a link that leads
        nowhere now, and files that cannot be opened. On a terminal a bar shows the progress.

        Args:
            images: the folder, or a video's file. It may have moved since the last time; what counts is a file's path
                below it.
            boxes: list of boxes, see :func:`~torchreid_xres.archive.boxes.read_boxes`: these are taken in place of
                whole images. Boxes with a track become one entry, the mean of its clearest crops.
            rate: frames of each second of a video that are taken; 0: all that boxes are in, without boxes one.
            names: regular expression whose groups ``camera`` and ``identity`` are found in names; None: as before.

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
            done = self._follow(entries, kept)
        logger.info(
            "%s: %d added, %d changed, %d removed, %d kept, %d unseen, %d faults, %d boxes that cannot be; %s",
            self.folder, done.added, done.changed, done.removed, done.kept, done.unseen, len(done.faults),
            len(done.listed), entries.tree.told(),
        )  # fmt: skip
        return done

    def _follow(self, entries: Entries, kept: dict[str, str]) -> Update:
        images, found, tree = entries.base, entries.found, entries.tree
        facts = self._storage.facts()
        if not facts:
            self._begin(images)
        with self._storage.changing() as changes:
            held = changes.held
            if held and bool(facts.get("boxes")) != bool(kept["boxes"]):
                what = f"the boxes of {facts['boxes']}" if facts.get("boxes") else "whole images"
                raise ValueError(
                    f"the gallery in {self.folder} is of {what}: build it of these again, or name another folder for "
                    "another gallery"
                )
            if images != self.images and held and not held.keys() & found.keys():
                raise ValueError(
                    f"the gallery in {self.folder} is of the images in {self.images}, and none of them is in {images}: "
                    "name another folder for another gallery"
                )
            unseen = {name for name in held.keys() - found.keys() if tree.is_unseen(name)}
            vanished = held.keys() - found.keys() - unseen
            wanted = [name for name, entry in found.items() if held.get(name) != [entry.bytes, entry.mtime_ns]]
            config = self._keep_config(changes.facts)
            weights = str(self.extractor.weights)  # they may have moved
            changes.make(gone=vanished, images=str(images), config=config, weights=weights, **kept)
            self.images, self.weights, self.facts = images, self.extractor.weights, changes.facts
            for cached in ("_held", "_index"):
                self.__dict__.pop(cached, None)
            done = Update(
                removed=len(vanished), kept=len(found) - len(wanted), unseen=len(unseen), tree=tree,
                listed=entries.faults, thinned=entries.thinned,
            )  # fmt: skip
            add_entries(self.extractor, changes, entries, sorted(wanted), held.keys(), done)
        return done

    # -- searching -------------------------------------------------------------------------------------------

    @cached_property
    def _held(self) -> tuple[list[Row], Tensor, dict[str, str]]:
        rows = self._storage.rows()
        faults = {row.name: row.fault for row in rows if row.fault is not None}
        rows = [row for row in rows if row.feature is not None]
        features = torch.from_numpy(np.frombuffer(bytearray().join(row.feature for row in rows), dtype=np.float32))
        width = len(features) // max(1, len(rows))
        return [row._replace(feature=None) for row in rows], features.view(len(rows), width), faults

    def __len__(self) -> int:
        return len(self.rows)

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
        self, queries: Tensor, top: int = 10, among: Tensor | None = None, groups: Sequence[str] | None = None
    ) -> list[list[Hit]]:
        """Return the images nearest to each query, nearest first; the search is exact.

        Args:
            queries: (Q, D), by the model that the gallery was made with.
            top: at most so many for each.
            among: (N,) bool, of the gallery: which images are searched; None: all.
            groups: (N,) of the gallery, such as identities: of images of one group the best alone is found.

        Raises:
            ValueError: for an empty gallery, a number below 1, or nothing to search.
        """
        if top < 1:
            raise ValueError(f"top is {top}; at least 1 image is found")
        if not len(self):
            raise ValueError(f"the gallery in {self.folder} holds no image")
        if among is not None and not among.any():
            raise ValueError(f"none of the {len(self)} images of the gallery in {self.folder} is left to search")
        distances, places = self._nearest(queries, top, among, groups)
        return [
            [self._hit(rank, *found) for rank, found in enumerate(zip(*row, strict=True), start=1)]
            for row in zip(distances, places, strict=True)
        ]

    def _hit(self, rank: int, distance: float, place: int) -> Hit:
        row = self.rows[place]
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

    def _nearest(
        self, queries: Tensor, top: int, among: Tensor | None, groups: Sequence[str] | None
    ) -> tuple[list[list[float]], list[list[int]]]:
        if among is None and groups is None and len(self) >= LARGE and importlib.util.find_spec("faiss"):
            distances, places = self._index.search(queries, min(top, len(self)))
            return distances.tolist(), places.tolist()
        rows = torch.arange(len(self)) if among is None else among.nonzero()[:, 0]
        features = self.features if among is None else self.features[rows]
        values, found = [], []
        of = None if groups is None else np.unique(np.asarray(groups)[rows.numpy()], return_inverse=True)[1]
        for band in distance_tiles(queries, features, self.about["metric"]):
            if of is None:
                near = band.topk(min(top, band.shape[1]), largest=False).indices
            else:
                near = [_best_of_each(row, of)[:top] for row in band]
            for row, places in zip(band, near, strict=True):
                values.append(row[places].tolist())
                found.append(rows[places].tolist())
        return values, found

    @cached_property
    def _index(self) -> GalleryIndex:
        index = GalleryIndex(self.features.shape[1], self.about["metric"])
        index.add(self.features)
        return index


def _best_of_each(distances: Tensor, groups: np.ndarray) -> Tensor:
    """Return the place of the nearest image of each group, nearest first."""
    order = distances.argsort(stable=True)
    first = np.unique(groups[order.numpy()], return_index=True)[1]
    return order[torch.from_numpy(np.sort(first))]
