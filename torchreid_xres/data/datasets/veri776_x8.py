"""VeRi-776 with queries of 16 x 16 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, Split
from torchreid_xres.data.datasets.reading import check_part, find_folder, read_cameras
from torchreid_xres.data.datasets.square import SquareDataset
from torchreid_xres.data.split import with_match

# Images and vehicles of each folder.
PARTS = {"image_train": (37778, 576), "image_query": (1678, 200), "image_test": (11579, 200)}


@DATASETS.register(
    "veri776_x8",
    cite="Liu et al., PROVID: progressive and multimodal vehicle reidentification, TMM 2018",
    page="https://vehiclereid.github.io/VeRi/",
    terms="non-commercial research, on request to the authors",
    natural=False,
    downloadable=False,
)
class VeRi776x8(SquareDataset):
    """VeRi-776 x8: official queries at 16 x 16, gallery at 128 x 128.

    Base set: Liu et al., "PROVID: progressive and multimodal vehicle reidentification for large-scale urban
    surveillance", TMM 2018; 776 vehicles in 20 cameras, 37,778 training images of 576 vehicles, 1,678 queries and
    11,579 gallery images of 200. Terms: non-commercial research, on request to the authors
    (https://vehiclereid.github.io/VeRi/). Protocol: KGNet.

    Folders: ``VeRi``, ``VeRi_with_plate`` or ``VeRi-776``, alone or in ``veri776`` or ``veri``, or these two
    themselves, with ``image_train``, ``image_query`` and ``image_test``. The gallery has images of the query's camera;
    the evaluation leaves those of the same vehicle out.

    Keypoints: Wang et al., ICCV 2017, annotated VeRi-776; their ``keypoint_train.txt`` and ``keypoint_test.txt`` go
    into the same folder as the images' folders.

    Options:
        train_low: False: training images are high, pairs have both. True: all are low, as for the paper's baselines.
        check_counts: False accepts a partial copy.

    Attributes:
        keypoints_file: the annotation of the training images, or of queries and gallery, as the mode is; it need not
            be there.
    """

    name = "veri776_x8"
    disjoint_cameras = False
    defaults: ClassVar[dict] = {"train_low": False, "check_counts": True}

    def load(self, root: Path, split_id: int, train_low: bool, check_counts: bool) -> Split:
        names = ("VeRi", "VeRi_with_plate", "VeRi-776")
        outer = ("veri776", "veri")
        folders = [*names, *(f"{folder}/{name}" for folder in outer for name in names), *outer]
        folder = find_folder(root, folders, list(PARTS))
        parts = []
        for part, expected in PARTS.items():
            images = read_cameras(folder / part, cameras=20)
            if check_counts:
                check_part(images, expected, folder / part)
            parts.append(images)
        train, query, gallery = parts
        train = [image._replace(low=train_low) for image in train]
        query = with_match([image._replace(low=True) for image in query], gallery)
        return Split(str(folder), train, query, gallery)

    @property
    def keypoints_file(self) -> str:
        """Path of the annotation that belongs to the mode."""
        return str(Path(self.split.folder) / f"keypoint_{'train' if self.mode == 'train' else 'test'}.txt")
