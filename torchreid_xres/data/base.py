"""The base of every data set: a reader lists the images, this class makes the protocol, the checks and the items."""

from __future__ import annotations

import bisect
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, Resize

from torchreid_xres import host
from torchreid_xres.data.cache import cache_for
from torchreid_xres.data.degrade import degrade_image, log_uniform, low_size, round_trip
from torchreid_xres.data.io import BITS, image_size, look_for_few_bits, read_image
from torchreid_xres.data.native import input_resize
from torchreid_xres.data.options import DATASETS, dataset_options, naming_root, resolve_options
from torchreid_xres.data.protocol import Manifest, draw_rate, file_sha256
from torchreid_xres.data.split import Image, Split
from torchreid_xres.data.validation import carve

__all__ = ["DATASETS", "CrossResolutionDataset", "Image", "Split", "SummedDataset", "dataset_options"]

logger = logging.getLogger(__name__)

ROLES = ("train", "query", "gallery")


class CrossResolutionDataset(host.ImageDataset):
    """A torchreid data set in which some images are low resolution; a reader writes ``load`` and the attributes.

    Items hold the host's keys ``img pid camid impath dsetid`` and

    - ``rate``: float, 1.0 = as captured (also where the gap is in the pictures themselves);
    - ``size``: LongTensor ``[height, width]`` of what the camera saw, after the protocol's down-sampling;
    - ``role``: ``train``, ``query`` or ``gallery``;
    - ``low``: bool, low resolution by the protocol (a drawn rate of 1 leaves it False);
    - ``native``, where :attr:`native` asks for it: what the camera saw at its own size, (h, w, 3), uint8.

    ``img`` is what the camera saw, through ``transform``. In training with the option ``pairs`` there are also
    ``img_hr`` (the transformed original), ``img_lr`` (the same crop and flip, down to the size of ``rate_lr`` and
    back) and ``rate_lr``; ``img`` is then ``img_lr`` for low images and ``img_hr`` for the others. An image whose low
    resolution is its own has no better original: its ``rate_lr`` is 1.0 and ``img_lr`` is ``img_hr``. ``img_lr`` is
    made after the resize to the network's size, the protocol's images before it: where that is the image's own size
    they are equal within 1.5 grey levels, else the order of resampling shows (CUHK03 at 256x128: 0.7 on average).

    Args:
        root: folder that holds the sets.
        split_id: which split, from 0 to ``num_splits - 1``.
        **kwargs: the host's ``transform, k_tfm, mode, combineall, verbose``; further ones that name an option of the
            set set it (``dataset_options`` wins), the rest is ignored as the host does.

    Attributes:
        name: the registered name.
        natural: the gap is in the pictures, nothing is down-sampled.
        metric: ``market``, or ``single_shot`` (one gallery image per identity, drawn 10 times).
        num_splits: how many splits exist.
        splits_share_training: they differ in query and gallery alone; a job on several of them trains once.
        rates: what rates are drawn from unless the user says otherwise.
        disjoint_cameras: low queries and the gallery must not share cameras (not asked of natural sets).
        defaults: the set's own options.
        added: those of them that manifests were kept without; at their default they are in none.
        options: all options as resolved.
        low_views: whether pairs get their ``img_lr``; not where something made beforehand stands for it.
        native: whether items hold the camera's own pixels, too (see ``batches.py``).
        rate_of: path -> ``"native"`` or the rate, 1.0 for images that are not low.
        names: path -> the image's name in the manifest, relative to the set's folder.
        split: of the whole set, whatever is kept out of the training; ``train``, ``query`` and ``gallery`` are what is
            trained on and evaluated.
        validation: with the option ``validation`` its ``share``, and the numbers of ``identities`` kept out of the
            training and of ``queries`` and ``gallery`` images made of them; else None.

    Raises:
        ValueError: for a wrong option or split, or a split that fails the protocol's checks.
        OSError: if the set, or a file of it, is not below ``root``.
    """

    name: ClassVar[str] = ""
    natural: ClassVar[bool] = False
    metric: ClassVar[str] = "market"
    num_splits: ClassVar[int] = 1
    splits_share_training: ClassVar[bool] = False
    rates: ClassVar[Sequence[float]] = (2.0, 3.0, 4.0)
    disjoint_cameras: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {}
    added: ClassVar[Sequence[str]] = ()
    native: bool = False
    low_views: bool = True

    def __init__(self, root: str = "", split_id: int = 0, **kwargs: Any) -> None:
        self.options = resolve_options(self.name, self.rates, self.defaults, kwargs)
        if split_id not in range(self.num_splits):
            raise ValueError(f"{self.name} has no split {split_id!r}; allowed are 0 to {self.num_splits - 1}")
        self.split_id = split_id
        self.validation: dict[str, Any] | None = None
        folder = Path(root).expanduser().absolute()
        with naming_root(self.name, folder):
            self.split = self.load(folder, split_id, **{key: self.options[key] for key in self.defaults})
        self._check_split()
        self.names = {image.path: self._name(image.path) for role in ROLES for image in getattr(self.split, role)}
        self.rate_of = self._assign_rates(self.split)
        split = self._without_validation() if self.options["validation"] else self.split

        relabel = {pid: label for label, pid in enumerate(sorted({image.pid for image in split.train}))}
        parts = {
            "train": [(path, relabel[pid], camid, 0) for path, pid, camid, _ in split.train],
            "query": [(path, pid, camid, 0) for path, pid, camid, _ in split.query],
            "gallery": [(path, pid, camid, 0) for path, pid, camid, _ in split.gallery],
        }
        self._check_mode(**kwargs)
        verbose = kwargs.pop("verbose", True)
        _init_host(self, parts, **kwargs)
        # In place: the manager hands the same transform to query and gallery, and both are to be resized alike.
        for part in getattr(self.transform, "transforms", []):
            if isinstance(part, Resize):
                part.interpolation = InterpolationMode(self.options["interpolation"])
        for path, *_ in self.data[:1]:  # before loader processes start
            look_for_few_bits(path, self.options["grey_bits"])
        room = self.options["cache_mb"] if self.mode == "train" else 0  # test images are read once
        self._cache = cache_for(self.transform, len(self.data), room)
        if verbose:
            self.show_summary()

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

    def _name(self, path: str) -> str:
        folder = os.path.join(self.split.folder, "")
        if not path.startswith(folder):
            raise ValueError(f"{self.name}: {path} is not in the set's folder {folder}")
        return path[len(folder) :].replace(os.sep, "/")

    def _without_validation(self) -> Split:
        """Return the split without its validation identities, whose images are the test's with ``part`` validation."""
        options, split_id = self.options, 0 if self.splits_share_training else self.split_id
        share, salt = options["validation"], f"validation:{self.name}:{split_id}:{options['seed']}"
        try:
            own = carve(self.split, share, salt, lambda image: self.names[image.path], self.natural)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        self.validation = {
            "share": share, "identities": own.identities, "queries": len(own.query), "gallery": len(own.gallery),
        }  # fmt: skip
        if options["part"] == "test":
            return self.split._replace(train=own.train)
        split = Split(self.split.folder, own.train, own.query, own.gallery)
        rates = self._assign_rates(split)
        if options["pictures"] and any(self.rate_of[path] != rate for path, rate in rates.items()):
            raise ValueError(
                f"{self.name}: the pictures in {options['pictures']} are of training images as the training sees them, "
                "and the validation part has queries at rates of its own"
            )
        self.rate_of |= rates
        return split

    def _assign_rates(self, split: Split) -> dict[str, float | str]:
        rates: dict[str, float | str] = {}
        options = self.options
        for role in ROLES:
            for image in getattr(split, role):
                if not image.low:
                    rate: float | str = 1.0
                elif role == "query" and options["query_rate"] is not None:
                    # A natural low image stays one, as captured or smaller still.
                    rate = "native" if self.natural and options["query_rate"] == 1 else options["query_rate"]
                elif self.natural:
                    rate = "native"
                else:
                    rate = draw_rate(self.names[image.path], options["seed"], options["rates"])
                if rates.setdefault(image.path, rate) != rate:
                    both = f"{rates[image.path]} and {rate}"
                    raise ValueError(f"{self.name}: {image.path} is listed twice, at the rates {both}")
        return rates

    def _check_split(self) -> None:
        split = self.split
        gallery_cameras: dict[int, set[int]] = {}
        for image in split.gallery:
            gallery_cameras.setdefault(image.pid, set()).add(image.camid)
        if self.disjoint_cameras and not self.natural:
            low = {image.camid: image.path for image in split.query if image.low}
            shared = [image for image in split.gallery if image.camid in low]
            if shared:
                raise ValueError(
                    f"{self.name}: low-resolution queries and the gallery share a camera, for one that of "
                    f"{low[shared[0].camid]} and {shared[0].path}"
                )
        test = {image.pid: image.path for image in (*split.query, *split.gallery) if image.pid not in self._junk_pids}
        both = [image for image in split.train if image.pid in test]
        if both:
            raise ValueError(
                f"{self.name}: {len({image.pid for image in both})} identities are in train and test; of one are "
                f"{both[0].path} and {test[both[0].pid]}"
            )
        alone = [image for image in split.query if not gallery_cameras.get(image.pid, set()) - {image.camid}]
        if alone:
            raise ValueError(
                f"{self.name}: {len(alone)} of {len(split.query)} queries have no match in the gallery under another "
                f"camera; the first is {alone[0].path}"
            )

    def _check_mode(
        self, mode: str = "train", transform: Any = None, k_tfm: int = 1, combineall: bool = False, **_: Any
    ) -> None:
        needed = ROLES if combineall else ("train",) if mode == "train" else ("query", "gallery")
        empty = [role for role in needed if not getattr(self.split, role)]
        if empty:
            raise ValueError(f"{self.name}: no {' and no '.join(empty)} images under {self.split.folder}")
        if combineall and self.options["validation"]:
            raise ValueError(f"{self.name}: combineall trains on the test, which leaves nothing that validation is for")
        if self.options["pairs"] and mode == "train":
            if self.options["pictures"]:
                raise ValueError(f"{self.name}: pairs are made from the set's own files, not from pictures")
            if k_tfm > 1:
                raise ValueError(f"{self.name}: pairs share one augmentation, so k_tfm must be 1, not {k_tfm}")
            if transform is None:
                raise ValueError(f"{self.name}: pairs are made from tensors, so they need a transform")

    def read(self, path: str) -> PIL.Image.Image:
        """Return an image as captured; a set whose captured size is fixed brings it there."""
        return read_image(path, self.options["grey_bits"])

    def down_sampling(self, path: str) -> float:
        """Return by which rate the protocol makes an image smaller: 1.0 where a low resolution is the file's own."""
        rate = self.rate_of[path]
        return 1.0 if rate == "native" else rate

    def seen(self, path: str, rate: float | None = None) -> PIL.Image.Image:
        """Return an image as a camera of some rate would have seen it; None: as the protocol says it was seen."""
        return degrade_image(self.read(path), rate or self.down_sampling(path), self.options["kernel"])

    @cached_property
    def manifest(self) -> Manifest:
        """The protocol as made, with the files' checksums (they are read the first time this is asked)."""
        rates = self._assign_rates(self.split)  # of the set, whatever part of it is looked at
        images = {name: {"rate": rates[path], "sha256": file_sha256(path)} for path, name in self.names.items()}
        counts = {}
        for role in ROLES:
            part = getattr(self.split, role)
            counts[role] = {
                "images": len(part),
                "identities": len({image.pid for image in part}),
                "low": sum(rates[image.path] != 1.0 for image in part),
            }
        own = [key for key, value in self.defaults.items() if key not in self.added or self.options[key] != value]
        own += ["grey_bits"] * (self.options["grey_bits"] != BITS)
        return Manifest(
            dataset=self.name,
            options={key: self.options[key] for key in own},
            split_id=self.split_id,
            kernel=self.options["kernel"],
            rates=list(self.options["rates"]),
            query_rate=self.options["query_rate"],
            seed=self.options["seed"],
            images=images,
            counts=counts,
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, pid, camid, dsetid = self.data[index]
        rate, low = self.down_sampling(path), self.rate_of[path] != 1.0
        if self.options["originals"] and self.mode == "train":
            rate, low = 1.0, self.rate_of[path] == "native"
        img, (height, width) = self._picture(index, path)
        native = {"native": np.asarray(img)} if self.native else {}
        if self.options["random_rates"] and self.mode == "train" and not low:
            img = self._at_random_rate(img, (height, width))
        item = {"pid": pid, "camid": camid, "impath": path, "dsetid": dsetid}
        item |= {"rate": rate, "role": self.mode, "low": low, **native}
        if self.options["pairs"] and self.mode == "train":
            rate_lr = rate if low else _any_of(self.options["pair_rates"])
            item |= {"img_hr": self.transform(img), "rate_lr": rate_lr}
            if self.low_views:
                item["img_lr"] = _low_view(item["img_hr"], (height, width), rate_lr, self.options)
            item["img"] = item.get("img_lr", item["img_hr"]) if low else item["img_hr"]
            height, width = low_size(height, width, rate)
        else:
            item["img"] = img if self.transform is None else self._transform_image(self.transform, self.k_tfm, img)
        item["size"] = torch.tensor([height, width])
        return item

    def _picture(self, index: int, path: str) -> tuple[PIL.Image.Image, tuple[int, int]]:
        """Return what the camera saw, or in training with pairs or originals its original, and the size of that.

        A cached picture is at the network's size already, which leaves nothing to the transform's resize.
        """

        def read() -> PIL.Image.Image:
            if self.options["pictures"]:  # those are what the camera saw, or made from it
                return read_image(Path(self.options["pictures"]) / f"{self.names[path]}.png")
            whole = (self.options["pairs"] or self.options["originals"]) and self.mode == "train"
            return self.read(path) if whole else self.seen(path)

        if self._cache is not None and not self.native:
            return self._cache.get(range(len(self.data))[index], read)
        img = read()
        return img, (img.height, img.width)

    def _at_random_rate(self, img: PIL.Image.Image, native: tuple[int, int]) -> PIL.Image.Image:
        """Return a picture as a camera of some rate would have seen it, drawn log-uniformly, at the network's size."""
        resize = input_resize(self.transform)
        img = img if resize is None else resize(img)
        draw, where = torch.rand(2).tolist()
        if draw >= self.options["random_share"]:
            return img
        size = low_size(*native, log_uniform(*self.options["random_rates"], where))
        planes = torch.from_numpy(np.array(img)).permute(2, 0, 1)  # (3, H, W)
        seen = round_trip(planes, size, self.options["kernel"], self.options["interpolation"])
        return PIL.Image.fromarray(seen.permute(1, 2, 0).numpy())

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
                sum(self.rate_of[path] != 1.0 for path, *_ in part),
            )  # fmt: skip
        if self.validation:
            told = "queries and gallery are theirs" if self.options["part"] == "validation" else "nothing sees them"
            logger.info("%s: %d training identities are kept out, %s", self.name, self.validation["identities"], told)


