"""What DGRL's restorer learns from, and the restored views of training images: made once, augmented like the originals.

X. Ye, G. Gao, "Cross-Resolution Person Re-Identification via Deep Group-Aware Representation Learning", section IV-C.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, ToTensor
from torchvision.transforms.functional import center_crop, pad, to_tensor

from torchreid_xres.data.base import CrossResolutionDataset, SummedDataset, summands
from torchreid_xres.data.degrade import low_size
from torchreid_xres.data.io import image_size, read_image
from torchreid_xres.data.protocol import draw_rate


def members_of(dataset: Dataset) -> list[CrossResolutionDataset]:
    """Return the sets of this package that a training set consists of.

    Raises:
        TypeError: if one of the host's is among them.
    """
    members = summands(dataset)
    for member in members:
        if not isinstance(member, CrossResolutionDataset):
            raise TypeError(f"torchreid's own {type(member).__name__} does not serve here, only sets of this package")
    return members


class Patches(Dataset):
    """Pieces of the images that are there at full resolution, as captured: ``img`` (3, H, W) in [0, 1].

    Args:
        members: data sets.
        size: H and W; smaller images are mirrored at their borders. A black border would be degraded, and restored,
            with them.
        train: pieces from anywhere, or mirrored, of the training images; otherwise the middle of the gallery's.

    Raises:
        ValueError: if there is no such image.
    """

    def __init__(self, members: Sequence[CrossResolutionDataset], size: tuple[int, int], train: bool) -> None:
        self.images = [
            (member, path)
            for member in members
            for path, *_ in (member.train if train else member.gallery)
            if member.rate_of[path] != "native"
        ]
        if not self.images:
            names = ", ".join(member.name for member in members)
            raise ValueError(f"{names}: no {'training' if train else 'gallery'} image is there at full resolution")
        crop: list[Callable] = [partial(_middle, size=size)]
        if train:
            crop = [RandomCrop(size, pad_if_needed=True, padding_mode="reflect"), RandomHorizontalFlip()]
        self.transform = Compose([*crop, ToTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        member, path = self.images[index]
        return {"img": self.transform(member.read(path)), "impath": path}


def _middle(img: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    short = max(0, size[1] - img.width), max(0, size[0] - img.height)
    halves = [side // 2 for side in short]
    rest = [side - half for side, half in zip(short, halves, strict=True)]
    return center_crop(pad(img, [*halves, *rest], padding_mode="reflect"), list(size))


class LowView(NamedTuple):
    """A training image as a camera of low resolution sees it."""

    dataset: CrossResolutionDataset
    path: str
    name: str  # of its picture
    rate: float  # 1 where the low resolution is the file's own
    low: bool
    size: tuple[int, int]

    def image(self) -> Tensor:
        """Return it, (3, h, w) in [0, 1], made in 8 bits as the protocol makes queries."""
        return to_tensor(self.dataset.seen(self.path, self.rate))


def low_views(dataset: CrossResolutionDataset) -> list[LowView]:
    """Return the low view of each training image.

    A low image keeps its rate; any other one gets one of the option ``pair_rates``, drawn from its name.
    """
    views = []
    for path, *_ in dataset.train:
        name = picture_name(dataset, path)
        low = dataset.rate_of[path] != 1
        drawn = draw_rate(name, dataset.options["seed"], dataset.options["pair_rates"])
        rate = dataset.down_sampling(path) if low else drawn
        views.append(LowView(dataset, path, name, rate, low, low_size(*image_size(path), rate)))
    return views


def picture_name(dataset: CrossResolutionDataset, path: str) -> str:
    """Return what the restored picture of one of a set's images is called: ``<set>/<manifest name>.png``."""
    return f"{dataset.name}/{dataset.names[path]}.png"


class RestoredPairs(Dataset):
    """A training set of pairs whose items hold ``img_sr``, the picture, with the crop and flip of ``img_hr``.

    It is the low view, restored, so that ``img_lr`` is not made.

    Args:
        dataset: a set of this package that gives pairs, or a sum of such sets.
        folder: has the pictures under their :func:`picture_name`.

    Raises:
        TypeError: for a set of the host.
        FileNotFoundError: if there are no pictures of one of the sets.
    """

    def __init__(self, dataset: Dataset, folder: str | Path) -> None:
        self.dataset = _remembering(dataset)
        self._sources: list[tuple[Path, _Remembered]] = []
        for member in members_of(self.dataset):
            if not Path(folder, member.name).is_dir():
                raise FileNotFoundError(f"no restored pictures of {member.name} in {folder}")
            self._sources += [(Path(folder, picture_name(member, path)), member.transform) for path, *_ in member.train]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        picture, transform = self._sources[index]
        item["img_sr"] = transform.again(read_image(picture))
        return item


class _Remembered:
    """A transform that can do to an image what it last did to another."""

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, img: PIL.Image.Image) -> Tensor:
        self.before = torch.get_rng_state(), random.getstate()
        return self.transform(img)

    def again(self, img: PIL.Image.Image) -> Tensor:
        now = torch.get_rng_state(), random.getstate()
        _set_random(*self.before)
        try:
            return self.transform(img)
        finally:
            _set_random(*now)


def _remembering(dataset: Dataset) -> Dataset:
    twin = copy.copy(dataset)
    if isinstance(twin, SummedDataset):
        twin.members = [_remembering(member) for member in twin.members]
    else:
        twin.transform = _Remembered(twin.transform)
        twin.low_views = False
    return twin


def _set_random(torch_state: Tensor, python_state: tuple) -> None:
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
