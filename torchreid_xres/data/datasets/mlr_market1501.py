"""MLR-Market-1501: Market-1501 with one camera at low resolution."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import check_count, check_part, find_folder, low_against_high, read_cameras
from torchreid_xres.data.split import group, shuffled, with_match

logger = logging.getLogger(__name__)

TRAIN, TEST, QUERY = "bounding_box_train", "bounding_box_test", "query"

# The low-resolution camera of each variant, as the files name it; None: another one for every identity.
VARIANTS = {"ps_hrnet": 3, "prpr": 1, "vpfa": None, "official": 3}


@DATASETS.register(
    "mlr_market1501",
    cite="Zheng et al., Scalable person re-identification: a benchmark, ICCV 2015",
    page="http://www.liangzheng.org/Project/project_reid.html",
    terms="academic research only",
    natural=False,
    downloadable=False,
)
class MLRMarket1501(CrossResolutionDataset):
    """MLR-Market-1501: queries of one camera at rates 2, 3 or 4, gallery of the other cameras at full size.

    Base set: Zheng et al., "Scalable person re-identification: a benchmark", ICCV 2015; 1501 persons, 6 cameras,
    12,936 training images of 751 persons, 19,732 test images (2,798 distractors of identity 0 and 3,819 junk images
    of identity -1 among them), 3,368 official queries. Terms: academic research only; ask the authors
    (http://www.liangzheng.org/Project/project_reid.html). Nothing is downloaded here.

    Folders: ``market1501/Market-1501-v15.09.15``, ``market1501``, ``Market-1501-v15.09.15`` or ``Market-1501``, with
    ``bounding_box_train``, ``bounding_box_test`` and, for all variants but the default, ``query``.

    Options:
        variant: papers agree on "one camera" and on little else. In all variants the training images of the low
            camera are low.

            - ``ps_hrnet`` (default): all test images of the camera are queries, those of the other cameras the
              gallery; the official queries, distractors and junk are not used (2,825 + 10,290 images in the published
              run of PS-HRNet; camera 3 is MDIFF's choice, of the same lab).
            - ``prpr``: the camera's images of both test folders are queries; gallery is all the rest, with
              distractors and junk; camera 1.
            - ``vpfa``: one camera per identity, drawn anew in each folder, is low; official queries and gallery, so
              that both mix low and high.
            - ``official``: official queries and gallery, low wherever the camera is the low one.
        lr_camera: the low camera, 1 to 6; None: the variant's own.
        check_counts: False accepts a partial copy.
    """

    name = "mlr_market1501"
    defaults: ClassVar[dict] = {"variant": "ps_hrnet", "lr_camera": None, "check_counts": True}
    _junk_pids: ClassVar[list[int]] = [0, -1]

    def load(self, root: Path, split_id: int, variant: str, lr_camera: int | None, check_counts: bool) -> Split:
        if variant not in VARIANTS:
            raise ValueError(f"{self.name} has no variant {variant!r}; there are: {', '.join(VARIANTS)}")
        if variant == "vpfa" and lr_camera is not None:
            raise ValueError(f"{self.name}: the variant vpfa draws the camera of each identity; lr_camera must be None")
        if lr_camera not in (None, 1, 2, 3, 4, 5, 6):
            raise ValueError(f"{self.name} has the cameras 1 to 6; lr_camera is {lr_camera!r}")
        camera = lr_camera or VARIANTS[variant]
        # The manifest must say which camera it was.
        self.options["lr_camera"] = camera

        parts = [TRAIN, TEST] if variant == "ps_hrnet" else [TRAIN, TEST, QUERY]
        folders = ("market1501/Market-1501-v15.09.15", "market1501", "Market-1501-v15.09.15", "Market-1501")
        folder = find_folder(root, folders, parts)
        train, test, *official = (read_cameras(folder / part, cameras=6) for part in parts)
        query = official[0] if official else []
        if check_counts:
            check_part(train, (12936, 751), folder / TRAIN)
            check_count("images", 19732, len(test), folder / TEST)
            if official:
                check_part(query, (3368, 750), folder / QUERY)

        if variant == "vpfa":
            train, test, query = (
                _low_camera_per_identity(images, part)
                for images, part in ((train, TRAIN), (test, TEST), (query, QUERY))
            )
        else:
            train, test, query = (_low_camera(images, camera - 1) for images in (train, test, query))

        # In these variants the gallery has images of the low camera: distractors, or official gallery images.
        self.disjoint_cameras = variant == "ps_hrnet"
        if variant == "ps_hrnet":
            split = low_against_high(folder, train, [image for image in test if image.pid > 0])
            if check_counts and camera == 3 and len(split.query) != 2825:
                logger.warning("%s: %d queries; the published run of PS-HRNet had 2825", self.name, len(split.query))
            return split
        if variant == "prpr":
            both = [*test, *query]
            gallery = [image._replace(low=False) for image in both if not (image.low and image.pid > 0)]
            query = [image for image in both if image.low and image.pid > 0]
        else:
            # The host's own loader leaves the junk out, too.
            gallery = [image for image in test if image.pid >= 0]
        return Split(str(folder), train, with_match(query, gallery), gallery)


def _low_camera(images: list[Image], camid: int) -> list[Image]:
    return [image._replace(low=image.camid == camid) for image in images]


def _low_camera_per_identity(images: list[Image], part: str) -> list[Image]:
    low = {}
    for pid, members in group(images, lambda image: image.pid).items():
        cameras = {image.camid for image in members}
        # An identity of one camera stays high, or nothing high would be left of it.
        low[pid] = shuffled(cameras, f"mlr_market1501:vpfa:{part}:{pid}")[0] if len(cameras) > 1 else None
    return [image._replace(low=image.camid == low[image.pid]) for image in images]
