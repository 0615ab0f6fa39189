"""A set as its protocol makes it, written to disk for other frameworks, and compared with a manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from torchreid_xres.data.base import ROLES, CrossResolutionDataset
from torchreid_xres.data.options import DATASETS, dataset_options
from torchreid_xres.data.protocol import Manifest, file_sha256
from torchreid_xres.data.walk import OTHER, SPECIAL, UNREADABLE, walk_images
from torchreid_xres.files import remove_scratch, whole_file
from torchreid_xres.terminal import progress

# Of what is beside the images: hidden files do not count as extra.
_COMPARED = (OTHER, UNREADABLE, SPECIAL)
FORMATS = {"png": "PNG", "jpg": "JPEG"}
MANIFEST, PROTOCOL, TABLE, UNFINISHED = "manifest.json", "protocol.json", "images.csv", "unfinished.json"


@dataclass(frozen=True)
class WrittenSet:
    """What :func:`write_set` did.

    Attributes:
        manifest: of the written files.
        found: images that were there from an earlier call.
        unchanged: images written now that have the loader's very pixels.
        psnr: of the other ones written now, mean in dB; None if there are none.
    """

    manifest: Manifest
    found: int
    unchanged: int
    psnr: float | None


def written_name(role: str, pid: int, camid: int, number: int, suffix: str) -> str:
    """Return what an image is called: identity, camera and frame as in Market-1501.

    Args:
        role: ``train``, ``query`` or ``gallery``: the folder.
        pid: identity in the set's own numbers; -1 (junk) stays -1.
        camid: camera, from 0; names count from 1.
        number: position in its part of the split, from 0.
        suffix: ``png`` or ``jpg``.

    Example:
        >>> written_name("query", 2, 0, 451, "png")
        'query/0002_c1s1_000451_00.png'
    """
    identity = f"{pid:04d}" if pid >= 0 else str(pid)
    return f"{role}/{identity}_c{camid + 1}s1_{number:06d}_00.{suffix}"


def write_set(
    name: str,
    root: str | Path,
    out: str | Path,
    *,
    split_id: int = 0,
    options: Mapping[str, Any] | None = None,
    suffix: str = "png",
    quality: int = 95,
) -> WrittenSet:
    """Write one split of a set as the protocol's cameras saw it; called again, it goes on where it was stopped.

    ``out`` gets the folders ``train``, ``query`` and ``gallery``, and

    - ``manifest.json``, the :class:`~torchreid_xres.data.protocol.Manifest` of the written files: of each the rate, the
      checksum and ``source``, the file it was made from. It is written last: where it is, all is there;
    - ``protocol.json``, that of the set itself, whose hash the records of runs name;
    - ``images.csv``, with which the data set ``folder`` reads the result.

    Args:
        name: a data set of ours.
        root: folder that holds the sets.
        out: a new or empty folder, or that of an earlier call with the same arguments.
        split_id: which split.
        options: of the set: the protocol's common ones (seed, kernel, rates, query_rate) and its own.
        suffix: ``png``, which keeps every pixel, or ``jpg``.
        quality: of JPEG, 1 to 100; colours are not sub-sampled.

    Raises:
        KeyError: if there is no such set.
        ValueError: for an option, split, format or quality that cannot be, or a folder with something else in it.
        OSError: for an image that cannot be read (the message names it) or written.
    """
    if suffix not in FORMATS:
        raise ValueError(f"no format {suffix!r}; there are: {', '.join(FORMATS)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"a JPEG quality is 1 to 100, not {quality}")
    out = Path(out).expanduser().absolute()
    begun = any((out / name).is_file() for name in (MANIFEST, UNFINISHED))
    if not begun and out.is_dir() and any(out.iterdir()):  # before a set is read
        raise ValueError(f"{out} holds other files; name a new or an empty folder")
    dataset = _protocol_set(name, root, split_id, options or {})
    protocol = dataset.manifest
    how = {"format": suffix, "quality": quality if suffix == "jpg" else None, "protocol": protocol.sha256}
    earlier = _claimed(out, protocol, how)

    listed = [
        (written_name(role, image.pid, image.camid, number, suffix), role, image)
        for role in ROLES
        for number, image in enumerate(getattr(dataset.split, role))
    ]
    images, errors, found = {}, [], 0
    for file, _, image in progress(listed, desc=f"writing {name}", unit="image"):
        path = out / file
        if path.is_file() and earlier.get(file) in (None, digest := file_sha256(path)):
            found += 1
        else:
            digest, error = _write(dataset.seen(image.path), path, quality)
            errors.append(error)
        images[file] = {"rate": dataset.rate_of[image.path], "sha256": digest, "source": dataset.names[image.path]}

    _write_table(listed, out / TABLE)
    protocol.save(out / PROTOCOL)
    manifest = replace(protocol, images=images, options={**protocol.options, "written": how})
    manifest.save(out / MANIFEST)
    (out / UNFINISHED).unlink(missing_ok=True)
    ratios = [10 * math.log10(255**2 / error) for error in errors if error]
    return WrittenSet(manifest, found, len(errors) - len(ratios), float(np.mean(ratios)) if ratios else None)


def verify_written(folder: str | Path) -> dict[str, str]:
    """Compare a folder that :func:`write_set` made with its manifest.

    Returns:
        File name -> ``missing``, ``changed``, ``extra`` or, of what cannot be looked at, ``unseen``; empty if all is as
        written. Hidden files, and what systems put there, do not count.

    Raises:
        FileNotFoundError: if the folder has no manifest: it is no written set, or not yet a whole one.
        ValueError: if the manifest is damaged.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        begun = ", its writing was not finished" if (folder / UNFINISHED).is_file() else ", it is no written set"
        raise FileNotFoundError(f"{folder} has no {MANIFEST}{begun}")
    manifest = Manifest.load(folder / MANIFEST)
    known = {*manifest.images, MANIFEST, PROTOCOL, TABLE, UNFINISHED}
    found = walk_images(folder)
    present = {*found.images, *(name for reason in _COMPARED for name in found.left_out.get(reason, []))}
    beside = {**dict.fromkeys(present - known, "extra"), **dict.fromkeys(found.unseen.keys() - known, "unseen")}
    return dict(sorted({**manifest.verify(folder), **beside}.items()))


