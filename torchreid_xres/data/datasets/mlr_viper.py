"""MLR-VIPeR: VIPeR with camera a at low resolution."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import check_part, find_folder, list_images, match_name, split_identities


@DATASETS.register(
    "mlr_viper",
    cite="Gray, Brennan and Tao, Evaluating appearance models for recognition, reacquisition, and tracking, PETS 2007",
    page="https://vision.soe.ucsc.edu/node/178",
    terms="research use",
    natural=False,
    downloadable=True,
)
class MLRVIPeR(CrossResolutionDataset):
    """MLR-VIPeR: camera a at rates 2, 3 or 4 is searched in camera b; 632 persons with one image each per camera.

    Base set: Gray, Brennan and Tao, "Evaluating appearance models for recognition, reacquisition, and tracking", PETS
    2007. Terms: research use (https://vision.soe.ucsc.edu/node/178).

    Folders: ``VIPeR``, alone, in ``viper`` or in ``VIPeR.v1.0``, or ``viper`` or ``VIPeR.v1.0``, with ``cam_a`` and
    ``cam_b``; names start with the person's three digits.

    Ten random splits into 316 training and 316 test persons, drawn from a hash: the host's ``splits.json`` depends on
    NumPy's global state when it was written. One gallery image per person, so single-shot and multi-shot evaluation
    coincide.

    Options:
        check_counts: False accepts a partial copy.
    """

    name = "mlr_viper"
    metric = "single_shot"
    num_splits = 10
    defaults: ClassVar[dict] = {"check_counts": True}

    def load(self, root: Path, split_id: int, check_counts: bool) -> Split:
        folders = ("viper/VIPeR", "VIPeR", "viper", "VIPeR.v1.0/VIPeR", "viper/VIPeR.v1.0/VIPeR", "VIPeR.v1.0")
        folder = find_folder(root, folders, ["cam_a", "cam_b"])
        cameras = [
            [
                Image(path, int(match_name(r"(\d{3})", path)[0]), camid, low=camid == 0)
                for path in list_images(folder / camera)
            ]
            for camid, camera in enumerate(("cam_a", "cam_b"))
        ]
        if check_counts:
            for camera, images in zip(("cam_a", "cam_b"), cameras, strict=True):
                check_part(images, (632, 632), folder / camera)
        images = [image for camera in cameras for image in camera]
        num_test = len({image.pid for image in images}) // 2
        return split_identities(folder, images, num_test, f"{self.name}:{split_id}")