def _init_host(dataset: host.ImageDataset, parts: Mapping[str, list], **kwargs: Any) -> None:
    """Run the host's constructor, which looks at the first entry of every part, also with empty parts."""
    lent = next((part for part in parts.values() if part), [])[:1]
    host.ImageDataset.__init__(dataset, **{role: part or lent for role, part in parts.items()}, verbose=False, **kwargs)
    for role, part in parts.items():
        if not part:
            setattr(dataset, role, [])
    if not dataset.train:
        dataset.num_train_pids = dataset.num_train_cams = dataset.num_datasets = 0


def _any_of(rates: Sequence[float]) -> float:
    return rates[int(torch.randint(len(rates), ()))]


def _low_view(img_hr: Tensor, native: tuple[int, int], rate_lr: float, options: Mapping[str, Any]) -> Tensor:
    if rate_lr == 1.0:
        return img_hr
    return round_trip(img_hr, low_size(*native, rate_lr), options["kernel"], options["interpolation"])


def summands(dataset: Any) -> list[Any]:
    """Return the data sets of which one is the sum, or itself alone."""
    return list(dataset.members) if isinstance(dataset, SummedDataset) else [dataset]


class SummedDataset(host.ImageDataset):
    """Several training sets in a row, each still making its own items.

    The host's own sum rebuilds a plain ``ImageDataset`` and so loses every member's ``__getitem__``, transform and
    ``k_tfm``. Identities, cameras and ``dsetid`` are shifted so that members do not share them. If one of our sets is
    in the sum, the host's sets get the extra keys too (rate 1.0, not low, size as in the file's header), with pairs if
    ours have them.

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
            self.members += summands(member)
        self._ours = [member for member in self.members if isinstance(member, CrossResolutionDataset)]
        self._check()
        self._ends = list(accumulate(len(member) for member in self.members))
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
        parts = {"train": train, "query": first.query, "gallery": first.gallery}
        _init_host(self, parts, transform=first.transform, k_tfm=first.k_tfm, mode="train")

    def _check(self) -> None:
        for member in self.members:
            if member.mode != "train":
                what = f"{type(member).__name__} is in mode {member.mode!r}"
                raise ValueError(f"only training sets can be summed, {what}")
        paired = {member.name: member.options["pairs"] for member in self._ours}
        if len(set(paired.values())) > 1:
            raise ValueError(f"summed sets must all give pairs or none: {paired}")
        if any(paired.values()) and any(member.k_tfm > 1 for member in self.members):
            raise ValueError("pairs share one augmentation, so k_tfm must be 1 in every summed set")

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        which = bisect.bisect_right(self._ends, index)
        member = self.members[which]
        item = member[index - (self._ends[which - 1] if which else 0)]
        if self._ours and not isinstance(member, CrossResolutionDataset):
            item |= self._keys_for_host(item)
        for key, shift in zip(("pid", "camid", "dsetid"), self._shifts[which], strict=True):
            item[key] += shift
        return item

    def _keys_for_host(self, item: dict[str, Any]) -> dict[str, Any]:
        height, width = image_size(item["impath"])  # the host has decoded the picture and thrown its size away
        extra = {"rate": 1.0, "size": torch.tensor([height, width]), "role": "train", "low": False}
        options = self._ours[0].options
        if options["pairs"]:
            rate = _any_of(options["pair_rates"])
            low = _low_view(item["img"], (height, width), rate, options)
            extra |= {"img_hr": item["img"], "img_lr": low, "rate_lr": rate}
        return extra

    def __add__(self, other: host.ImageDataset) -> SummedDataset:
        return SummedDataset([self, other])

    def __radd__(self, other: Any) -> SummedDataset:
        return self if other == 0 else SummedDataset([other, self])
