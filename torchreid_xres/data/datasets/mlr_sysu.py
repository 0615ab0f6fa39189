"""MLR-SYSU: SYSU with the first camera at low resolution."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import (
    check_count,
    check_part,
    find_folder,
    match_name,
    split_identities,
    whole,
)
from torchreid_xres.data.split import group, shuffled
from torchreid_xres.data.walk import walk_images

PER_CAMERA = 3


@DATASETS.register(
    "mlr_sysu",
    cite="Chen et al., Person re-identification by camera correlation aware feature augmentation, TPAMI 2018",
    page="http://isee.sysu.edu.cn/~zhwshi/project/CRAFT.html",
    terms="academic research, on request to the authors",
    natural=False,
    downloadable=False,
)
class MLRSYSU(CrossResolutionDataset):
    """MLR-SYSU: the first camera at rates 2, 3 or 4 is searched in the second; three images per person and camera.

    Base set: Chen et al., "Person re-identification by camera correlation aware feature augmentation", TPAMI 2018;
    24,446 images of 502 persons in 2 cameras (not the infrared set SYSU-MM01). Terms: academic research, on request
    to the authors (http://isee.sysu.edu.cn/~zhwshi/project/CRAFT.html). Protocol: MSIFLA, Section 4.1.

    Folders: ``SYSU``, ``sysu/SYSU`` or ``sysu``, with ``cam1`` and ``cam2``; a camera's folder holds either one
    folder per person, named by number, or images whose names start with the person's number and ``_``.

    Three images per person and camera are drawn from a hash of their names (3,012 in all), the same in every split.
    Ten random splits into halves of the persons (251 and 251), evaluated single-shot. The paper does not say which
    camera is low.

    Options:
        check_counts: False accepts a partial copy.
    """

    name = "mlr_sysu"
    metric = "single_shot"
    num_splits = 10
    defaults: ClassVar[dict] = {"check_counts": True}

    def load(self, root: Path, split_id: int, check_counts: bool) -> Split:
        folder = find_folder(root, ("SYSU", "sysu/SYSU", "sysu"), ["cam1", "cam2"])
        images = [image for camid in (0, 1) for image in _read_camera(folder / f"cam{camid + 1}", camid)]
        if check_counts:
            check_part(images, (24446, 502), folder)

        chosen = []
        for (pid, camid), members in group(images, lambda image: (image.pid, image.camid)).items():
            order = shuffled(
                members, f"{self.name}:images", key=lambda image: Path(image.path).relative_to(folder).as_posix()
            )
            if check_counts and len(members) < PER_CAMERA:
                check_count(f"images of person {pid}", PER_CAMERA, len(members), folder / f"cam{camid + 1}")
            chosen += order[:PER_CAMERA]
        num_test = len({image.pid for image in chosen}) // 2
        return split_identities(folder, chosen, num_test, f"{self.name}:{split_id}")


def _read_camera(folder: Path, camid: int) -> list[Image]:
    found = whole(walk_images(folder)).needed()
    empty = found.without_images()
    if empty:
        raise FileNotFoundError(f"there are no images in {folder / empty[0]}")
    images = []
    for name, path in found.images.items():
        person, _, file = name.rpartition("/")
        if person and not re.fullmatch(r"\d+", person):
            raise ValueError(f"{folder / person}: a person's folder is named by a number")
        images.append(Image(str(path), int(person or match_name(r"(\d+)_", file)[0]), camid, low=camid == 0))
    return images
