"""MLR-CUHK03: in each pair of cameras the first at low resolution."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import PIL.Image

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import (
    check_part,
    find_folder,
    list_images,
    low_against_high,
    match_name,
    read_text,
    split_identities,
)

if TYPE_CHECKING:
    import h5py

logger = logging.getLogger(__name__)

RELEASE = ("cuhk03", "CUHK03")
ONE_PAIR = ("cuhk03_p1/images",)
MAT = "cuhk03_release/cuhk-03.mat"
SPLITS = "splits_classic_{}.json"
# Images and persons by kind of box.
COUNTS = {"detected": (14097, 1467), "labeled": (14096, 1467)}
ONE_PAIR_COUNTS = (7239, 743)
LAYOUTS = ("auto", "release", "one_pair")


@DATASETS.register(
    "mlr_cuhk03",
    cite="Li et al., DeepReID: deep filter pairing neural network for person re-identification, CVPR 2014",
    page="http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
    terms="academic use only, on request; respect the privacy of the students in it",
    natural=False,
    downloadable=False,
)
class MLRCUHK03(CrossResolutionDataset):
    """MLR-CUHK03: view 1 of each camera pair at rates 2, 3 or 4 is searched in view 2.

    Base set: Li et al., "DeepReID: deep filter pairing neural network for person re-identification", CVPR 2014; 1,467
    persons, each in one of 5 pairs of cameras, 14,097 detected or 14,096 labelled boxes. Terms: academic use only, on
    request; respect the privacy of the students in it (http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html).

    All view-1 images of the test persons are queries, all view-2 ones the gallery, evaluated single-shot; training
    images of view 1 are low. Image names are the official ``<pair>_<person>_<view>_<slot>``.

    Layouts:
        - ``release``: ``cuhk03_release/cuhk-03.mat`` in ``cuhk03`` or ``CUHK03``; the 20 classic test sets of 100
          persons (papers average over 10). The images are written once to ``cuhk03/images_detected`` or
          ``images_labeled``, where the host puts them, too. Without the ``.mat`` what the host made of it does:
          those folders with ``splits_classic_detected.json`` or ``splits_classic_labeled.json`` beside them.
        - ``one_pair``: ``cuhk03_p1/images``, the labelled boxes of 743 persons of pair 1; ten random splits into 643
          training and 100 test persons, or as many as ``test_persons`` says, drawn from a hash.

    Options:
        cuhk03_labeled: the release's hand-labelled boxes instead of the detected ones; the host's flag of that name
            sets it.
        layout: ``release``, ``one_pair``, or ``auto``: the release where there is one.
        check_counts: False accepts a partial copy.
        test_persons: of the layout ``one_pair``; 0: 100 of its 743.
    """

    name = "mlr_cuhk03"
    metric = "single_shot"
    num_splits = 20
    defaults: ClassVar[dict] = {"cuhk03_labeled": False, "layout": "auto", "check_counts": True, "test_persons": 0}
    added = ("test_persons",)

    def load(
        self, root: Path, split_id: int, cuhk03_labeled: bool, layout: str, check_counts: bool, test_persons: int
    ) -> Split:
        if layout not in LAYOUTS:
            raise ValueError(f"{self.name} has no layout {layout!r}; there are: {', '.join(LAYOUTS)}")
        boxes = "labeled" if cuhk03_labeled else "detected"
        release = None
        if layout != "one_pair":
            try:
                release = find_folder(root, RELEASE, [MAT], [f"images_{boxes}", SPLITS.format(boxes)])
            except FileNotFoundError as error:
                if layout == "release":
                    raise
                if not any((root / folder).is_dir() for folder in ONE_PAIR):
                    raise FileNotFoundError(f"{error}; {', '.join(ONE_PAIR)} (not there)") from None
        if layout == "auto":
            self.options["layout"] = "release" if release else "one_pair"
        if release:
            if test_persons:
                raise ValueError(f"{self.name}: the release has its own test persons, so test_persons stays 0")
            return self._load_release(release, split_id, boxes, check_counts)
        return self._load_one_pair(root, split_id, check_counts, test_persons)

    def _load_release(self, folder: Path, split_id: int, boxes: str, check_counts: bool) -> Split:
        images_folder = folder / f"images_{boxes}"
        if (folder / MAT).is_file():
            with _open_mat(folder / MAT) as mat:
                if not images_folder.is_dir():
                    _extract(mat, boxes, images_folder)
                test_pids = {_pid(*map(int, row)) for row in _follow(mat, mat["testsets"][0][split_id])}
        else:
            test_pids = _test_pids(folder / SPLITS.format(boxes), split_id)
        images = [_image(path) for path in list_images(images_folder)]
        if check_counts:
            check_part(images, COUNTS[boxes], images_folder)
        train = [image for image in images if image.pid not in test_pids]
        test = [image for image in images if image.pid in test_pids]
        return low_against_high(images_folder, train, test)

    def _load_one_pair(self, root: Path, split_id: int, check_counts: bool, test_persons: int) -> Split:
        # Runners ask the instance how many splits there are, the manifest which boxes these are.
        self.num_splits = 10
        self.options["cuhk03_labeled"] = True
        if split_id >= self.num_splits:
            raise ValueError(
                f"{self.name}: the one-pair layout has the splits 0 to {self.num_splits - 1}, not {split_id}"
            )
        folder = find_folder(root, ONE_PAIR)
        images = [_image(path) for path in list_images(folder)]
        if check_counts:
            check_part(images, ONE_PAIR_COUNTS, folder)
        persons = len({image.pid for image in images})
        num_test = test_persons or max(1, 100 * persons // ONE_PAIR_COUNTS[1])
        if not 0 < num_test < persons:
            raise ValueError(f"{self.name}: test_persons must leave some of {persons} persons, and is {test_persons}")
        return split_identities(folder, images, num_test, f"{self.name}:{split_id}")


def _pid(pair: int, person: int) -> int:
    return 1000 * pair + person


def _image(path: str) -> Image:
    pair, person, view, _ = map(int, match_name(r"([1-5])_(\d{3})_([12])_(\d{2})\.", path))
    return Image(path, _pid(pair, person), 2 * (pair - 1) + view - 1, low=view == 1)


def _test_pids(file: Path, split_id: int) -> set[int]:
    """Return the test persons of a split from a file in which the host keeps all: the paths are of where it ran."""
    try:
        listed = [path for path, *_ in json.loads(read_text(file))[split_id]["query"]]
        return {_image(re.split(r"[\\/]", path)[-1]).pid for path in listed}
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file}: has no split {split_id} as torchreid writes it: {error}") from error


@contextmanager
def _open_mat(path: Path) -> Iterator[h5py.File]:
    import h5py

    try:
        mat = h5py.File(path, "r")
    except OSError as fault:
        raise OSError(f"{path}: cannot be read as a MATLAB 7.3 file: {fault}") from fault
    with mat:
        yield mat


def _follow(mat: h5py.File, ref: Any) -> np.ndarray:
    # MATLAB stores arrays column by column.
    return mat[ref][:].T


def _extract(mat: h5py.File, boxes: str, folder: Path) -> None:
    """Write all boxes as PNG files into a new folder, which appears when it is complete."""
    logger.info("writing the %s boxes of %s to %s, once", boxes, mat.filename, folder)
    temp = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for pair, pair_ref in enumerate(mat[boxes][0], start=1):
            persons = _follow(mat, pair_ref)
            for person, refs in enumerate(persons, start=1):
                for slot, ref in enumerate(refs, start=1):
                    pixels = _follow(mat, ref)
                    # A person with fewer images has empty cells.
                    if pixels.ndim == 3 and pixels.size:
                        name = f"{pair}_{person:03d}_{1 if slot <= 5 else 2}_{slot:02d}.png"
                        PIL.Image.fromarray(pixels).save(temp / name)
            logger.info("pair %d of %d: %d persons", pair, len(mat[boxes][0]), len(persons))
        # mkdtemp's folder is for its owner alone.
        temp.chmod(0o755)
        try:
            os.replace(temp, folder)
        except OSError:
            # Another process was faster; its images are the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)
