"""Whether every row of a suite at the papers' sizes would run, and how long it would take, before one has the set.

    xres bench --suite mlr_market --dry
    xres bench --suite veri776_x8 --dry --only resnet50 kgnet --images-a-second 400

Drawn people and vehicles stand in for the set, under its real folders and names. Of every row each stage is built at
its size, takes one step on a small batch, and the last one is evaluated. What a row takes on the set is reckoned from
that: seconds an image, times its images, times its epochs. Against a resnet50 that takes its steps beside, it becomes
an estimate for another machine: ``--images-a-second`` says on how many images that one trains resnet50 (fp32).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
from cells import TIMED, at_home, multiply_adds, parameters, run_again, runs_of, training_speed
from suites import Row, Suite, configured
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, stage_configs
from torchreid_xres.data.base import DATASETS
from torchreid_xres.data.split import Image, Split
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.run import Run
from torchreid_xres.terminal import printable
from torchreid_xres.text import text_table

BATCH = 8
REFERENCE = "resnet50"
SMALL = {"train_identities": 12, "test_identities": 6, "cameras": 3, "images_per_camera": 2}


def like_market(split: Split, folder: Path) -> None:
    """Lay drawn people out as Market-1501 is."""
    parts = {"bounding_box_train": split.train, "query": split.query, "bounding_box_test": split.gallery}
    for part, images in parts.items():
        for image in images:
            _copy(image, folder / "market1501" / "Market-1501-v15.09.15" / part / Path(image.path).name)


def like_cuhk03(split: Split, folder: Path) -> None:
    """Lay drawn people out as torchreid leaves CUHK03."""
    home, queries = folder / "cuhk03", []
    images = [image for image in [*split.train, *split.query, *split.gallery] if image.camid < 2]
    persons = {pid: number for number, pid in enumerate(dict.fromkeys(image.pid for image in images), 1)}
    taken: Counter[tuple[int, int]] = Counter()
    for image in images:
        taken[image.pid, image.camid] += 1
        slot = 5 * image.camid + taken[image.pid, image.camid]
        name = f"1_{persons[image.pid]:03d}_{image.camid + 1}_{slot:02d}.png"
        _copy(image, home / "images_detected" / name)
        queries += [[name, 0, 0]] if image in split.query else []
    one = {"train": [], "query": queries, "gallery": []}
    (home / "splits_classic_detected.json").write_text(json.dumps([one] * 20), encoding="utf-8")


def like_veri(split: Split, folder: Path) -> None:
    """Lay drawn vehicles out as VeRi-776 is, with its keypoints."""
    home = folder / "VeRi"
    lines = {Path(line.split()[0]).name: line.split(" ", 1)[1]
             for line in (Path(split.folder) / "keypoints.txt").read_text(encoding="utf-8").splitlines()}  # fmt: skip
    parts = {"image_train": split.train, "image_query": split.query, "image_test": split.gallery}
    points: dict[str, list[str]] = {"train": [], "test": []}
    for part, images in parts.items():
        for image in images:
            name = Path(image.path).name
            _copy(image, home / part / name)
            points["train" if part == "image_train" else "test"].append(f"{part}/{name} {lines[name]}")
    for kind, text in points.items():
        (home / f"keypoint_{kind}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")


def _copy(image: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image.path, path)


# Data set -> who stands in for it, how it is laid out, and its training images as its protocol has them.
STAND_INS: dict[str, tuple[str, Callable[[Split, Path], None], int]] = {
    "mlr_market1501": ("synth_person", like_market, 12936),
    "mlr_cuhk03": ("synth_person", like_cuhk03, 13136),
    "veri776_x8": ("synth_vehicle", like_veri, 37778),
}


def stand_in(name: str, folder: Path) -> Path:
    """Draw what stands in for a data set below a folder, and return the root for ``data.root``.

    Raises:
        ConfigError: if nothing does.
    """
    if name not in STAND_INS:
        raise ConfigError(f"--dry knows the folders of {', '.join(STAND_INS)}, not those of {name}")
    drawn, lay_out, _ = STAND_INS[name]
    root = folder / name
    if not root.is_dir():
        split = DATASETS[drawn].build(root=str(folder / "drawn"), verbose=False, **SMALL).split
        scratch = folder / f".{name}"
        shutil.rmtree(scratch, ignore_errors=True)
        lay_out(split, scratch)
        scratch.rename(root)
    return root


def dry_changes(row: Row, root: Path) -> list[Any]:
    """Return what is changed in a row so that each of its stages takes one step on a small batch."""
    cfg = configured(row, 1, [])
    (name,) = cfg.data.sources
    changes = ["data.root", str(root), "data.num_splits", 1, "data.workers", 0, "use_gpu", False]
    for stage, own in stage_configs(cfg).items():
        at = f"stages.{stage}." if stage else ""
        small = {
            "train.max_epoch": 1, "train.epoch_batches": 1, "train.fixbase_epoch": 0, "train.warmup_epochs": 0,
            "train.precision": "fp32", "train.batch_size": min(BATCH, own.train.batch_size), "test.batch_size": BATCH,
            "model.pretrained": False, "sampler.num_instances": min(2, own.sampler.num_instances),
            f"data.options.{name}.check_counts": False,
        }  # fmt: skip
        changes += [part for key, value in small.items() for part in (at + key, value)]
    return changes


def dry_row(row: Row, root: Path, out: Path) -> dict[str, Any]:
    """Run a row dry, and return what it is and takes: sizes, peak of memory, and processor seconds on the real set."""
    real = configured(row, 1, [])
    images = STAND_INS[real.data.sources[0]][2]
    cfg = at_home(row, configured(row, 1, dry_changes(row, root)), out)
    before = measure.start_of_peak()
    _, ends = run_again(cfg, out)
    peak = None if before is None else measure.peak()
    seconds = 0.0
    for run in runs_of(cfg, out):
        if run.cfg.task == "train":
            planned = stage_configs(real)[run.stage].train
            each = min(images, planned.epoch_batches * planned.batch_size or images)
            seconds += planned.max_epoch * each / training_speed(Run.load(run.folder))
    figures = {"row": row.label, "seconds": seconds * real.data.num_splits, "MB": peak}
    if ends[0].cfg.task != "fuse":
        _, engine = trained_engine(ends[0].folder)
        query, gallery = (engine.test_loader[cfg.data.targets[0]][role].dataset for role in ("query", "gallery"))
        figures |= {"params": parameters(engine, query, gallery), "adds": multiply_adds(engine, query)}
    return figures


def dry(suite: Suite, rows: list[Row], out: Path, speed: float) -> int:
    """Run rows dry, print what they would take, and return the exit status: 1 if one cannot be run.

    Args:
        suite: a suite at the papers' sizes.
        rows: of it.
        out: folder for the stand-ins and runs.
        speed: images a second on which another machine trains resnet50; 0: none is asked for.

    Raises:
        ConfigError: if nothing stands in for the suite's data set.
    """
    root = stand_in(dict(zip(suite.common[::2], suite.common[1::2], strict=True))["data.sources"][0], out / "stand_ins")
    here = training_speed(_reference(suite, root, out))
    lines, wrong = [], {}
    for row in rows:
        print(f"\n{row.label}", flush=True)
        try:
            told = dry_row(row, root, out)
        except Exception as error:  # whatever is wrong with one row is no reason to leave the others out
            wrong[row.label] = f"{type(error).__name__}: {error}"
            continue
        line = {
            "model": row.label,
            "params (M)": f"{told['params'] / 1e6:.2f}" if "params" in told else "-",
            "multiply-adds (G)": f"{told['adds'] / 1e9:.2f}" if "adds" in told else "-",
            f"batch of {BATCH}, peak MB": f"{told['MB']:.0f}" if told["MB"] else "-",
            "here (h)": f"{told['seconds'] / 3600:.0f}",
        }
        lines.append(line | ({"there (h)": f"{told['seconds'] * here / speed / 3600:.1f}"} if speed else {}))
    print(f"\n{suite.about}\n\n{text_table(lines, 'github')}" if lines else "")
    print(
        f"\nOne seed, all splits and stages; hours of training alone, from {TIMED} steps of {BATCH} images each, fp32, "
        f"on one thread of {measure.processor_name()}, where {REFERENCE} trains on {here:.1f} images a second."
    )
    for label, reason in wrong.items():
        print(f"cannot be run: {label}: {printable(reason)}")
    print(f"next: xres bench --suite {suite.name} --root DATA")
    return 1 if wrong else 0


def _reference(suite: Suite, root: Path, out: Path) -> Run:
    row = suite.rows[REFERENCE]
    cfg: CfgNode = at_home(row, configured(row, 1, dry_changes(row, root)), out)
    return runs_of(cfg, out)[-1]
