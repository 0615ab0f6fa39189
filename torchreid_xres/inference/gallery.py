"""A folder of images as a gallery: their features kept in one file, brought up to date by what changed, searched.

Every batch of features is one change of the file. So a build that is stopped, at whatever moment, has lost no more than
the batch it was at, and the next one goes on behind it. What is damaged in the file is told, not searched.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import zlib
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchreid_xres.config import config_text
from torchreid_xres.data.walk import FoundImages
from torchreid_xres.files import require_regular, write_text
from torchreid_xres.inference.extractor import Extractor, Prepared
from torchreid_xres.inference.folder import ImageFile, image_files
from torchreid_xres.inference.storage import Changes, Row, Storage
from torchreid_xres.jobs.lock import sole_use
from torchreid_xres.metrics.distance import distance_tiles
from torchreid_xres.metrics.search import GalleryIndex
from torchreid_xres.terminal import progress

logger = logging.getLogger(__name__)

DATABASE, CONFIG = "gallery.sqlite", "config.yaml"
# From so many images on FAISS searches, where it is installed: it prepares the features once, for all queries.
LARGE = 50_000


class Hit(NamedTuple):
    """An image that a search found.

    Attributes:
        rank: from 1.
        score: cosine similarity, at most 1; or minus the squared distance, if the run was evaluated by Euclidean ones.
        name: path below the folder of images.
        path: the file.
        size: its height and width.
    """

    rank: int
    score: float
    name: str
    path: Path
    size: tuple[int, int]


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
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    unseen: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    tree: FoundImages | None = None


class Gallery:
    """The features of a folder of images by one model.

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
        facts = self._storage.facts()
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
        extractor = Extractor(self.checkpoint(weights), **of, **kwargs)
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

    def update(self, images: str | Path) -> Update:
        """Bring the gallery to what is in and below a folder now: new and changed files in, vanished ones out.

        Files that cannot be used are left out, with their reason, and tried again when they change. What could not be
        looked at stays as it is, and is tried again: images below a folder that cannot be read or a link that leads
        nowhere now, and files that cannot be opened. On a terminal a bar shows the progress.

        Args:
            images: the folder. It may have moved since the last time; what counts is a file's path below it.

        Raises:
            FileNotFoundError: if there is no such folder, or no image in it.
            ValueError: if none of the gallery's images is in a folder other than the last.
            OSError: if another build of this gallery is at work, or nothing can be written.
        """
        if self.extractor is None:
            raise ValueError("a gallery is updated by the extractor that it was made with; give it one")
        if self.extractor.query_encoder is not None:
            raise ValueError("a gallery is updated by an extractor without a query encoder, which is for queries alone")
        images = Path(images).expanduser().absolute()
        found, tree = image_files(images, without=self.folder)
        with sole_use(self.folder):
            done = self._follow(images, found, tree)
        logger.info(
            "%s: %d added, %d changed, %d removed, %d kept, %d unseen, %d faults; %s",
            self.folder, done.added, done.changed, done.removed, done.kept, done.unseen, len(done.faults), tree.told(),
        )  # fmt: skip
        return done

    def _follow(self, images: Path, found: dict[str, ImageFile], tree: FoundImages) -> Update:
        if not self._storage.facts():
            self._begin(images)
        with self._storage.changing() as changes:
            held = changes.held
            if images != self.images and held and not held.keys() & found.keys():
                raise ValueError(
                    f"the gallery in {self.folder} is of the images in {self.images}, and none of them is in {images}: "
                    "name another folder for another gallery"
                )
            unseen = {name for name in held.keys() - found.keys() if tree.is_unseen(name)}
            vanished = held.keys() - found.keys() - unseen
            wanted = sorted(name for name, file in found.items() if held.get(name) != [file.bytes, file.mtime_ns])
            changes.make(gone=vanished, images=str(images), config=self._keep_config(changes.facts))
            self.images = images
            for kept in ("_held", "_index"):
                self.__dict__.pop(kept, None)
            done = Update(removed=len(vanished), kept=len(found) - len(wanted), unseen=len(unseen), tree=tree)
            self._add(changes, {name: found[name] for name in wanted}, held.keys(), done)
        return done

    def _add(self, changes: Changes, files: dict[str, ImageFile], held: Container[str], done: Update) -> None:
        names = list(files)
        batches = [names[i : i + self.extractor.batch_size] for i in range(0, len(names), self.extractor.batch_size)]
        # While the network works, the next batch is read.
        with ThreadPoolExecutor(1) as reader, progress(total=len(names), unit="image") as bar:
            ahead = None
            for number, batch in enumerate(batches):
                read = ahead or reader.submit(self._read, batch, files)
                if number + 1 < len(batches):
                    ahead = reader.submit(self._read, batches[number + 1], files)
                pictures, unopened = read.result()
                done.faults |= unopened
                rows = self._rows(pictures, files)
                changes.make(rows)
                for row in rows:
                    if row.fault:
                        done.faults[row.name] = row.fault
                    elif row.name in held:
                        done.changed += 1
                    else:
                        done.added += 1
                bar.update(len(batch))

    def _read(
        self, names: Sequence[str], files: dict[str, ImageFile]
    ) -> tuple[dict[str, Prepared | str], dict[str, str]]:
        """Return the pictures by name, or why a file is none; and why other files cannot be opened now."""
        read: dict[str, Prepared | str] = {}
        unopened = {}
        for name in names:
            try:
                read[name] = self.extractor.prepare(files[name].path)
            except OSError as error:
                told = str(error).removeprefix(f"{files[name].path}: ")
                # Of the file's content nothing is known if the system did not give it.
                by_system = isinstance(error, FileNotFoundError) or getattr(error.__cause__, "errno", None)
                (unopened if by_system else read)[name] = told
        return read, unopened

    def _rows(self, read: dict[str, Prepared | str], files: dict[str, ImageFile]) -> list[Row]:
        pictures = {name: one for name, one in read.items() if not isinstance(one, str)}
        features = iter(self.extractor.describe(list(pictures.values())) if pictures else ())
        rows = []
        for name, one in read.items():
            stamp = name, files[name].bytes, files[name].mtime_ns
            if isinstance(one, str):
                rows.append(Row(*stamp, None, None, None, one))
                continue
            feature = next(features)
            if not torch.isfinite(feature).all():
                rows.append(Row(*stamp, *one.size, None, "the network gives no finite feature for it"))
            else:
                rows.append(Row(*stamp, *one.size, feature.numpy().tobytes(), None))
        return rows

    # -- searching -------------------------------------------------------------------------------------------

    @cached_property
    def _held(self) -> tuple[list[str], list[tuple[int, int]], Tensor, dict[str, str]]:
        rows = self._storage.rows()
        faults = {row.name: row.fault for row in rows if row.fault is not None}
        rows = [row for row in rows if row.feature is not None]
        features = torch.from_numpy(np.frombuffer(bytearray().join(row.feature for row in rows), dtype=np.float32))
        width = len(features) // max(1, len(rows))
        sizes = [(row.height, row.width) for row in rows]
        return [row.name for row in rows], sizes, features.view(len(rows), width), faults

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> list[str]:
        """Paths of the images below their folder, in the order of :attr:`features`."""
        return self._held[0]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image in pixels, in the same order."""
        return self._held[1]

    @property
    def features(self) -> Tensor:
        """(N, D), float32."""
        return self._held[2]

    @property
    def faults(self) -> dict[str, str]:
        """Why files of the folder are not in the gallery, by name."""
        return self._held[3]

    def search(self, queries: Tensor, top: int = 10) -> list[list[Hit]]:
        """Return the images nearest to each query, nearest first; the search is exact.

        Args:
            queries: (Q, D), by the model that the gallery was made with.
            top: at most so many for each.

        Raises:
            ValueError: for an empty gallery, or a number below 1.
        """
        if top < 1:
            raise ValueError(f"top is {top}; at least 1 image is found")
        if not len(self.names):
            raise ValueError(f"the gallery in {self.folder} holds no image")
        distances, places = self._nearest(queries, min(top, len(self.names)))
        names, sizes, *_ = self._held
        return [
            [
                Hit(rank, self.score(distance), names[place], self.images / names[place], sizes[place])
                for rank, (distance, place) in enumerate(zip(*row, strict=True), start=1)
            ]
            for row in zip(distances.tolist(), places.tolist(), strict=True)
        ]

    def score(self, distance: float) -> float:
        """Return what a hit at a distance has as its score."""
        return (1 if self.about["metric"] == "cosine" else 0) - distance

    def distance(self, score: float) -> float:
        """Return the distance of a hit by its score."""
        return self.score(0) - score

    def _nearest(self, queries: Tensor, k: int) -> tuple[Tensor | np.ndarray, Tensor | np.ndarray]:
        if len(self.names) >= LARGE and importlib.util.find_spec("faiss"):
            return self._index.search(queries, k)
        bands = distance_tiles(queries, self.features, self.about["metric"])
        parts = [band.topk(k, largest=False) for band in bands]
        return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])

    @cached_property
    def _index(self) -> GalleryIndex:
        index = GalleryIndex(self.features.shape[1], self.about["metric"])
        index.add(self.features)
        return index
