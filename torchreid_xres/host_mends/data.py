"""Mends of the host's data: reading images, transforms, samplers, sums of sets, downloads."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torchreid_xres import host
from torchreid_xres.host_mends.table import mend
from torchreid_xres.registry import did_you_mean

# Every name that build_transforms acts upon.
TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")


@mend(
    "read-image",
    "utils/tools.py:110: a truncated or damaged image is read again and again for ever",
    "utils.tools:read_image",
)
def _read_image(original: Callable) -> Callable:
    ours = import_module("torchreid_xres.data.io").read_image

    def read_image(path: str | os.PathLike) -> Any:
        return ours(path)

    return read_image


def _revive(cls: type) -> Any:
    return cls.__new__(cls)


@mend(
    "loader-workers",
    "data/datamanager.py:213: worker processes that do not fork import torchreid anew, so without any mend",
    "data.datasets.dataset:Dataset.__reduce__",
)
def _reduce(original: Callable) -> Callable:
    def __reduce__(self: Any) -> tuple:  # noqa: N807
        # To unpickle it, a worker must import _revive, thus this package, which mends its host.
        state = getattr(self, "__getstate__", lambda: self.__dict__)()  # every object has it from Python 3.11 on
        return _revive, (type(self),), state

    return __reduce__


@mend(
    "sum-of-sets",
    "data/datasets/dataset.py:118: the sum of several training sets is a plain ImageDataset: their own "
    "__getitem__ and k_tfm are lost",
    "data.datasets.dataset:Dataset.__add__",
)
def _add(original: Callable) -> Callable:
    summed = import_module("torchreid_xres.data.base").SummedDataset

    def __add__(self: Any, other: Any) -> Any:  # noqa: N807
        if isinstance(self, host.ImageDataset):
            return summed([self, other])
        return original(self, other)

    return __add__


@mend(
    "transform-names",
    "data/transforms.py:279: an unknown transform name is ignored in silence",
    "data.transforms:build_transforms",
)
def _build_transforms(original: Callable) -> Callable:
    signature = inspect.signature(original)

    def build_transforms(*args: Any, **kwargs: Any) -> tuple:
        asked = signature.bind(*args, **kwargs).arguments.get("transforms") or []
        for name in [asked] if isinstance(asked, str) else asked:
            if str(name).lower() not in TRANSFORMS:
                raise ValueError(
                    f"no transform named {name!r}{did_you_mean(name, TRANSFORMS)} There are: {', '.join(TRANSFORMS)}"
                )
        return original(*args, **kwargs)

    return build_transforms


@mend(
    "empty-epochs",
    "data/datamanager.py:227: with fewer training images than a batch, drop_last leaves nothing to train on, and "
    "nobody says so",
    "data.datamanager:ImageDataManager.__init__",
    "data.datamanager:VideoDataManager.__init__",
)
def _manager_init(original: Callable) -> Callable:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        loaders = ((self.train_loader, self.sources), (getattr(self, "train_loader_t", None), self.targets))
        for loader, names in loaders:
            if loader is not None and len(loader) == 0:
                raise ValueError(
                    f"the training set of {', '.join(names)} has {len(loader.dataset)} images, of which the sampler "
                    f"draws {len(loader.sampler)} in an epoch: not one batch of batch_size_train={loader.batch_size} "
                    f"(an unfinished batch is dropped). Take batch_size_train <= {len(loader.sampler)}"
                )

    return __init__


@mend(
    "identity-sampler",
    "data/sampler.py:39: a bare AssertionError when there are fewer identities than a batch needs",
    "data.sampler:RandomIdentitySampler.__init__",
)
def _identity_sampler_init(original: Callable) -> Callable:
    def __init__(self: Any, data_source: list, batch_size: int, num_instances: int) -> None:  # noqa: N807
        try:
            original(self, data_source, batch_size, num_instances)
        except AssertionError as error:
            found = len({item[1] for item in data_source})
            raise ValueError(
                f"a batch of {batch_size} images with num_instances={num_instances} needs "
                f"{batch_size // num_instances} identities; the training set has {found}. "
                f"Take batch_size_train <= {found * num_instances} or a larger num_instances"
            ) from error

    return __init__


@mend(
    "group-samplers",
    "data/sampler.py:113, 172: a bare AssertionError when cameras or data sets do not divide the batch",
    "data.sampler:RandomDomainSampler.__init__",
    "data.sampler:RandomDatasetSampler.__init__",
)
def _group_sampler_init(original: Callable) -> Callable:
    signature = inspect.signature(original)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            original(self, *args, **kwargs)
        except AssertionError as error:
            _, _, batch_size, groups = signature.bind(self, *args, **kwargs).arguments.values()
            raise ValueError(
                f"{type(self).__name__} fills a batch with equal parts, but batch_size={batch_size} is not a multiple "
                f"of {groups or 'the number of'} cameras or data sets (num_cams, num_datasets)"
            ) from error

    return __init__


@mend(
    "download",
    "data/datasets/dataset.py:233: a failed download leaves an empty folder, so that the next try complains "
    "about missing files instead; :246: an archive's members are written wherever they lead",
    "data.datasets.dataset:Dataset.download_dataset",
)
def _download_dataset(original: Callable) -> Callable:
    def download_dataset(self: Any, dataset_dir: str, dataset_url: str | None) -> None:
        folder = Path(dataset_dir)
        if dataset_url is not None and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # an earlier try's
        if dataset_url is None or folder.exists():
            return original(self, dataset_dir, dataset_url)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
                archive = Path(scratch, os.path.basename(dataset_url))
                host.module("data.datasets.dataset").download_url(dataset_url, str(archive))
                # What fetches files takes a while to load.
                import_module("torchreid_xres.data.download").unpack(archive, folder, strip=False)
                os.replace(archive, folder / archive.name)
        except Exception as error:
            raise RuntimeError(
                f"{type(self).__name__} is not at {folder} and could not be fetched from {dataset_url} "
                f"({type(error).__name__}: {error}). Get it by hand, from a source that you trust, and unpack it into "
                "that folder"
            ) from error

    return download_dataset
