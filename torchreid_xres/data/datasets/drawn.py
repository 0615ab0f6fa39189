"""Sets that draw their own pictures from a seed, once, into a folder named after the options."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torchreid_xres.data.base import CrossResolutionDataset, Image, Split
from torchreid_xres.data.datasets.reading import low_against_high

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_SCRATCH = re.compile(r"\.[0-9a-f]{12}-\w+")

#: Test identities are numbered from here, so that they stay the same however many there are for training.
FIRST_TEST = 5000

_DRAWN_OPTIONS: dict[str, Any] = {
    "train_identities": 64,
    "test_identities": 32,
    "cameras": 3,
    "images_per_camera": 4,
    "lr_camera": 1,
    "train_low": True,
    "image_seed": 0,
}


class Shot(NamedTuple):
    """One picture to be drawn.

    Attributes:
        name: of the file, below the set's folder.
        pid: whom or what it shows.
        camera: from 0.
        number: of the pictures that the camera takes of this identity, from 0.
        count: how many they are.
    """

    name: str
    pid: int
    camera: int
    number: int
    count: int


def drawn_folder(parent: Path, options: dict[str, Any], draw: Callable[[Path], None]) -> Path:
    """Return the folder that holds what ``draw`` draws for these options; draw it if it is not there yet.

    The drawing is done in a temporary folder beside, which takes its name only when it is complete, so that an
    interrupted run leaves nothing that could be taken for a set; what a killed one leaves, the next one removes. Of two
    processes that draw at once, one wins.

    Args:
        parent: folder of the set.
        options: JSON-able; the folder's name is the start of their hash, and ``options.json`` in it holds them.
        draw: fills an empty folder.
    """
    text = json.dumps(options, sort_keys=True)
    folder = parent / hashlib.sha256(text.encode()).hexdigest()[:12]
    _remove_abandoned(parent)
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    scratch, lock = _scratch(folder)
    try:
        draw(scratch)
        (scratch / "options.json").write_text(text + "\n", encoding="utf-8")
        # mkdtemp makes private folders; a data set is as readable as its parent.
        scratch.chmod(parent.stat().st_mode & 0o777)
        try:
            os.replace(scratch, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)
    return folder


def _scratch(folder: Path) -> tuple[Path, int | None]:
    """Make a folder to draw in, with the lock that says for as long as this process lives that it is in use."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            lock = _locked(scratch)
        except (BlockingIOError, FileNotFoundError):  # another process took it for abandoned in the meantime
            continue
        except OSError:  # a disk without locks, where nobody removes what others left
            return scratch, None
        if scratch.is_dir():
            return scratch, lock
        os.close(lock)


def _locked(folder: Path) -> int:
    """Return a lock on a folder.

    Raises:
        OSError: if there is no such folder, or there are no locks; ``BlockingIOError`` if another process has it.
    """
    if fcntl is None:
        raise OSError("this system has no flock")
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove_abandoned(parent: Path) -> None:
    """Remove what killed processes left of their drawings; what another one is drawing stays."""
    for path in parent.glob(".*-*"):
        if _SCRATCH.fullmatch(path.name):
            with suppress(OSError):
                lock = _locked(path)
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


class DrawnDataset(CrossResolutionDataset):
    """A data set whose images are drawn on first use into ``root/<name>/<hash of the options>``.

    One camera is low: its test images are the queries, at the protocol's rates, and its training images are low too.
    The images of the other cameras are the gallery. A set of the same options is drawn only once; with the same
    versions of numpy and Pillow it has the same bytes everywhere.

    Options:
        train_identities, test_identities: how many; different individuals, and test ones do not depend on the former.
        cameras: at least 2.
        images_per_camera: of each identity.
        lr_camera: the low camera, from 1.
        train_low: whether that camera's training images are low too; False trains on full resolution only.
        image_seed: of all that is drawn; the common option ``seed`` is that of the rates.

    Attributes:
        version: of the drawing; another one makes another folder.
        pattern: file names, with ``pid``, ``camera`` and ``shot`` counted from 1.
    """

    version: ClassVar[int] = 1
    pattern: ClassVar[str]
    defaults: ClassVar[dict[str, Any]] = _DRAWN_OPTIONS

    @abstractmethod
    def draw(self, folder: Path, shots: list[Shot], seed: int) -> Iterator[str]:
        """Draw the shots into a folder (their names are relative to it); yield each name when its file is written."""

    def load(self, root: Path, split_id: int, **options: int) -> Split:
        self._check(options)
        shots = self._shots(options)
        # Who is low does not change the pictures.
        drawn = {key: value for key, value in options.items() if key not in ("lr_camera", "train_low")}
        drawn["version"] = self.version

        def draw(folder: Path) -> None:
            logger.info("%s: drawing %d images under %s, once", self.name, len(shots), folder.parent)
            for role in ("train", "test"):
                (folder / role).mkdir()
            for done, _ in enumerate(self.draw(folder, shots, options["image_seed"]), 1):
                if done % max(len(shots) // 10, 1) == 0:
                    logger.info("%s: %d of %d images", self.name, done, len(shots))

        folder = drawn_folder(root / self.name, drawn, draw)
        train, test = [], []
        for shot in shots:
            is_test = shot.pid >= FIRST_TEST
            low = shot.camera == options["lr_camera"] - 1 and (is_test or options["train_low"])
            (test if is_test else train).append(Image(str(folder / shot.name), shot.pid, shot.camera, low))
        return low_against_high(folder, train, test)

    def _check(self, options: dict[str, int]) -> None:
        limits = {
            "train_identities": (1, FIRST_TEST - 1), "test_identities": (1, FIRST_TEST - 1), "cameras": (2, 9),
            "images_per_camera": (1, 99), "lr_camera": (1, options["cameras"]), "image_seed": (0, 2**63 - 1),
        }  # fmt: skip
        for key, (low, high) in limits.items():
            if type(options[key]) is not int or not low <= options[key] <= high:
                raise ValueError(f"{self.name}: the option {key!r} is {options[key]!r}; allowed are {low} to {high}")
        if type(options["train_low"]) is not bool:
            raise ValueError(f"{self.name}: the option 'train_low' is {options['train_low']!r}; allowed: True, False")

    def _shots(self, options: dict[str, int]) -> list[Shot]:
        identities = [("train", pid) for pid in range(options["train_identities"])]
        identities += [("test", pid) for pid in range(FIRST_TEST, FIRST_TEST + options["test_identities"])]
        count = options["images_per_camera"]
        return [
            Shot(self._file_name(role, pid, camera, number), pid, camera, number, count)
            for role, pid in identities
            for camera in range(options["cameras"])
            for number in range(count)
        ]

    def _file_name(self, role: str, pid: int, camera: int, number: int) -> str:
        return f"{role}/{self.pattern.format(pid=pid + 1, camera=camera + 1, shot=number + 1)}"
