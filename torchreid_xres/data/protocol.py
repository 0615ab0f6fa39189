"""Who is low resolution: rates drawn from file names, and the manifest that records them.

Nothing here is left to chance or to the order of files: a rate is a function of the seed and the file's name, so two
machines that hold the same set make the same experiment, and the manifest's hash says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from torchreid_xres.files import whole_file


def draw_rate(name: str, seed: int, rates: Sequence[float]) -> float:
    """Draw the rate of an image from its name: the same on every machine and in every run.

    The first 8 bytes of SHA-256 of ``"{seed}:{name}"``, as a big-endian number modulo ``len(rates)``, pick the rate.

    Args:
        name: the file's path relative to the set's folder, with forward slashes.
        seed: another seed is another assignment of rates.
        rates: what to draw from, each with the same chance.

    Example:
        >>> draw_rate("test/0002_c3s1_000451_03.jpg", 0, (2, 3, 4))
        2.0
    """
    if not rates:
        raise ValueError(f"no rates to draw from for {name!r}")
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return float(rates[int.from_bytes(digest[:8], "big") % len(rates)])


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file; read once per process unless its size or time of change differs."""
    path = os.fspath(path)
    stat = os.stat(path)
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: str, size: int, mtime: int) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The protocol of one split of one set: each image's rate and checksum, and a hash over all of it.

    Attributes:
        dataset: the set's registered name.
        options: the set's own options, JSON-able.
        split_id: which split, from 0.
        kernel: how low images are down-sampled.
        rates: what the rates were drawn from.
        query_rate: the one rate of all low queries, or None where they were drawn.
        seed: of the draw.
        images: file name relative to the set's folder -> ``{"rate": float or "native", "sha256": str}``; rate 1.0 is as
            captured, ``"native"`` is low resolution in the file itself.
        counts: part -> ``{"images": int, "identities": int, "low": int}``.
    """

    dataset: str
    options: Mapping[str, Any]
    split_id: int
    kernel: str
    rates: Sequence[float]
    query_rate: float | None
    seed: int
    images: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Mapping[str, int]]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON (sorted keys, no spaces, ASCII) of all fields."""
        text = json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        # dataclasses.asdict would copy a hundred thousand entries one by one.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, path: str | os.PathLike) -> None:
        """Write the manifest as JSON, whole or not at all."""
        with whole_file(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
            json.dump({**self._content(), "sha256": self.sha256}, file, indent=1, sort_keys=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Manifest:
        """Read a saved manifest.

        Raises:
            ValueError: if the file is no manifest, or its content does not give the hash it states.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            stated = content.pop("sha256")
            manifest = cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise ValueError(f"{path}: not a protocol manifest ({fault})") from fault
        if manifest.sha256 != stated:
            raise ValueError(f"{path}: states the hash {stated} but its content has {manifest.sha256}")
        return manifest

    def changed(self, now: Manifest) -> str:
        """Return in words which images have another content now, of those in both; empty if none has."""
        both = self.images.keys() & now.images.keys()
        names = {name for name in both if self.images[name]["sha256"] != now.images[name]["sha256"]}
        return f"{len(names)} images are changed, the first is {min(names)}" if names else ""

    def differences(self, now: Manifest) -> str:
        """Return in words what has become of the set since this manifest was made; empty if nothing has changed."""
        if self.sha256 == now.sha256:
            return ""
        there = self.images.keys() & now.images.keys()
        told = [
            f"{len(names)} images are {what}, the first is {min(names)}"
            for what, names in (
                ("missing", self.images.keys() - there),
                ("new", now.images.keys() - there),
                ("at another rate", {name for name in there if self.images[name]["rate"] != now.images[name]["rate"]}),
            )
            if names
        ]
        told += [changed] if (changed := self.changed(now)) else []
        ours, theirs = (
            {key: json.dumps(value, sort_keys=True) for key, value in manifest._content().items() if key != "images"}
            for manifest in (self, now)
        )
        told += [f"{key}: {theirs[key]} instead of {ours[key]}" for key in ours if ours[key] != theirs[key]]
        return "; ".join(told)

    def verify(self, folder: str | os.PathLike) -> dict[str, str]:
        """Compare a folder's files with the manifest.

        Args:
            folder: the set's folder, to which the names are relative.

        Returns:
            File name -> ``"missing"`` or ``"changed"``; empty if all is as recorded.
        """
        faults = {}
        for name, image in self.images.items():
            try:
                if file_sha256(Path(folder, name)) != image["sha256"]:
                    faults[name] = "changed"
            except FileNotFoundError:
                faults[name] = "missing"
        return faults
