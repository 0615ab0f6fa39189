"""PKU VehicleID with queries of 16 x 16 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, Split
from torchreid_xres.data.datasets.reading import check_part, find_folder, listed_images
from torchreid_xres.data.datasets.square import SquareDataset
from torchreid_xres.data.split import one_per_identity

TRAIN_LIST = "train_list.txt"
TRAIN_COUNTS = (113346, 13164)
# Test vehicles -> images.
TEST_SIZES = {800: 6493, 1600: 13377, 2400: 19777}


@DATASETS.register(
    "vehicleid_x8",
    cite="Liu et al., Deep relative distance learning: tell the difference between similar vehicles, CVPR 2016",
    page="https://www.pkuml.org/resources/pku-vehicleid.html",
    terms="academic research, on request to the authors",
    natural=False,
    downloadable=False,
)
class VehicleIDx8(SquareDataset):
    """VehicleID x8: one gallery image per vehicle at 128 x 128, all others are queries at 16 x 16.

    Base set: Liu et al., "Deep relative distance learning: tell the difference between similar vehicles", CVPR 2016;
    221,763 images of 26,267 vehicles from the front or the back, no camera labels; 113,346 training images of 13,164
    vehicles. Terms: academic research, on request to the authors
    (https://www.pkuml.org/resources/pku-vehicleid.html). Protocol: KGNet.

    Folders: ``VehicleID_V1.0``, alone or in ``vehicleid`` or ``VehicleID``, or these two themselves, with ``image``
    and ``train_test_split`` (lines ``<image> <vehicle>`` in ``train_list.txt`` and ``test_list_<size>.txt``).

    The ten splits differ in the gallery image of each vehicle. Queries get camera 0, the gallery camera 1.

    Options:
        test_size: 800, 1600 or 2400 test vehicles (5,693, 11,777 or 17,377 queries).
        train_low: False: training images are high, pairs have both. True: all are low, as for the paper's baselines.
        check_counts: False accepts a partial copy.
    """

    name = "vehicleid_x8"
    metric = "single_shot"
    num_splits = 10
    splits_share_training = True
    defaults: ClassVar[dict] = {"test_size": 800, "train_low": False, "check_counts": True}

    def load(self, root: Path, split_id: int, test_size: int, train_low: bool, check_counts: bool) -> Split:
        if test_size not in TEST_SIZES:
            raise ValueError(f"{self.name} has the test sizes {', '.join(map(str, TEST_SIZES))}, not {test_size!r}")
        test_list = f"test_list_{test_size}.txt"
        needs = ["image", *(f"train_test_split/{name}" for name in (TRAIN_LIST, test_list))]
        name, outer = "VehicleID_V1.0", ("vehicleid", "VehicleID")
        folder = find_folder(root, [name, *(f"{folder}/{name}" for folder in outer), *outer], needs)
        train, test = (
            listed_images(folder / "train_test_split" / name, folder / "image", complete=check_counts)
            for name in (TRAIN_LIST, test_list)
        )
        if check_counts:
            check_part(train, TRAIN_COUNTS, folder / "train_test_split" / TRAIN_LIST)
            check_part(test, (TEST_SIZES[test_size], test_size), folder / "train_test_split" / test_list)
        train = [image._replace(low=train_low) for image in train]
        query, gallery = one_per_identity(test, f"{self.name}:{split_id}")
        return Split(str(folder), train, query, gallery)
