"""CAVIAR4REID: two cameras of which one is far away; the resolution gap is in the pictures."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from statistics import median
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import (
    check_count,
    check_part,
    find_folder,
    list_images,
    match_name,
    split_identities,
)
from torchreid_xres.data.io import image_size
from torchreid_xres.data.split import group

logger = logging.getLogger(__name__)

FOLDERS = (
    "CAVIAR4REID", "caviar/CAVIAR4REID", "CAVIARa", "caviar/CAVIARa", "CAVIAR4REID/CAVIARa",
    "caviar/CAVIAR4REID/CAVIARa", "caviar",
)  # fmt: skip


@DATASETS.register(
    "caviar",
    cite="Cheng et al., Custom pictorial structures for re-identification, BMVC 2011",
    page="http://www.lorisbazzani.info/caviar4reid.html",
    terms="research use",
    natural=True,
    downloadable=False,
)
class CAVIAR(CrossResolutionDataset):
    """CAVIAR4REID: images of the far camera are searched in those of the near one, as they are.

    Base set: Cheng et al., "Custom pictorial structures for re-identification", BMVC 2011; 1,220 images of 72
    persons, 50 of whom appear in both cameras, with 10 images in each. Terms: research use
    (http://www.lorisbazzani.info/caviar4reid.html).

    Folders: ``CAVIAR4REID`` or ``CAVIARa``, alone, in ``caviar`` or ``CAVIARa`` in ``CAVIAR4REID``, or ``caviar``;
    names ``PPPPIII.jpg`` with the person's four digits and the image's three. Images 1 to 10 are of the first camera,
    11 to 20 of the second.

    The 22 persons of one camera are dropped. The camera with the smaller median area is low. Ten random splits into
    25 training and 25 test persons (500 training images, 250 queries, 250 gallery images), evaluated single-shot.

    Options:
        check_counts: False accepts a partial copy.
    """

    name = "caviar"
    natural = True
    metric = "single_shot"
    num_splits = 10
    defaults: ClassVar[dict] = {"check_counts": True}

    def load(self, root: Path, split_id: int, check_counts: bool) -> Split:
        folder = find_folder(root, FOLDERS)
        images = []
        for path in list_images(folder):
            person, number = map(int, match_name(r"(\d{4})(\d{3})\.", path))
            images.append(Image(path, person, int(number > 10)))
        if check_counts:
            check_part(images, (1220, 72), folder)

        persons = group(images, lambda image: image.pid)
        both = {pid for pid, members in persons.items() if len({image.camid for image in members}) == 2}
        if check_counts:
            check_count("persons in both cameras", 50, len(both), folder)
        images = [image for image in images if image.pid in both]
        far = _smaller_camera(images)
        images = [image._replace(low=image.camid == far) for image in images]
        return split_identities(folder, images, len(both) // 2, f"{self.name}:{split_id}")


def _smaller_camera(images: list[Image]) -> int:
    areas: dict[int, list[int]] = {0: [], 1: []}
    for image in images:
        areas[image.camid].append(math.prod(image_size(image.path)))
    medians = {camid: median(area) for camid, area in areas.items() if area}
    logger.info("caviar: median areas of the cameras in pixels: %s; the smaller is low resolution", medians)
    return min(medians, key=medians.__getitem__, default=0)
