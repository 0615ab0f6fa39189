"""Small trees of images with the real names of the sets, and fixtures that build a reader on them."""

from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
import pytest


def write_picture(path: Path, size=(8, 16)) -> None:
    """Write an image whose pixels depend on the file's name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(path.name.encode()))
    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


def market(folder: Path) -> None:
    for pid, camera in product((2, 7), (1, 3, 5)):
        write_picture(folder / "bounding_box_train" / f"{pid:04d}_c{camera}s1_000151_01.jpg")
    for pid, camera, frame in product((1, 3, 4), (1, 3, 6), (451, 476)):
        write_picture(folder / "bounding_box_test" / f"{pid:04d}_c{camera}s1_{frame:06d}_03.jpg")
    for pid, camera in product((1, 3, 4), (1, 3, 6)):
        write_picture(folder / "query" / f"{pid:04d}_c{camera}s1_001051_00.jpg")
    for pid, camera in product(("0000", "-1"), (1, 3)):
        write_picture(folder / "bounding_box_test" / f"{pid}_c{camera}s1_000401_03.jpg")


def mlr_market1501(root: Path) -> None:
    market(root / "market1501" / "Market-1501-v15.09.15")


def mlr_dukemtmcreid(root: Path) -> None:
    folder = root / "dukemtmc-reid" / "DukeMTMC-reID"
    for pid, camera in product((1, 9), (1, 2)):
        write_picture(folder / "bounding_box_train" / f"{pid:04d}_c{camera}_f0044158.jpg")
    for pid, camera in product((5, 6), (1, 2, 8)):
        write_picture(folder / "bounding_box_test" / f"{pid:04d}_c{camera}_f0080000.jpg")
        write_picture(folder / "query" / f"{pid:04d}_c{camera}_f0090000.jpg")
    # 7 was seen by camera 2 only in an official query; 8 is a distractor.
    write_picture(folder / "bounding_box_test" / "0007_c1_f0080000.jpg")
    write_picture(folder / "query" / "0007_c2_f0090000.jpg")
    for camera in (1, 2):
        write_picture(folder / "bounding_box_test" / f"0008_c{camera}_f0080000.jpg")


def mlr_viper(root: Path) -> None:
    for number in range(12):
        write_picture(root / "viper" / "VIPeR" / "cam_a" / f"{5 * number:03d}_45.bmp", (6, 16))
        write_picture(root / "viper" / "VIPeR" / "cam_b" / f"{5 * number:03d}_135.bmp", (6, 16))


def caviar(root: Path) -> None:
    for person, number in product(range(1, 9), range(1, 21)):
        # Persons 7 and 8 are in one camera; the second camera is the far one.
        if person < 7 or number <= 10:
            write_picture(root / "CAVIAR4REID" / f"{person:04d}{number:03d}.jpg", (12, 24) if number <= 10 else (8, 16))


def mlr_sysu(root: Path) -> None:
    for camera, person, number in product((1, 2), range(1, 7), range(5)):
        write_picture(root / "SYSU" / f"cam{camera}" / f"{person:04d}" / f"{number:03d}.jpg")


def mta_reid(root: Path) -> None:
    names = {"train": (11, 12), "query": (21, 22), "test": (21, 22)}
    for frame, (part, persons) in enumerate(names.items()):
        for person, camera in product(persons, (0, 5)):
            write_picture(root / "MTA_reid" / part / f"framegta_{frame}_camid_{camera}_pid_{person}.png")
    write_picture(root / "MTA_reid" / "distractors" / "test" / "framegta_9_camid_1_pid_21.png")


def write_listed(folder: Path, images: str, parts: dict[str, range]) -> None:
    number = 0
    for file, vehicles in parts.items():
        lines = []
        for vehicle, _ in product(vehicles, range(4)):
            number += 1
            write_picture(folder / images / f"{number:07d}.jpg", (12, 10))
            lines.append(f"{number:07d} {vehicle}\n")
        (folder / "train_test_split").mkdir(exist_ok=True)
        (folder / "train_test_split" / file).write_text("".join(lines))


def mlr_vru(root: Path) -> None:
    tests = {f"test_list_{size}.txt": range(100, 110) for size in (1200, 2400, 8000)}
    write_listed(root / "VRU", "Pic", {"train_list.txt": range(12), **tests})


def vehicleid_x8(root: Path) -> None:
    tests = {f"test_list_{size}.txt": range(100, 100 + size // 400) for size in (800, 1600, 2400)}
    write_listed(root / "VehicleID_V1.0", "image", {"train_list.txt": range(5), **tests})


def veri776_x8(root: Path) -> None:
    for part, vehicles in (("image_train", (1, 3)), ("image_query", (2, 5)), ("image_test", (2, 5))):
        for vehicle, camera in product(vehicles, (1, 20)):
            write_picture(root / "VeRi" / part / f"{vehicle:04d}_c{camera:03d}_00016450_0.jpg", (40, 30))


def vehicle2cam(root: Path) -> None:
    folder = root / "vehicle_2cam"
    lists = {"train.txt": ("car_0001", "bus_0001", "motorcycle_153"), "val.txt": ("car_0002", "motorcycle_0001")}
    for file, vehicles in lists.items():
        names = [f"{vehicle}_cam{camera}.jpg" for vehicle, camera in product(vehicles, (2, 1))]
        for name in names:
            write_picture(folder / "images" / name, (16, 24) if "cam1" in name else (8, 12))
        (folder / file).write_text("\n".join(names) + "\n\n")


def mlr_cuhk03(root: Path) -> None:
    for person, slot in product(range(1, 31), (1, 2, 6, 7)):
        write_picture(root / "cuhk03_p1" / "images" / f"1_{person:03d}_{1 if slot <= 5 else 2}_{slot:02d}.jpg")


def folder(root: Path) -> None:
    for part, persons in (("train", "ab"), ("query", "cd"), ("gallery", "cde")):
        for person, camera in product(persons, (1, 2)):
            if part == "train" or (camera == 2) == (part == "query"):
                write_picture(root / part / person / f"img_c{camera}_1.jpg")


TREES = {
    make.__name__: make
    for make in (
        caviar, folder, mlr_cuhk03, mlr_dukemtmcreid, mlr_market1501, mlr_sysu, mlr_viper, mlr_vru, mta_reid,
        vehicle2cam, vehicleid_x8, veri776_x8,
    )
}  # fmt: skip


@pytest.fixture(scope="session")
def trees():
    """Data set name -> function that writes a small tree with its real names below a folder."""
    return TREES


@pytest.fixture(scope="session")
def picture():
    return write_picture


@pytest.fixture(scope="session")
def listed():
    return write_listed


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes a small tree with the real names of a set and returns its root."""

    def make(name: str) -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        TREES[name](root)
        return root

    return make


@pytest.fixture
def build(tree):
    """Return a function that builds a set on its small tree, without the check of counts."""
    from torchreid_xres.data import DATASETS, datasets  # noqa: F401

    def make(name: str, root: Path | None = None, **options):
        cls = DATASETS[name].build
        if "check_counts" in cls.defaults:
            options.setdefault("check_counts", False)
        return cls(root=str(root or tree(name)), verbose=False, **options)

    return make


@pytest.fixture(params=sorted(TREES))
def any_set(request) -> str:
    return request.param