def verify_source(manifest: Manifest, root: str | Path) -> dict[str, str]:
    """Compare a set, where its reader finds it, with a manifest.

    Args:
        manifest: as a run leaves it in its folder, or the ``protocol.json`` of a written set.
        root: folder that holds the sets.

    Returns:
        File name -> ``missing``, ``changed``, ``extra`` (the manifest has no such image) or ``at rate ...`` (the
        manifest has it at another one); empty if all is as recorded.

    Raises:
        KeyError: if there is no such set.
        ValueError: if the manifest is that of a written set, or the reader finds something that cannot be.
        OSError: if there is no such set below ``root``.
    """
    options = dict(manifest.options)
    if "written" in options:
        raise ValueError(f"this is the manifest of a written set; its source is described by {PROTOCOL} beside it")
    if "check_counts" in options:
        options["check_counts"] = False  # so that missing files are named, not counted
    for key in ("kernel", "rates", "query_rate", "seed"):
        options[key] = getattr(manifest, key)
    dataset = _protocol_set(manifest.dataset, root, manifest.split_id, options)
    faults = manifest.verify(dataset.split.folder)
    for path, rate in dataset.rate_of.items():
        source = dataset.names[path]
        if source not in manifest.images:
            faults[source] = "extra"
        elif manifest.images[source]["rate"] != rate:
            faults.setdefault(source, f"at rate {rate} instead of {manifest.images[source]['rate']}")
    return dict(sorted(faults.items()))


def _protocol_set(name: str, root: str | Path, split_id: int, options: Mapping[str, Any]) -> CrossResolutionDataset:
    if options.get("pictures"):
        raise ValueError(f"{name}: the option 'pictures' has no place here, the protocol is made of the set's files")
    with dataset_options({name: options}):
        return DATASETS[name].build(root=str(root), split_id=split_id, mode="query", verbose=False)


def _claimed(out: Path, protocol: Manifest, how: Mapping[str, Any]) -> dict[str, str]:
    """Make a folder that of a set written in one way, or find that it is; return the checksums that are known.

    Raises:
        ValueError: if it holds something else.
    """
    if (out / MANIFEST).is_file():
        manifest = Manifest.load(out / MANIFEST)
        held = manifest.options.get("written")
        checksums = {file: image["sha256"] for file, image in manifest.images.items()}
    elif (out / UNFINISHED).is_file():
        held, checksums = json.loads((out / UNFINISHED).read_text(encoding="utf-8")), {}
    else:
        held, checksums = how, {}
        with whole_file(out / UNFINISHED) as scratch:
            scratch.write_text(json.dumps(how), encoding="utf-8")
    if held != how:
        raise ValueError(f"{out} holds a set written as {held}; {protocol.dataset} as {how} needs a folder of its own")
    remove_scratch(out)
    return checksums


def _write(img: PIL.Image.Image, path: Path, quality: int) -> tuple[str, float]:
    """Write an image; return the file's checksum, and its mean squared error in grey levels."""
    file = io.BytesIO()
    lossless = path.suffix == ".png"
    if lossless:
        img.save(file, "PNG")
    else:
        img.save(file, "JPEG", quality=quality, subsampling=0)
    with whole_file(path) as scratch:
        scratch.write_bytes(file.getvalue())
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    if lossless:
        return digest, 0.0
    with PIL.Image.open(file) as lossy:
        return digest, float(((np.asarray(lossy, np.float64) - np.asarray(img)) ** 2).mean())


def _write_table(listed: Iterable[Sequence], path: Path) -> None:
    with whole_file(path) as scratch, open(scratch, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "identity", "camera", "split"))
        table.writerows((name, image.pid, image.camid + 1, role) for name, role, image in listed)
