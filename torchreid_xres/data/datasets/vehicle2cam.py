"""Vehicles in two traffic cameras of which the second is about half as sharp."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import (
    check_part,
    find_folder,
    images_by_stem,
    low_against_high,
    match_name,
    read_text,
)

# Images and vehicles of each list.
LISTS = {"train.txt": (810, 405), "val.txt": (204, 102)}


@DATASETS.register(
    "vehicle2cam",
    cite="Vehicle Re-Identification Dataset",
    page="https://github.com/Khoa-Nguyen-Truong/Vehicle-Re-ID-Dataset",
    terms="Apache-2.0",
    natural=True,
    downloadable=True,
)
class Vehicle2Cam(CrossResolutionDataset):
    """Two traffic cameras: vehicles of camera 2 are searched in camera 1, one image each, nothing down-sampled.

    Page: https://github.com/Khoa-Nguyen-Truong/Vehicle-Re-ID-Dataset; 1,014 images of 507 vehicles. Camera 2 has
    about half the resolution of camera 1. Terms: Apache-2.0.

    Folders: ``vehicle_2cam``, ``vehicle2cam`` or ``Vehicle-Re-ID-Dataset``, with ``train.txt`` and ``val.txt`` (one
    image name a line) and the images in ``images`` or ``images/train``; names ``<type>_<number>_cam<1 or 2>.jpg``.
    Numbers begin anew with each type, so the identity is both.

    Options:
        check_counts: False accepts a partial copy.
    """

    name = "vehicle2cam"
    natural = True
    defaults: ClassVar[dict] = {"check_counts": True}

    def load(self, root: Path, split_id: int, check_counts: bool) -> Split:
        folder = find_folder(root, ("vehicle_2cam", "vehicle2cam", "Vehicle-Re-ID-Dataset"), ["images", *LISTS])
        images = folder / "images"
        if (images / "train").is_dir():
            images = images / "train"
        listed = {
            name: [line.strip() for line in read_text(folder / name).splitlines() if line.strip()]
            for name in LISTS
        }
        keys = {name: match_name(r"([a-z]+_\d+)_cam([12])\.", name) for names in listed.values() for name in names}
        numbers = {vehicle: number for number, vehicle in enumerate(sorted({vehicle for vehicle, _ in keys.values()}))}

        there = images_by_stem(images)
        parts = []
        for file, names in listed.items():
            part = [
                Image(path, numbers[keys[name][0]], int(keys[name][1]) - 1, low=keys[name][1] == "2")
                for name in sorted(names)
                if (path := there.get(Path(name).stem))
            ]
            if check_counts:
                check_part(part, LISTS[file], images)
            parts.append(part)
        return low_against_high(folder, *parts)
