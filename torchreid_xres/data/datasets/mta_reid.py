"""MTA-ReID: persons of a game in six cameras; sizes vary within every camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import check_count, find_folder, list_images, match_name
from torchreid_xres.data.io import image_size
from torchreid_xres.data.native import check_full_size, input_resize, low_by_size
from torchreid_xres.data.split import with_match

FULL_SIZE = (256, 128)  # the host's input size for persons
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

    Every part mixes sizes and the protocol (PRPR) names no low-resolution side, so each image is low or not by its own
    size: if its side, by its area, is at least 1.41 times smaller than that of ``full_size``, as
    :class:`~torchreid_xres.inference.Extractor` has it. Every rate is 1.0, as captured.

    Options:
        check_counts: False accepts a partial copy.
        full_size: height and width of an image of full resolution; None: those of the network's input, or 256 and 128
            where there is no network. The manifest has the size that counted.
    """

    name = "mta_reid"
    natural = True
    defaults: ClassVar[dict] = {"check_counts": True, "full_size": None}

    def __init__(self, root: str = "", split_id: int = 0, **kwargs: Any) -> None:
        resize = input_resize(kwargs.get("transform"))
        self._input = FULL_SIZE if resize is None else tuple(resize.size)
        super().__init__(root, split_id, **kwargs)

    def load(self, root: Path, split_id: int, check_counts: bool, full_size: Sequence[int] | None) -> Split:
        full = check_full_size(self._input if full_size is None else full_size, f"{self.name}: ")
        self.options["full_size"] = list(full)
        folders = ("MTA_reid", "mta/MTA_reid", "mta_reid/MTA_reid", "mta_reid")
        folder = find_folder(root, folders, list(PARTS))
        parts = []
        for part, expected in PARTS.items():
            images = []
            for path in list_images(folder / part):
                camera, person = match_name(r"framegta_\d+_camid_([0-5])_pid_(\d+)\.", path)
                images.append(Image(path, int(person), int(camera), low_by_size(image_size(path), full)))
            if check_counts:
                check_count("images", expected, len(images), folder / part)
            parts.append(images)
        train, query, gallery = parts
        return Split(str(folder), train, with_match(query, gallery), gallery)
