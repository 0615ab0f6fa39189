"""Which data sets exist, and the options they are built with: the host's data manager has no room for options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torchreid_xres.data.degrade import check_kernel, check_rate
from torchreid_xres.data.io import BITS, check_grey_bits
from torchreid_xres.data.validation import LARGEST_SHARE, PARTS
from torchreid_xres.data.walk import holds
from torchreid_xres.registry import Registry, did_you_mean

DATASETS = Registry("data set")

INTERPOLATIONS = ("bilinear", "bicubic")

COMMON_OPTIONS: dict[str, Any] = {
    "rates": None,  # what low images' rates are drawn from; None = the set's own
    "kernel": "area",  # one of degrade.KERNELS
    "interpolation": "bilinear",  # one of INTERPOLATIONS: how images come to the network's size
    "grey_bits": BITS,  # that grey pixels of 16 bits really have, see io.read_image
    "seed": 0,  # of the draw of rates
    "pictures": "",  # folder of <manifest name>.png to read in place of the set's files; empty = the set's files
    "validation": 0.0,  # share of the training identities that is kept out of the training, at most 0.5
    "part": "test",  # one of PARTS: what queries and gallery are of, the test's images or those identities'
    "query_rate": None,  # one rate for all low queries, for resolution curves
    "pairs": False,  # training items carry img_hr, img_lr, rate_lr
    "pair_rates": None,  # rates of img_lr for images that are not low; None = rates
    "originals": False,  # training images are as captured, also those that the protocol makes low
    "random_rates": (),  # least and largest rate of a training image that is not low, drawn anew each time; (): none
    "random_share": 0.85,  # of these images, drawn each time, the others stay sharp
    "cache_mb": 0,  # a training set that takes no more than so many MiB at the network's size is kept in memory
}

_given: ContextVar[Mapping[str, Mapping[str, Any]]] = ContextVar("dataset_options", default={})  # noqa: B039


@contextmanager
def dataset_options(options: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Give options to the data sets that are built inside the ``with``.

    Args:
        options: data set name -> its options. The name ``"*"`` stands for every set of ours and takes the common
            options only (``COMMON_OPTIONS``). A set's own name wins over ``"*"``, an inner ``with`` over an outer one.

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
    outer = _given.get()
    token = _given.set({name: {**outer.get(name, {}), **options.get(name, {})} for name in {*outer, *options}})
    try:
        yield
    finally:
        _given.reset(token)


def resolve_options(
    name: str, rates: Sequence[float], defaults: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all options of one set, checked: its defaults, then ``kwargs``, then what ``dataset_options`` gives.

    Args:
        name: the set.
        rates: its own rates, taken where no others are given.
        defaults: its own options.
        kwargs: the constructor's; those that name no option are left alone.

    Raises:
        ValueError: for a value that a common option cannot have; a set's own options are its reader's to check.
    """
    given = _given.get()
    options = {**COMMON_OPTIONS, **defaults}
    options.update((key, kwargs[key]) for key in options if key in kwargs)
    options.update(given.get("*", {}))
    options.update(given.get(name, {}))
    check_kernel(options["kernel"])
    if options["interpolation"] not in INTERPOLATIONS:
        allowed = ", ".join(INTERPOLATIONS)
        raise ValueError(f"{name}: no interpolation {options['interpolation']!r}; allowed: {allowed}")
    check_grey_bits(options["grey_bits"])
    _check_validation(name, options["validation"], options["part"])
    for key, kind in (("seed", int), ("pairs", bool), ("originals", bool), ("pictures", str), ("cache_mb", int)):
        if type(options[key]) is not kind:
            raise ValueError(f"{name}: the option {key!r} is of type {kind.__name__}, not {options[key]!r}")
    if options["rates"] is None:
        options["rates"] = rates
    if options["pair_rates"] is None:
        options["pair_rates"] = options["rates"]
    for key in ("rates", "pair_rates"):
        if not isinstance(options[key], (list, tuple)) or not options[key]:
            raise ValueError(f"{name}: the option {key!r} is a list of at least one number, not {options[key]!r}")
        options[key] = tuple(check_rate(rate) for rate in options[key])
    options["random_rates"] = tuple(check_rate(rate) for rate in options["random_rates"])
    if len(options["random_rates"]) not in (0, 2) or list(options["random_rates"]) != sorted(options["random_rates"]):
        told = "the least and the largest rate, or nothing"
        raise ValueError(f"{name}: the option 'random_rates' is {told}, not {list(options['random_rates'])}")
    if options["random_rates"] and options["pairs"]:
        raise ValueError(f"{name}: pairs have low views already, so the option 'random_rates' has to be empty")
    if options["originals"] and options["pairs"]:
        raise ValueError(f"{name}: pairs have the originals already, so the option 'originals' has to be False")
    if not 0 <= options["random_share"] <= 1:
        raise ValueError(f"{name}: the option 'random_share' is from 0 to 1, not {options['random_share']!r}")
    if options["query_rate"] is not None:
        options["query_rate"] = check_rate(options["query_rate"])
    return options


def _check_validation(name: str, share: object, part: object) -> None:
    if type(share) not in (int, float) or not 0 <= share <= LARGEST_SHARE:
        raise ValueError(f"{name}: the option 'validation' is a number from 0 to {LARGEST_SHARE}, not {share!r}")
    if part not in PARTS:
        raise ValueError(f"{name}: no part {part!r}; allowed: {', '.join(PARTS)}")
    if part == "validation" and not share:
        raise ValueError(f"{name}: the option 'part' is 'validation', but 'validation' is 0, which leaves none")


def _refuse_unknown(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    for key in given:
        if key not in known:
            whom = "all data sets together have" if name == "*" else f"the data set {name!r} has"
            hint = did_you_mean(key, known)
            raise ValueError(f"{whom} no option {key!r}{hint} There are: {', '.join(sorted(known))}")


@contextmanager
def naming_root(name: str, root: Path) -> Iterator[None]:
    """Let the error of a set that is not there name the set and the folder of data sets, and say what that is.

    Args:
        name: of the data set.
        root: where it was looked for.

    Raises:
        OSError: in place of the block's own.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        folder = f"folder of data sets, {root} (--root, or the key data.root),"
        if root.is_dir():
            told = f"Is the {folder} the right one? It holds {holds(root)}"
        else:
            told = f"The {folder} {'is a file' if root.exists() else 'does not exist'}"
        raise type(error)(f"{name}: {error}. {told}") from error
