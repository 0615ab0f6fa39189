"""MLR-VRU: vehicles seen from drones, queries at low resolution."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import check_count, find_folder, listed_images
from torchreid_xres.data.protocol import draw_rate
from torchreid_xres.data.split import one_per_identity, shuffled

TRAIN_LIST = "train_list.txt"
TEST_SIZES = (1200, 2400, 8000)


@DATASETS.register(
    "mlr_vru",
    cite="Lu, Xu and Li, Vehicle re-identification based on UAV viewpoint: dataset and method, Remote Sensing 2022",
    page="https://github.com/GeoX-Lab/ReID",
    terms="openly downloadable, no licence stated",
    natural=False,
    downloadable=False,
)
class MLRVRU(CrossResolutionDataset):
    """MLR-VRU: one gallery image per vehicle at full size, all others are queries at rates 2, 3 or 4.

    Base set: Lu, Xu and Li, "Vehicle re-identification based on UAV viewpoint: dataset and method", Remote Sensing
    2022; 172,137 images of 15,085 vehicles, no camera labels. Terms: openly downloadable, no licence
    stated (https://github.com/GeoX-Lab/ReID). Protocol: MSIFLA, Section 4.1: 1,415 training and 486 test vehicles.

    Folders: ``VRU``, ``vru/VRU`` or ``vru``, with ``Pic`` and ``train_test_split`` (lines ``<image> <vehicle>`` in
    ``train_list.txt`` and ``test_list_<size>.txt``).

    A training image is kept or down-sampled by one of the rates, each with the same chance. MSIFLA does not publish
    which vehicles it took; here they are drawn from a hash, so its 14,611 and 5,549 images are not reproduced
    exactly. The ten splits differ in the gallery image of each vehicle. Queries get camera 0, the gallery camera 1.

    Options:
        test_size: which list the test vehicles come from: 1200, 2400 or 8000.
        train_vehicles: how many training vehicles; None: all 7,085.
        test_vehicles: how many test vehicles; None: all of the list.
        check_counts: False accepts a partial copy.
    """

    name = "mlr_vru"
    metric = "single_shot"
    num_splits = 10
    splits_share_training = True
    defaults: ClassVar[dict] = {"test_size": 1200, "train_vehicles": 1415, "test_vehicles": 486, "check_counts": True}

    def load(
        self,
        root: Path,
        split_id: int,
        test_size: int,
        train_vehicles: int | None,
        test_vehicles: int | None,
        check_counts: bool,
    ) -> Split:
        if test_size not in TEST_SIZES:
            raise ValueError(f"{self.name} has the test sizes {', '.join(map(str, TEST_SIZES))}, not {test_size!r}")
        test_list = f"test_list_{test_size}.txt"
        needs = ["Pic", *(f"train_test_split/{name}" for name in (TRAIN_LIST, test_list))]
        folder = find_folder(root, ("VRU", "vru/VRU", "vru"), needs)
        train, test = (
            listed_images(folder / "train_test_split" / name, folder / "Pic", complete=check_counts)
            for name in (TRAIN_LIST, test_list)
        )
        if check_counts:
            for images, vehicles, name in ((train, 7085, TRAIN_LIST), (test, test_size, test_list)):
                found = len({image.pid for image in images})
                check_count(f"vehicles of {name}", vehicles, found, folder / "train_test_split")

        train = [image._replace(low=self._is_low(image)) for image in _some_vehicles(train, train_vehicles, TRAIN_LIST)]
        query, gallery = one_per_identity(_some_vehicles(test, test_vehicles, test_list), f"{self.name}:{split_id}")
        return Split(str(folder), train, query, gallery)

    def _is_low(self, image: Image) -> bool:
        choices = (0.0, *self.options["rates"])
        # "kept:" so that this draw does not decide that of the rate.
        return draw_rate(f"kept:Pic/{os.path.basename(image.path)}", self.options["seed"], choices) != 0.0


def _some_vehicles(images: list[Image], number: int | None, salt: str) -> list[Image]:
    vehicles = shuffled({image.pid for image in images}, f"mlr_vru:{salt}")
    if number is not None and number < 1:
        raise ValueError(f"the number of vehicles must be at least 1, or None for all, not {number!r}")
    chosen = set(vehicles[:number])
    return [image for image in images if image.pid in chosen]
