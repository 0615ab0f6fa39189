"""Networks that others have trained for re-ID, by the names under which ``xres download`` fetches their weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from torchreid_xres.config import load_config
from torchreid_xres.config_files import config_folder
from torchreid_xres.data.catalogue import catalogue
from torchreid_xres.data.download import DownloadError, fetch
from torchreid_xres.files import cache_folder
from torchreid_xres.inference.network import host_config

# Of those whose checksum is published the one that our benchmark's networks start from.
DEFAULT = "osnet_x0_25_msmt17"


def weights_folder() -> Path:
    """Return the folder in which fetched weights are kept."""
    return cache_folder() / "weights"


class Published(NamedTuple):
    """The file of a network's weights, and the configuration that says what network it is and how it sees images."""

    weights: Path
    config: CfgNode


def fetch_network(name: str, folder: str | Path = "") -> Published:
    """Return what was published under a name; the weights are fetched unless they are there.

    Args:
        name: as ``xres download list`` has it, of weights for re-ID.
        folder: for weights; empty: :func:`weights_folder`.

    Raises:
        ValueError: if there are none of that name.
        DownloadError: if they cannot be fetched, with the place to put the file, or are not what was published.
        OSError: if the folder cannot be written.

    Example:
        >>> fetch_network("osnet_x9")
        Traceback (most recent call last):
            ...
        ValueError: no weights for re-ID are called 'osnet_x9': xres download list shows the names
    """
    offers = {offer.name: offer for offer in catalogue().values() if offer.network}
    if name not in offers:
        raise ValueError(f"no weights for re-ID are called {name!r}: xres download list shows the names")
    offer, folder = offers[name], Path(folder or weights_folder()).expanduser().absolute()
    there = (folder / offer.file).is_file()
    try:
        weights = fetch(offer, folder).path
    except DownloadError as error:
        if there:
            raise
        raise DownloadError(
            f"{error}; without a network put that file at {folder / offer.file}, and the same command goes on"
        ) from error
    seen = load_config(config_folder() / offer.config) if offer.config else host_config(offer.network, (256, 128))
    return Published(weights, seen)


def is_published(weights: Path) -> bool:
    """Return whether a file of weights is called as those that :func:`fetch_network` fetches.

    Example:
        >>> is_published(Path("weights/osnet_x0_25_msmt17.pth")), is_published(Path("last.pth.tar"))
        (True, False)
    """
    return any(offer.file == weights.name for offer in catalogue().values() if offer.network)
