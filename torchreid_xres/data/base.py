"""The base of every data set: a reader lists the images, this class makes the protocol, the checks and the items."""

from __future__ import annotations

import bisect
import difflib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import PIL.Image
import torch
from torch import Tensor

from torchreid_xres import host
from torchreid_xres.data.degrade import check_kernel, check_rate, degrade_image, low_size, round_trip
from torchreid_xres.data.io import read_image
from torchreid_xres.data.protocol import Manifest, draw_rate, file_sha256
from torchreid_xres.registry import Registry

logger = logging.getLogger(__name__)

DATASETS = Registry("data set")

ROLES = ("train", "query", "gallery")


class Image(NamedTuple):
    """One image of a set.

    Attributes:
        path: the file.
        pid: identity, in the set's own numbers.
        camid: camera.
        low: low resolution by the protocol.
    """

    path: str
    pid: int
    camid: int
    low: bool = False


class Split(NamedTuple):
    """The images of one split; the manifest's names are relative to ``folder``."""

    folder: str
    train: list[Image]
    query: list[Image]
    gallery: list[Image]


COMMON_OPTIONS: dict[str, Any] = {
    "rates": None,  # what low images' rates are drawn from; None = the set's own
    "kernel": "area",  # one of degrade.KERNELS
    "seed": 0,  # of the draw of rates
    "query_rate": None,  # one rate for all low queries, for resolution curves
    "pairs": False,  # training items carry img_hr, img_lr, rate_lr
    "pair_rates": None,  # rates of img_lr for images that are not low; None = rates
}

_options: ContextVar[Mapping[str, Mapping[str, Any]]] = ContextVar("dataset_options", default={})  # noqa: B039


