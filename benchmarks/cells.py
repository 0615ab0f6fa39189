"""A cell of the benchmark of the field: a row of a suite under one seed, trained, evaluated and measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from provenance import made_by, origin, origin_of_all
from suites import Row
from throughput import our_calls
from yacs.config import CfgNode

from torchreid_xres.comparison.complexity import Complexity, complexity
from torchreid_xres.config import ConfigError, config_hash, stage_configs
from torchreid_xres.data.base import DATASETS
from torchreid_xres.data.batches import collated
from torchreid_xres.devices.parallel import to_device
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.features.features import FeatureSet, evaluate_features
from torchreid_xres.features.fusion import fused_sets
from torchreid_xres.features.record import magnification, magnified
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import run_features, trained_engine
from torchreid_xres.jobs.job import after_training, own_runs, run_job
from torchreid_xres.jobs.logs import logged_to
from torchreid_xres.jobs.run import Run
from torchreid_xres.jobs.tasks.panning import load_panning, moved
from torchreid_xres.jobs.tasks.vpfa import opened
from torchreid_xres.models.vpfa import PANNINGS
from torchreid_xres.pictures.lists import RankedLists

TIMED = 2  # batches of training, and of queries and gallery each, that are timed


def run_cell(row: Row, cfg: CfgNode, out: Path) -> dict:
    """Train and evaluate a row under one seed, and measure what it costs.

    Args:
        row: of a suite.
        cfg: its configuration, from :func:`configured`.
        out: folder of the suite; all stages but the last are shared with other cells there.

    Returns:
        ``records`` (the last stage's, one for each split), ``queries`` (see :func:`figures_of_queries`), ``cost`` and
        ``origin``.
    """
    cfg = at_home(row, cfg, out)
    runs = runs_of(cfg, out)
    begun = {run.folder for run in runs if run.folder.exists()}
    before = measure.start_of_peak()
    records, ends = run_again(cfg, out)
    peak = None if before is None else round(measure.peak())
    last = list(stage_configs(cfg))[-1]
    own = [record for record in records if record["stage"] == last]
    queries = [
        figures_of_queries(*tested(end), rec["protocol"], end.split, cfg.data.height)
        for end, rec in zip(ends, own, strict=True)
    ]
    made = [made_by(run.folder, origin(own[0]), peak, run.folder in begun) for run in runs]
    peaks = [part["peak_mb"] for part in made]
    cost = cost_of(ends[0].folder) | {"peak_mb": None if None in peaks else max(peaks)}
    for key in ("train_seconds", "train_processor_seconds"):
        cost[key] = round(sum(record.get(key, 0.0) for record in records) / len(ends), 1)
    return {"records": own, "queries": joined(queries), "cost": cost, "origin": origin_of_all(made)}


def features_cell(row: Row, seed: int, manifests: Mapping[tuple[str, int], str]) -> dict:
    """Return the cell of features that were extracted elsewhere, under the suite's protocol.

    Args:
        row: its ``config`` names folders that hold ``query.npz`` and ``gallery.npz``, separated by commas.
        seed: which of them, from 1.
        manifests: those of the suite's finished cells, by data set and split.

    Raises:
        ConfigError: if the features are of other images or rates than the suite's.
    """
    folder = Path(row.config.split(",")[seed - 1])
    query, gallery = (FeatureSet.load(folder / f"{role}.npz") for role in ("query", "gallery"))
    wanted = manifests.get((query.dataset, 0))
    if wanted is None:
        raise ConfigError(f"{row.label}: there is no finished cell of {query.dataset} yet to compare features with")
    if query.manifest_sha256 != wanted:
        raise ConfigError(
            f"{row.label}: the features in {folder} are of another protocol: their manifest is "
            f"{query.manifest_sha256[:12] or 'missing'}, the suite's {wanted[:12]}"
        )
    protocol = {"protocol": DATASETS[query.dataset].build.metric, "draws": 10, "seed": 0}
    record = evaluate_features(query, gallery, **protocol)
    found = magnification(row.height, query.size, query.low)
    figures = figures_of_queries(query, gallery, record["protocol"], 0, row.height)
    facts = {"split_id": 0, "stage": "", "magnification": found}
    return {"records": [record | facts], "queries": figures, "cost": None, "origin": {"commit": "features given"}}


def at_home(row: Row, cfg: CfgNode, out: Path) -> CfgNode:
    """Return the configuration of a cell with the folder that its job works in."""
    cfg = cfg.clone()
    cfg.data.save_dir = str(out / "runs" / f"{row.label}_{config_hash(cfg)[:12]}")
    return cfg


def runs_of(cfg: CfgNode, out: Path) -> list[Run]:
    """Return the runs of a cell, split by split, the last stage's at the end of each."""
    splits = range(cfg.data.split_id, cfg.data.split_id + cfg.data.num_splits)
    return [run for split in splits for run in own_runs(cfg, split, Path(cfg.data.save_dir), out / "shared")]


def run_again(cfg: CfgNode, out: Path) -> tuple[list[dict], list[Run]]:
    """Run the job of a cell, or what is not done of it.

    Returns:
        Its records, and its last run for each split.
    """
    with logged_to(cfg.data.save_dir, "train"):
        records = run_job(cfg, shared=out / "shared")
    last = list(stage_configs(cfg))[-1]
    return records, [run for run in runs_of(cfg, out) if run.stage == last]


def run_vpfa(row: Row, cfg: CfgNode, out: Path) -> dict:
    """Learn the modules ``vpfa.modules`` for a row that is trained.

    Returns:
        ``parts``: for features as they are (``before``) and with those of low images moved by each module, by its
        label, ``records`` (one for each split; none for those before) and ``queries``.
    """
    cfg = cfg.clone()
    cfg.vpfa.enabled = True
    cfg = at_home(row, cfg, out)
    records, ends = run_again(cfg, out)
    labels = {name: PANNINGS[name].meta["label"] for name in cfg.vpfa.modules}
    found: dict[str, dict] = {label: {"records": [], "queries": []} for label in ("before", *labels.values())}
    for name, label in labels.items():
        stage = "vpfa" if name == cfg.vpfa.modules[-1] else f"vpfa, {name}"
        found[label]["records"] = [record for record in records if record["stage"] == stage]
    for run in after_training(cfg, ends):
        start = opened(run)
        how = (records[-1]["protocol"], run.split, cfg.data.height)
        found["before"]["queries"].append(figures_of_queries(start.query, start.gallery, *how))
        for name, label in labels.items():
            module, _ = load_panning(run.folder / f"{name}.pth.tar")
            after = [moved(module, part, start.rates) for part in (start.query, start.gallery)]
            found[label]["queries"].append(figures_of_queries(*after, *how))
    return {"parts": {label: {**part, "queries": joined(part["queries"])} for label, part in found.items()}}


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the figures of the queries of all splits in a row."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def tested(run: Run) -> tuple[FeatureSet, FeatureSet]:
    """Return the features of a finished run's queries and gallery; those of a fusion are put together."""
    roles = ("query", "gallery")
    if run.cfg.task == "fuse":
        branches = [run_features(folder, roles) for folder in run.cfg.fusion.branches]
        weights = Run.load(run.folder).cfg.fusion.weights  # given, or chosen
        sets = fused_sets(*([branch[role] for branch in branches] for role in roles), weights)
    else:
        sets = run_features(run.folder, roles)
    return sets["query"], sets["gallery"]


def figures_of_queries(
    query: FeatureSet, gallery: FeatureSet, protocol: Mapping[str, Any], split: int, height: int
) -> dict[str, np.ndarray]:
    """Return arrays with an entry for each query.

    Returns:
        ``pid`` and ``split``; ``rate`` of the protocol; ``low``; ``magnification`` by the network (of input height
        ``height``); ``first``: place of the first match, the mean over draws; ``rank1`` and ``mAP`` (its average
        precision) in per cent. The last three are NaN for a query without a match.
    """
    lists = RankedLists(query, gallery, protocol)
    return {
        "pid": query.pid.astype(np.int32),
        "split": np.full(len(query), split, np.int16),
        "rate": query.rate.astype(np.float32),
        "low": query.low,
        "magnification": magnified(height, query.size).astype(np.float32),
        "first": lists.rank.astype(np.float32),
        "rank1": (100 * lists.rank1).astype(np.float32),
        "mAP": (100 * lists.ap).astype(np.float32),
    }


def cost_of(folder: Path) -> dict[str, float]:
    """Return size, multiply-adds and speeds of the network that was trained, or put together, in a folder."""
    run = Run.load(folder)
    if run.cfg.task == "fuse" and not (folder / LAST).is_file():  # an ensemble: as many networks
        parts = [cost_of(Path(part)) for part in run.cfg.fusion.branches]
        sums = {key: sum(part[key] for part in parts) for key in ("parameters", "multiply_adds")}
        speeds = ("train_speed", "extraction_speed")
        return sums | {key: round(1 / sum(1 / part[key] for part in parts), 1) for key in speeds}
    trained = run.cfg.fusion.branches if run.cfg.task == "fuse" else [folder]
    train_speed = 1 / sum(1 / training_speed(Run.load(part)) for part in trained)
    _, engine = trained_engine(folder)
    loaders = engine.test_loader[run.cfg.data.targets[0]]
    return {
        "parameters": parameters(engine, loaders["query"].dataset, loaders["gallery"].dataset),
        "multiply_adds": multiply_adds(engine, loaders["query"].dataset),
        "train_speed": round(train_speed, 1),
        "extraction_speed": round(extraction_speed(engine, loaders), 1),
    }


def training_speed(run: Run) -> float:
    """Return images a second over some training steps, after as many that do not count; the weights stay on disk."""
    train = our_calls(run, TIMED)["training"]
    train()
    start = measure.clock()
    train()
    return TIMED * run.cfg.train.batch_size / (measure.clock() - start)


@torch.no_grad()
def parameters(engine: XresMixin, queries: Any, gallery: Any) -> int:
    """Return how many a query of some rate, or a gallery image, reads: what only training has does not count."""
    seen = [queries[index] for index in first_of_rates(queries)]
    found = counted(engine, [*seen, gallery[0]])
    return found.parameters - found.unused


@torch.no_grad()
def multiply_adds(engine: XresMixin, dataset: Any) -> float:
    """Return those of one query, the mean over the rates that queries have; the first of each rate is taken."""
    return float(np.mean([counted(engine, [dataset[index]]).multiply_adds for index in first_of_rates(dataset)]))


def first_of_rates(dataset: Any) -> list[int]:
    """Return the first image of each rate."""
    rates: dict[float, int] = {}
    for index, (path, *_) in enumerate(dataset.data):
        rates.setdefault(dataset.rate_of[path], index)
    return list(rates.values())


def counted(engine: XresMixin, items: list[dict]) -> Complexity:
    """Return what a network needs for a few images."""
    model = unwrap(engine.model)
    batch = to_device(collated(items), next(model.parameters()).device)
    return complexity(model, batch if hasattr(model, "extract") else batch["img"], depth=0)


@torch.no_grad()
def extraction_speed(engine: XresMixin, loaders: Mapping[str, Any]) -> float:
    """Return images a second, over the first batches of queries and gallery after one that does not count."""
    images, seconds = 0, 0.0
    for role in ("query", "gallery"):
        batches = iter(loaders[role])
        for number in range(TIMED + 1):
            start = measure.clock()
            batch = next(batches, None)
            if batch is None:
                break
            with engine.proof.autocast():
                engine.extract(batch).float().cpu()
            if number or len(loaders[role]) == 1:
                images, seconds = images + len(batch["pid"]), seconds + measure.clock() - start
    return images / seconds
