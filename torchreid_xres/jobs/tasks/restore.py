"""The stage that restores a data set: every image once, as a pyramid of pictures on disk.

Each image of train, query and gallery becomes ``x2``, ``x3`` and ``x4``, beside ``x1``, the image as the camera saw it
(Peng et al., Science China Information Sciences 2024, equations 1 and 2). Re-ID networks then train on one of these
folders (``data.pictures``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.data.base import CrossResolutionDataset
from torchreid_xres.data.degrade import low_size
from torchreid_xres.data.io import BITS, FAST, image_size, save_image
from torchreid_xres.devices import distributed
from torchreid_xres.devices.precision import autocast
from torchreid_xres.devices.proof import proved_precision
from torchreid_xres.features.record import machine, weights_hash
from torchreid_xres.files import whole_file
from torchreid_xres.jobs.run import TASKS, Run
from torchreid_xres.models import build_model
from torchreid_xres.models.weights import load_weights
from torchreid_xres.sr.pyramid import BATCH_PIXELS, Pyramid, PyramidRestorer
from torchreid_xres.terminal import progress

logger = logging.getLogger(__name__)

LEVELS = ("x1", *Pyramid._fields)
DONE = "restored.jsonl"


class Picture(NamedTuple):
    """One image of a data set, and where its pictures go."""

    name: str  # as in the manifest
    path: str
    rate: float  # 1 where the low resolution is the file's own
    key: str  # SHA-256 over all that its pictures depend on
    dataset: CrossResolutionDataset

    def files(self, folder: Path) -> list[Path]:
        """Return the pictures' paths, in the order of ``LEVELS``."""
        return [folder / level / f"{self.name}.png" for level in LEVELS]