@contextmanager
def dataset_options(options: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Give options to the data sets built inside the ``with``: the host's manager has no room for them.

    Args:
        options: data set name -> its options; the name ``"*"`` stands for every set of ours and takes the common
            options only. A set's own name wins over ``"*"``, an inner ``with`` over an outer one.

    Raises:
        KeyError: for a set that does not exist.
        ValueError: for an option that the set does not have.

    Example:
        >>> with dataset_options({"*": {"kernel": "bicubic"}}):
        ...     pass  # ImageDataManager(sources="mlr_market1501", ...)
    """
    for name, given in options.items():
        known = COMMON_OPTIONS if name == "*" else {**COMMON_OPTIONS, **DATASETS[name].build.defaults}
        _refuse_unknown(name, given, known)
    outer = _options.get()
    merged = {name: {**outer.get(name, {}), **options.get(name, {})} for name in {*outer, *options}}
    token = _options.set(merged)
    try:
        yield
    finally:
        _options.reset(token)


def _refuse_unknown(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            whom = "all data sets together have" if name == "*" else f"the data set {name!r} has"
            raise ValueError(f"{whom} no option {key!r}; {hint}There are: {', '.join(known)}")


class CrossResolutionDataset(host.ImageDataset):
    """A torchreid data set in which some images are low resolution; a reader writes ``load`` and the attributes.

    Items hold the host's keys ``img pid camid impath dsetid`` and

    - ``rate``: float, 1.0 = as captured (also where the gap is in the pictures themselves);
    - ``size``: LongTensor ``[height, width]`` of what the camera saw, after the protocol's down-sampling;
    - ``role``: ``train``, ``query`` or ``gallery``;
    - ``low``: bool, low resolution by the protocol.

    ``img`` is what the camera saw, through ``transform``. In training with the option ``pairs`` there are also ``img_hr``
    (the transformed original), ``img_lr`` (the same crop and flip, down to the size of ``rate_lr`` and back) and ``rate_lr``;
    ``img`` is then ``img_lr`` for low images and ``img_hr`` for the others. An image whose low resolution is its own has no
    better original: ``rate_lr`` is 1.0 and both are the same.

    Args:
        root: folder that holds the sets.
        split_id: which split, from 0 to ``num_splits - 1``.
        **kwargs: the host's ``transform, k_tfm, mode, combineall, verbose``; further ones that name an option of the set
            set it (``dataset_options`` wins), the rest is ignored as the host does.

    Raises:
        ValueError: for a wrong option or split, or a split that fails the protocol's checks.
    """

    name: ClassVar[str] = ""
    natural: ClassVar[bool] = False
    metric: ClassVar[str] = "market"
    num_splits: ClassVar[int] = 1
    rates: ClassVar[Sequence[float]] = (2.0, 3.0, 4.0)
    disjoint_cameras: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, root: str = "", split_id: int = 0, **kwargs: Any) -> None:
        self.options = self._resolve_options(kwargs)
        if split_id not in range(self.num_splits):
            raise ValueError(f"{self.name} has no split {split_id!r}; allowed are 0 to {self.num_splits - 1}")
        self.split_id = split_id
        own = {key: self.options[key] for key in self.defaults}
        self.split = self.load(Path(root).expanduser().absolute(), split_id, **own)
        self._check()
        self._names = {image.path: self._name(image.path) for role in ROLES for image in getattr(self.split, role)}
        self._rates = self._assign_rates()

        relabel = {pid: label for label, pid in enumerate(sorted({image.pid for image in self.split.train}))}
        parts = {
            "train": [(path, relabel[pid], camid, 0) for path, pid, camid, _ in self.split.train],
            "query": [(path, pid, camid, 0) for path, pid, camid, _ in self.split.query],
            "gallery": [(path, pid, camid, 0) for path, pid, camid, _ in self.split.gallery],
        }
        super().__init__(**parts, **kwargs)
        if self.options["pairs"] and self.mode == "train" and self.k_tfm > 1:
            raise ValueError(f"{self.name}: pairs are made from one augmentation; k_tfm must be 1, not {self.k_tfm}")

    def load(self, root: Path, split_id: int, **options: Any) -> Split:
        """Read the set as it is distributed; the one method that a reader writes.

        Args:
            root: folder that holds the sets, absolute.
            split_id: which split, already checked.
            **options: the set's own, ``defaults`` with what the user gave. The common ones are in ``self.options``.

        Returns:
            The split. Identities keep the set's own numbers (training ones are relabelled here); ``low`` is set for the
            images that the protocol makes, or knows to be, low resolution.
        """
        raise NotImplementedError

    def _resolve_options(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = _options.get()
        options = {**COMMON_OPTIONS, **self.defaults}
        options.update((key, kwargs[key]) for key in options if key in kwargs)
        options.update(given.get("*", {}))
        options.update(given.get(self.name, {}))
        _refuse_unknown(self.name, options, {**COMMON_OPTIONS, **self.defaults})
        check_kernel(options["kernel"])
        options["rates"] = _rate_tuple(self.rates if options["rates"] is None else options["rates"])
        options["pair_rates"] = _rate_tuple(options["pair_rates"] or options["rates"])
        if options["query_rate"] is not None:
            options["query_rate"] = check_rate(options["query_rate"])
        return options

    def _name(self, path: str) -> str:
        folder = os.path.join(self.split.folder, "")
        if not path.startswith(folder):
            raise ValueError(f"{self.name}: {path} is not in the set's folder {folder}")
        return path[len(folder) :].replace(os.sep, "/")

    def _assign_rates(self) -> dict[str, float | str]:
        """Return path -> rate of every image, 1.0 for those that are not low."""
        rates: dict[str, float | str] = {}
        options = self.options
        for role in ROLES:
            for image in getattr(self.split, role):
                if not image.low:
                    rate: float | str = 1.0
                elif role == "query" and options["query_rate"] is not None:
                    rate = options["query_rate"]
                elif self.natural:
                    rate = "native"
                else:
                    rate = draw_rate(self._names[image.path], options["seed"], options["rates"])
                if rates.setdefault(image.path, rate) != rate:
                    raise ValueError(f"{self.name}: {image.path} is listed twice, at rates {rates[image.path]} and {rate}")
        return rates

    def _check(self) -> None:
        split = self.split
        for role in ROLES:
            if not getattr(split, role):
                raise ValueError(f"{self.name}: no {role} images under {split.folder}")
        gallery_cameras: dict[int, set[int]] = {}
        for image in split.gallery:
            gallery_cameras.setdefault(image.pid, set()).add(image.camid)

        if self.disjoint_cameras and not self.natural:
            low = {image.camid for image in split.query if image.low}
            both = low & {image.camid for image in split.gallery}
            if both:
                raise ValueError(
                    f"{self.name}: low-resolution queries and the gallery share the cameras {sorted(both)}; "
                    f"queries come from {sorted(low)}"
                )
        test = {image.pid for image in (*split.query, *split.gallery)} - set(self._junk_pids)
        both = {image.pid for image in split.train} & test
        if both:
            raise ValueError(f"{self.name}: {len(both)} identities are in train and test, as {sorted(both)[:5]}")
        alone = [image for image in split.query if not gallery_cameras.get(image.pid, set()) - {image.camid}]
        if alone:
            raise ValueError(
                f"{self.name}: {len(alone)} of {len(split.query)} queries have no match in the gallery under another "
                f"camera, the first is {alone[0].path} (identity {alone[0].pid}, camera {alone[0].camid})"
            )

    @cached_property
    def manifest(self) -> Manifest:
        """The protocol as made, with the files' checksums (they are read the first time this is asked)."""
        images = {
            name: {"rate": self._rates[path], "sha256": file_sha256(path)} for path, name in self._names.items()
        }
        counts = {}
        for role in ROLES:
            part = getattr(self.split, role)
            counts[role] = {
                "images": len(part),
                "identities": len({image.pid for image in part}),
                "low": sum(image.low for image in part),
            }
        return Manifest(
            dataset=self.name,
            options={key: self.options[key] for key in self.defaults},
            split_id=self.split_id,
            kernel=self.options["kernel"],
            rates=self.options["rates"],
            query_rate=self.options["query_rate"],
            seed=self.options["seed"],
            images=images,
            counts=counts,
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, pid, camid, dsetid = self.data[index]
        rate = self._rates[path]
        low = rate != 1.0
        rate = 1.0 if rate == "native" else rate
        img = read_image(path)
        item = {"pid": pid, "camid": camid, "impath": path, "dsetid": dsetid, "rate": rate, "role": self.mode, "low": low}
        if self.options["pairs"] and self.mode == "train":
            height, width = low_size(img.height, img.width, rate)
            rate_lr = rate if low else _any_of(self.options["pair_rates"])
            item |= _pair(self.transform(img), (img.height, img.width), rate_lr, self.options["kernel"])
            item["img"] = item["img_lr"] if low else item["img_hr"]
        else:
            img = degrade_image(img, rate, self.options["kernel"])
            height, width = img.height, img.width
            item["img"] = img if self.transform is None else self._transform_image(self.transform, self.k_tfm, img)
        item["size"] = torch.tensor([height, width])
        return item

    def __add__(self, other: host.ImageDataset) -> SummedDataset:
        return SummedDataset([self, other])

    def __radd__(self, other: Any) -> host.ImageDataset:
        # sum() starts from 0
        return self if other == 0 else SummedDataset([other, self])

    def show_summary(self) -> None:
        for role in ROLES:
            part = getattr(self, role)
            logger.info(
                "%s %s: %d images, %d identities, %d cameras, %d low resolution",
                self.name, role, len(part), self.get_num_pids(part), self.get_num_cams(part),
                sum(self._rates[path] != 1.0 for path, *_ in part),
            )  # fmt: skip


def _rate_tuple(rates: Sequence[float]) -> tuple[float, ...]:
    if isinstance(rates, (int, float)) or not rates:
        raise ValueError(f"rates are a list of at least one number, not {rates!r}")
    return tuple(check_rate(rate) for rate in rates)


def _any_of(rates: Sequence[float]) -> float:
    return rates[int(torch.randint(len(rates), ()))]


def _pair(img_hr: Tensor, native: tuple[int, int], rate_lr: float, kernel: str) -> dict[str, Any]:
    img_lr = img_hr if rate_lr == 1.0 else round_trip(img_hr, low_size(*native, rate_lr), kernel)
    return {"img_hr": img_hr, "img_lr": img_lr, "rate_lr": rate_lr}


class SummedDataset(host.ImageDataset):
    """Several training sets in a row, each still making its own items.

    The host's own sum rebuilds a plain ``ImageDataset`` and so loses every member's ``__getitem__``, transform and
    ``k_tfm``. Identities, cameras and ``dsetid`` are shifted so that members do not share them. If one of our sets is in the
    sum, the host's sets get the extra keys too (rate 1.0, not low, size as in the file's header), with pairs if ours have.

    Args:
        members: image sets in training mode; sums among them are taken apart. Query and gallery are the first member's.

    Raises:
        TypeError: for a member that is no image data set.
        ValueError: for a member in another mode, or members that disagree about pairs.
    """

    def __init__(self, members: Sequence[host.ImageDataset]) -> None:
        self.members = []
        for member in members:
            if not isinstance(member, host.ImageDataset):
                raise TypeError(f"cannot add {type(member).__name__} to a sum of image data sets")
            self.members += member.members if isinstance(member, SummedDataset) else [member]
        self._check()
        self._ends = list(accumulate(len(member) for member in self.members))
        ours = [member for member in self.members if isinstance(member, CrossResolutionDataset)]
        self._pairs_as = next((member.options for member in ours if member.options["pairs"]), None)
        self._extra_keys = bool(ours)

        train, self._shifts = [], []
        pids = cams = dsets = 0
        for member in self.members:
            self._shifts.append((pids, cams, dsets))
            train += [(path, pid + pids, cam + cams, dset + dsets) for path, pid, cam, dset in member.train]
            pids += member.num_train_pids
            # Not the number of cameras: a set may use cameras 1, 2, 5.
            cams += 1 + max(cam for _, _, cam, _ in member.train)
            dsets += member.num_datasets
        first = self.members[0]
        super().__init__(
            train, first.query, first.gallery, transform=first.transform, k_tfm=first.k_tfm, mode="train", verbose=False
        )

    def _check(self) -> None:
        for member in self.members:
            if member.mode != "train":
                raise ValueError(f"only training sets can be summed, {type(member).__name__} is in mode {member.mode!r}")
        ours = [member for member in self.members if isinstance(member, CrossResolutionDataset)]
        paired = [member.options["pairs"] for member in ours]
        if any(paired) and not all(paired):
            sides = {member.name: member.options["pairs"] for member in ours}
            raise ValueError(f"summed sets must all give pairs or none: {sides}")
        if any(paired) and any(member.k_tfm > 1 for member in self.members):
            raise ValueError("pairs are made from one augmentation; k_tfm must be 1 in every summed set")

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < 0:
            index += len(self)
        which = bisect.bisect_right(self._ends, index)
        member = self.members[which]
        item = member[index - (self._ends[which - 1] if which else 0)]
        if self._extra_keys and not isinstance(member, CrossResolutionDataset):
            item |= self._keys_for_host(item)
        for key, shift in zip(("pid", "camid", "dsetid"), self._shifts[which], strict=True):
            item[key] += shift
        return item

    def _keys_for_host(self, item: dict[str, Any]) -> dict[str, Any]:
        # The header only: the host has decoded the picture and thrown its size away.
        with PIL.Image.open(item["impath"]) as img:
            width, height = img.size
        extra = {"rate": 1.0, "size": torch.tensor([height, width]), "role": "train", "low": False}
        if self._pairs_as is not None:
            rate_lr = _any_of(self._pairs_as["pair_rates"])
            extra |= _pair(item["img"], (height, width), rate_lr, self._pairs_as["kernel"])
        return extra

    def __add__(self, other: host.ImageDataset) -> SummedDataset:
        return SummedDataset([self, other])

    def __radd__(self, other: Any) -> SummedDataset:
        return self if other == 0 else SummedDataset([other, self])
