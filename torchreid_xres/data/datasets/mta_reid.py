"""MTA-ReID: persons of a game in six cameras; sizes vary within every camera."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import check_count, find_folder, list_images, match_name, with_match

PARTS = {"train": 72301, "query": 15165, "test": 60448}


@DATASETS.register(
    "mta_reid",
    cite="Kohl et al., The MTA dataset for multi target multi camera pedestrian tracking, CVPR workshops 2020",
    page="https://github.com/schuar-iosb/mta-dataset",
    terms="research and education only; users undertake to own a copy of the game",
    natural=True,
    downloadable=False,
)
class MTAReID(CrossResolutionDataset):
    """MTA-ReID: official queries and gallery of synthetic persons, nothing down-sampled.

    Base set: Kohl et al., "The MTA dataset for multi target multi camera pedestrian tracking by weighted distance
    aggregation", CVPR workshops 2020; 72,301 training, 15,165 query and 60,448 test images, 6 cameras. Terms:
    research and education only, no commercial use, and users undertake to buy a copy of Grand Theft Auto V
    (https://github.com/schuar-iosb/mta-dataset).

    Folders: ``MTA_reid``, ``mta_reid``, ``mta/MTA_reid`` or ``mta_reid/MTA_reid``, with ``train``, ``query`` and
    ``test``; names ``framegta_<frame>_camid_<camera>_pid_<person>.png``. The distractors, in a folder of their own,
    are not used.

    Every part mixes sizes and the protocol (PRPR) names no low-resolution side, so no image counts as low: every rate
    is 1.0, as captured, and ``size`` tells the resolutions apart.

    Options:
        check_counts: False accepts a partial copy.
    """

    name = "mta_reid"
    natural = True
    defaults: ClassVar[dict] = {"check_counts": True}

    def load(self, root: Path, split_id: int, check_counts: bool) -> Split:
        folders = ("MTA_reid", "mta/MTA_reid", "mta_reid/MTA_reid", "mta_reid")
        folder = find_folder(root, folders, list(PARTS))
        parts = []
        for part, expected in PARTS.items():
            images = []
            for path in list_images(folder / part):
                camera, person = match_name(r"framegta_\d+_camid_([0-5])_pid_(\d+)\.", path)
                images.append(Image(path, int(person), int(camera)))
            if check_counts:
                check_count("images", expected, len(images), folder / part)
            parts.append(images)
        train, query, gallery = parts
        return Split(str(folder), train, with_match(query, gallery), gallery)
