"""The host's image data manager with what its fixed signature has no room for: options, pairs, our samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomCrop, ToTensor

from torchreid_xres import host
from torchreid_xres.data.base import DATASETS, CrossResolutionDataset, SummedDataset, dataset_options, summands
from torchreid_xres.data.batches import with_native
from torchreid_xres.data.samplers import SAMPLERS, IdentitySampler

# The host's keywords that say which images a test set has.
_OF_TEST_SETS = ("root", "split_id", "cuhk03_labeled", "cuhk03_classic_split", "market1501_500k")


class XresDataManager(host.ImageDataManager):
    """Build the host's loaders under data set options, and with our samplers if asked.

    Args:
        options: data set name (or ``"*"``) to its options, as :func:`dataset_options` takes them.
        train_sampler: a sampler of the host, ``IdentitySampler`` or ``MixedIdentitySampler``.
        num_low: low-resolution images among ``num_instances`` (``MixedIdentitySampler``).
        transforms: the host's names, or ``pad_crop``: a piece of the input's size out of the image with a border.
        pad: width of that border in pixels.
        padding_mode: torchvision's name of what the border holds: ``constant`` is black, ``reflect`` the picture
            mirrored, as low views of the bordered picture need, lest they show a frame that no camera makes.
        native: test items hold the camera's own pixels, too (see :func:`~torchreid_xres.data.batches.with_native`).
        **kwargs: everything else that ``torchreid.data.ImageDataManager`` takes.

    Raises:
        KeyError: an unknown data set in ``options``.
        ValueError: an unknown option, or a batch that the sampler cannot fill.
    """

    def __init__(
        self,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        train_sampler: str = "RandomSampler",
        num_low: int = 2,
        transforms: str | Sequence[str] = "random_flip",
        pad: int = 10,
        padding_mode: str = "constant",
        native: bool = False,
        **kwargs: Any,
    ) -> None:
        self.options, self.native = dict(options or {}), native
        ours = train_sampler in SAMPLERS
        names = [transforms] if isinstance(transforms, str) else list(transforms)
        with dataset_options(self.options):
            super().__init__(
                train_sampler="RandomSampler" if ours else train_sampler,
                transforms=[name for name in names if name != "pad_crop"],
                **kwargs,
            )
        # In place, since the data sets hold these very objects.
        for transform in (self.transform_tr, self.transform_te):
            _normalise_at_once(transform)
        if "pad_crop" in names:
            # Before normalisation, so that a constant border is black.
            steps = self.transform_tr.transforms
            first = next(i for i, step in enumerate(steps) if isinstance(step, ToNormalized))
            steps.insert(first, RandomCrop((self.height, self.width), padding=pad, padding_mode=padding_mode))
        self._test_kwargs = {k: kwargs[k] for k in _OF_TEST_SETS if k in kwargs}
        if native:
            for loaders in self.test_loader.values():
                for loader in loaders.values():
                    with_native(loader)
        if ours:
            self.train_loader = self._resampled(train_sampler, kwargs.get("num_instances", 4), num_low)

    def _resampled(self, name: str, num_instances: int, num_low: int) -> DataLoader:
        loader = self.train_loader
        dataset = loader.dataset
        mixed = name == "MixedIdentitySampler"
        sampler = IdentitySampler(
            [item[1] for item in dataset.train],
            batch_size=loader.batch_size,
            num_instances=num_instances,
            low=low_flags(dataset) if mixed else None,
            num_low=num_low,
        )
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            drop_last=True,
        )

    def sets(self) -> dict[str, Dataset]:
        """Return the data sets that are trained on, then the targets, each name once."""
        train = self.train_loader.dataset
        found = summands(train)
        found += [loaders["gallery"].dataset for loaders in self.test_loader.values()]
        return {getattr(dataset, "name", type(dataset).__name__): dataset for dataset in found}

    def validation_loaders(self) -> dict[str, dict[str, DataLoader]]:
        """Return query and gallery of the validation part of each source, see ``torchreid_xres.data.validation``.

        Raises:
            ValueError: for a set of the host, which has none, or where the option ``validation`` is 0.
        """
        like = next(iter(self.test_loader.values()))["query"]
        found: dict[str, dict[str, DataLoader]] = {}
        for name in self.sources:
            if name not in DATASETS:
                raise ValueError(f"{name!r}, a set of torchreid, has no validation part")
            with dataset_options(self.options), dataset_options({name: {"part": "validation"}}):
                found[name] = {role: self._loader(name, role, like) for role in ("query", "gallery")}
        return found

    def _loader(self, name: str, role: str, like: DataLoader) -> DataLoader:
        dataset = host.init_image_dataset(
            name, transform=self.transform_te, mode=role, verbose=False, **self._test_kwargs
        )
        loader = DataLoader(
            dataset, batch_size=like.batch_size, num_workers=like.num_workers, pin_memory=like.pin_memory
        )
        return with_native(loader) if self.native else loader

    def query_loader(self, name: str, rate: float) -> DataLoader:
        """Return the queries of a target with every low one at ``rate`` instead of its own; natural ones beyond theirs.

        Args:
            name: one of ``targets``, a set of ours.
            rate: down-sampling rate, at least 1.

        Raises:
            ValueError: for a set of the host, which has no rates.
        """
        if name not in DATASETS:
            raise ValueError(f"the queries of {name!r}, a set of torchreid, cannot be put at a rate")
        like = self.test_loader[name]["query"]
        with dataset_options(self.options), dataset_options({name: {"query_rate": rate}}):
            return self._loader(name, "query", like)


class ToNormalized:
    """torchvision's ToTensor and Normalize in one: the same bits, in two thirds of the time.

    Args:
        mean: of each channel, in [0, 1].
        std: of each channel.

    Example:
        >>> img = PIL.Image.new("RGB", (4, 8), "white")
        >>> ToNormalized([0.5, 0.5, 0.0], [0.5, 0.25, 1.0])(img)[:, 0, 0]
        tensor([1., 2., 1.])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, img: PIL.Image.Image) -> Tensor:
        # (H, W, 3) -> (3, H, W) as bytes: to move those is cheaper than to move floats
        planes = torch.from_numpy(np.array(img)).permute(2, 0, 1).contiguous()
        return planes.float().div_(255).sub_(self.mean).div_(self.std)


def _normalise_at_once(transform: Compose) -> None:
    steps = transform.transforms
    first = next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))
    normalize = steps[first + 1]
    assert isinstance(normalize, Normalize)
    steps[first : first + 2] = [ToNormalized(normalize.mean, normalize.std)]


def low_flags(dataset: host.ImageDataset) -> list[bool]:
    """Return for each training image of a set, or a sum of sets, whether it is low resolution."""
    if isinstance(dataset, SummedDataset):
        return [flag for member in dataset.members for flag in low_flags(member)]
    if isinstance(dataset, CrossResolutionDataset):
        return [dataset.rate_of[path] != 1.0 for path, *_ in dataset.train]
    return [False] * len(dataset.train)