@TASKS.register("restore", together=True)
def restore(run: Run) -> list[dict]:
    """Write the pyramids of a run's data sets into its folder.

    The restorer is ``model.name prpr_restorer`` with ``model.options`` and the weights ``model.load_weights``.

    Returns:
        One record: images in all, those restored (by stopped calls, too), and the seconds of the last call.

    Raises:
        ConfigError: for another model, missing weights, or a data set that is not this package's.
    """
    cfg = run.cfg
    if cfg.model.name != "prpr_restorer" or not cfg.model.load_weights:
        raise ConfigError(
            "the task 'restore' needs model.name prpr_restorer and its weights, model.load_weights; they are "
            f"{cfg.model.name!r} and {cfg.model.load_weights!r}"
        )
    model = build_model(cfg.model.name, **as_dict(cfg.model.options))
    load_weights(model, file_of(cfg, cfg.model.load_weights), strict=True)
    if cfg.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    datasets = _datasets(run)
    facts = write_pyramids(
        model.to("cuda" if cfg.use_gpu else "cpu"),
        datasets,
        run.folder,
        batch_size=cfg.test.batch_size,
        workers=cfg.data.workers,
        precision=proved_precision(model, (2, 3, cfg.data.height // 2, cfg.data.width // 2), cfg.train.precision),
    )
    manifests = {name: dataset.manifest.sha256 for name, dataset in datasets.items()}
    facts |= {"manifests": manifests, "machine": machine()}
    return [{"task": "restore", "model": run.label, "stage": run.stage, **facts, "restored": facts["images"]}]


def _datasets(run: Run) -> dict[str, CrossResolutionDataset]:
    datasets = run.datamanager().sets()
    for dataset in datasets.values():
        if not isinstance(dataset, CrossResolutionDataset):
            raise ConfigError(f"torchreid's own {type(dataset).__name__} cannot be restored, only sets of this package")
    return datasets


def write_pyramids(
    model: PyramidRestorer,
    datasets: Mapping[str, CrossResolutionDataset],
    folder: Path,
    *,
    batch_size: int = 100,
    workers: int = 0,
    precision: str = "fp32",
) -> dict:
    """Restore every image of some data sets that is not restored yet.

    A line in ``restored.jsonl`` tells what an image's pictures were made from (source file, rate, kernel, restorer):
    they are made again if that changes, or if one is missing. A stopped call goes on with the images it was at.
    (Images of one size share a batch. A stop makes other batches, which may round a pixel otherwise; so do several
    processes, each of which takes a part of the images.)

    Args:
        model: the restorer, on the device it is to run on.
        datasets: the sets by name; all their parts are restored.
        folder: ``<folder>/<x1, x2, x3 or x4>/<manifest name>.png`` are written, as 8-bit RGB.
        batch_size: largest batch; large images make it smaller.
        workers: processes that read, and threads that write; 0: this one reads, and one writes.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Returns:
        ``images`` in all, those ``restored`` now, ``seconds`` (reading and writing included), and
        ``seconds_per_1000`` images, None where nothing was to do.

    Raises:
        ValueError: if two data sets have different images of one name.
        OSError: if an image cannot be read or a picture not be written; what is done stays done.
    """
    model.eval()
    device = next(model.parameters()).device
    restorer = f"{model.residual} {precision} {weights_hash(model)}"
    pictures = _pictures(datasets, restorer)
    # By one, before another begins to write.
    todo = distributed.on_main(lambda: _names_to_do(folder, pictures))
    mine = [pictures[name] for name in todo[distributed.process() :: distributed.world()]]
    start = time.perf_counter()
    loader = DataLoader(_SeenImages(mine), batch_size=None, num_workers=workers)
    bar = progress(main=distributed.is_main(), total=len(mine), desc="restore", unit="image")
    with torch.inference_mode(), _Writer(folder, max(1, workers)) as writer, bar:
        names = iter(mine)
        writing: list[Future] = []
        for batch in _batches(loader, batch_size):
            with autocast(device, precision):
                restored = model(batch.to(device).float() / 255)
            # (N, 3, h, w) in [0, 1] -> (N, h, w, 3) in 8 bits
            levels = [batch, *((image.float() * 255).round().byte() for image in restored)]
            arrays = [level.permute(0, 2, 3, 1).cpu().numpy() for level in levels]
            for picture in writing:  # of the batch before: they were written while this one was restored
                picture.result()
            bar.update(len(batch))
            writing = [writer.submit(p, images) for p, *images in zip(islice(names, len(batch)), *arrays, strict=True)]
        for picture in writing:
            picture.result()
    distributed.wait()
    seconds = time.perf_counter() - start
    facts = {
        "images": len(pictures),
        "restored": len(todo),
        "seconds": round(seconds, 2),
        "seconds_per_1000": round(1000 * seconds / len(todo), 2) if todo else None,
    }
    logger.info("restored %(restored)d of %(images)d images in %(seconds).1f s", facts)
    return facts


def _pictures(datasets: Mapping[str, CrossResolutionDataset], restorer: str) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    for dataset in datasets.values():
        for path, name in dataset.names.items():
            rate, checksum = dataset.down_sampling(path), dataset.manifest.images[name]["sha256"]
            source = f"{dataset.name} {checksum} {rate} {dataset.options['kernel']}"
            if dataset.options["grey_bits"] != BITS:
                source += f" {dataset.options['grey_bits']} bits"
            key = hashlib.sha256(f"{source} {restorer}".encode()).hexdigest()
            made = Picture(name, path, rate, key, dataset)
            other = pictures.setdefault(name, made)
            if other is not made:
                raise ValueError(
                    f"{dataset.name} and {other.dataset.name} both have an image {name!r}; restore them in two stages"
                )
    return pictures


def _names_to_do(folder: Path, pictures: Mapping[str, Picture]) -> list[str]:
    done = _still_true(folder, pictures)
    todo = [p for p in pictures.values() if p.name not in done or not all(f.is_file() for f in p.files(folder))]
    return [p.name for p in sorted(todo, key=_seen_size)]  # so that a batch fills up


def _seen_size(picture: Picture) -> tuple[int, int]:
    return low_size(*image_size(picture.path), picture.rate)


def _still_true(folder: Path, pictures: Mapping[str, Picture]) -> set[str]:
    """Return the images that the records in ``folder`` rightly call restored; one record with no other lines is left.

    Before anything is written: a stopped call must not leave a line that says what its pictures were before.
    """
    kept = {}
    records = sorted(folder.glob(_record_of("*")))
    for path in (folder / DONE, *records):
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                name, key = entry["name"], entry["key"]
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a kill
            if name not in pictures or pictures[name].key == key:
                kept[name] = key
    with whole_file(folder / DONE) as scratch:
        scratch.write_text("".join(_line(*entry) for entry in kept.items()), encoding="utf-8")
    for path in records:
        path.unlink()
    return kept.keys() & pictures.keys()


def _record_of(process: int | str) -> str:
    """Return the name of the record that a process besides the first one keeps, until the next call."""
    return f"{Path(DONE).stem}.{process}.jsonl"


def _line(name: str, key: str) -> str:
    return json.dumps({"name": name, "key": key}) + "\n"


class _SeenImages(Dataset):
    def __init__(self, pictures: list[Picture]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        picture = self.pictures[index]
        return pil_to_tensor(picture.dataset.seen(picture.path))  # (3, h, w), 8 bits


def _batches(images: Iterable[Tensor], largest: int) -> Iterator[Tensor]:
    """Join neighbours of one size into (N, 3, h, w)."""
    batch: list[Tensor] = []
    for image in images:
        room = max(1, min(largest, BATCH_PIXELS // image[0].numel()))
        if batch and (image.shape != batch[0].shape or len(batch) == room):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)


class _Writer:
    """Threads that write pictures, each image's line in the record last."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(threads)
        self.lock = Lock()

    def __enter__(self) -> _Writer:
        name = DONE if distributed.is_main() else _record_of(distributed.process())
        self.record = open(self.folder / name, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.record.close()

    def submit(self, picture: Picture, levels: Sequence[np.ndarray]) -> Future:
        """Write an image's levels, (h, w, 3) in 8 bits each."""
        return self.pool.submit(self._write, picture, levels)

    def _write(self, picture: Picture, levels: Sequence[np.ndarray]) -> None:
        for path, level in zip(picture.files(self.folder), levels, strict=True):
            save_image(PIL.Image.fromarray(level), path, **FAST)
        with self.lock:
            self.record.write(_line(picture.name, picture.key))
            self.record.flush()
