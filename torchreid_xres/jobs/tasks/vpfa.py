"""VPFA's task: learn from a trained run's features of training images to move those of low images.

The modules are in ``models/vpfa.py``. Only training images are learned from. Settings that a configuration leaves open
(``vpfa.search``) are chosen on the validation part, or else on training identities kept out of the fit; the test set is
looked at once, at the end.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.engine.base import XresMixin
from torchreid_xres.features.features import FeatureSet, evaluate_features
from torchreid_xres.features.record import magnification
from torchreid_xres.files import write_json
from torchreid_xres.jobs.extraction import OF_VALIDATION, engine_features, trained_engine
from torchreid_xres.jobs.run import TASKS, Run, ranking_options
from torchreid_xres.jobs.tasks.pair_features import (
    Rates,
    camera_gap,
    pair_features,
    resolution_direction,
)
from torchreid_xres.jobs.tasks.panning import (
    Settings,
    fit,
    load_panning,
    moved,
    require_settings,
    save_panning,
    searched,
)
from torchreid_xres.models.vpfa import PANNINGS, Panning

logger = logging.getLogger(__name__)


@TASKS.register("vpfa", again=True)
def vpfa(run: Run) -> list[dict]:
    """Learn the modules ``vpfa.modules`` for the trained run in ``vpfa.run`` and evaluate low images moved by them.

    All low images are moved, queries and gallery alike, as in the published code.

    The protocol is that of the trained run (its first target). Modules that were learned before for the same network
    and settings are read from the folder, ``<module>.pth.tar``.

    Returns:
        A record for each module with the figures ``before``; the last is the stage's own. Without ``vpfa.enabled``
        the record before comes first.

    Raises:
        ConfigError: for an unknown module or setting, or a run that is not ranked.
        FileNotFoundError: if no run was trained in ``vpfa.run``.
    """
    names, settings = checked(run.cfg)
    start = opened(run)
    trained, engine, pairs, query, gallery, rates, _ = start
    network = engine.choice.told()
    if not (query.low.any() or gallery.low.any()):
        raise ConfigError(f"VPFA moves low-resolution images, and the test of {query.dataset} has none")
    low_cameras = {camera for part in (query, gallery) for camera in part.camid[part.low].tolist()}
    device, flip = "cuda" if run.cfg.use_gpu else "cpu", trained.cfg.test.flip
    curve = {f"{rate:g}": averaged(queries_at(engine, query, rate), flip) for rate in run.cfg.test.query_rates}
    facts = {
        "split_id": trained.split,
        "seed": run.cfg.train.seed,
        "config_sha256": run.sha256,
        "direction": resolution_direction(pairs),
        "gap": camera_gap(pairs, low_cameras),
    }

    def record(module: Panning | None, label: str, stage: str) -> dict:
        def seen(part: FeatureSet) -> FeatureSet:
            return part if module is None else moved(module, part, rates)

        searched_in = seen(gallery)

        def figures(asked: FeatureSet) -> dict:
            return evaluated(seen(asked), searched_in, trained.cfg)

        parts = [engine.model, *([module] if module else [])]
        kept = figures(query) | facts | {"model": label, "stage": stage}
        if network:
            kept["chosen"] = network
        kept["parameters"] = sum(p.numel() for part in parts for p in part.parameters())
        if curve:
            kept["curve"] = {rate: _accuracy(figures(asked)) for rate, asked in curve.items()}
        return kept

    before = record(None, f"{trained.label} (before)", f"{run.stage}, before")
    write_json(before, run.folder / "results" / f"{before['dataset']}_before.json")
    # A run below the trained one's folder follows it in one job, whose table has the model already.
    records = [] if trained.folder in run.folder.parents else [before]
    for name in names:
        module, about = learned(run, name, start, settings, device)
        stage = run.stage if name == names[-1] else f"{run.stage}, {name}"
        one = record(module, f"{trained.label} + {PANNINGS[name].meta['label']}", stage) | about
        if "search" in one:
            one["chosen"] = [*network, {"what": f"vpfa: {', '.join(run.cfg.vpfa.search)}", "on": one["search"]["on"]}]
        one["before"] = _accuracy(before)
        logger.info(
            "%s: mAP %.1f %% -> %.1f %%, rank-1 %.1f %% -> %.1f %%", one["model"],
            before["mAP"], one["mAP"], before["rank1"], one["rank1"],
        )  # fmt: skip
        write_json(one, run.folder / "results" / f"{one['dataset']}_{name}.json")
        records.append(one)
    return records


class Opened(NamedTuple):
    """What a run of VPFA starts from: the trained run, and its features as its offsets need them.

    Attributes:
        trained: the run in ``vpfa.run``.
        engine: its engine.
        pairs: features of its training images, see :func:`~torchreid_xres.jobs.tasks.pair_features.pair_features`.
        query, gallery: those of its first target.
        rates: tells the rates of all these images.
        apart: query and gallery of its validation part, where there is one and settings are searched; else none.
    """

    trained: Run
    engine: XresMixin
    pairs: FeatureSet
    query: FeatureSet
    gallery: FeatureSet
    rates: Rates
    apart: tuple[FeatureSet, ...]


def opened(run: Run) -> Opened:
    """Open the trained run of a run of VPFA, and extract its features, or read them where they are kept.

    Raises:
        ConfigError: for a run that is not ranked.
        FileNotFoundError: if no run was trained in ``vpfa.run``.
    """
    trained, engine = trained_engine(file_of(run.cfg, run.cfg.vpfa.run))
    if type(engine)._evaluate is not XresMixin._evaluate:
        raise ConfigError(f"VPFA moves features that are ranked, and {trained.label} in {trained.folder} has none")
    flip = trained.cfg.test.flip
    pairs = averaged(pair_features(trained, engine, list(run.cfg.vpfa.rates)), flip)

    chosen_on = OF_VALIDATION if run.cfg.vpfa.search and trained.cfg.data.validation else ()
    sets = engine_features(trained, engine, ("query", "gallery", *chosen_on))
    query, gallery, *apart = (averaged(part, flip) for part in sets.values())
    reference = float(np.median(np.sqrt(pairs.size[pairs.rate == 1].prod(axis=1))))
    natural = {name for name, dataset in engine.datamanager.sets().items() if getattr(dataset, "natural", False)}
    return Opened(trained, engine, pairs, query, gallery, Rates(reference, natural), tuple(apart))


def checked(cfg: CfgNode) -> tuple[list[str], Settings]:
    """Return the modules and settings of a configuration.

    Raises:
        ConfigError: for an unknown module, or a setting that cannot be, or that cannot be searched.
    """
    names = list(cfg.vpfa.modules)
    require_settings(cfg.vpfa.search)
    unknown = [name for name in names if name not in PANNINGS]
    if unknown or not names:
        raise ConfigError(f"vpfa.modules names {unknown or 'none'}; allowed: {', '.join(PANNINGS)}")
    return names, Settings(**{field.name: cfg.vpfa[field.name] for field in fields(Settings)})


def learned(
    run: Run, name: str, start: Opened, settings: Settings, device: str
) -> tuple[Panning, dict[str, Any]]:
    """Return a module of a run, out of its folder if it was learned there for the same network and settings.

    Returns:
        The module, and what the record tells of it: ``settings``, ``search`` where there was one, ``train_seconds``.
    """
    path, pairs = run.folder / f"{name}.pth.tar", start.pairs
    of_images = {"weights_sha256": pairs.weights_sha256, "manifest_sha256": pairs.manifest_sha256}
    belongs = {"config_sha256": run.sha256, **of_images}
    if path.is_file():
        module, about = load_panning(path)
        if about.get("belongs") == belongs:
            return module, about["record"]
    began, seed, told = time.perf_counter(), run.cfg.train.seed, {}
    grid = as_dict(run.cfg.vpfa.search)
    if grid and PANNINGS[name].meta["trained"]:
        metric = start.trained.cfg.test.dist_metric
        of_part = {"apart": start.apart, "rates": start.rates}
        settings, told["search"] = searched(
            name, pairs, settings, grid, **of_part, metric=metric, seed=seed, device=device
        )
    module = fit(name, pairs, settings, seed=seed, device=device)
    told |= {"settings": asdict(settings), "train_seconds": round(time.perf_counter() - began, 1)}
    save_panning(module, name, path, belongs=belongs, record=told)
    return module, told


def averaged(features: FeatureSet, flip: bool) -> FeatureSet:
    """Return the mean of an image's and its mirror's feature where a run's are their sum, as VPFA's offsets need it."""
    return replace(features, features=features.features / 2) if flip else features


@torch.no_grad()
def queries_at(engine: XresMixin, query: FeatureSet, rate: float) -> FeatureSet:
    """Return the queries' features with all low ones at one rate, natural ones at that rate beyond their own.

    Args:
        engine: of the network that gave ``query``.
        query: the queries as they are.
        rate: 1 or more.

    Raises:
        ValueError: for a set of the host, which has no rates, or a rate below 1.
    """
    loader = engine.datamanager.query_loader(query.dataset, rate)
    features, facts = engine._features(loader, False)
    return replace(query, features=features, **{key: facts[key] for key in ("rate", "low", "size")})


def evaluated(query: FeatureSet, gallery: FeatureSet, cfg: CfgNode) -> dict:
    """Return the record of a ranking under the protocol of a trained run's configuration."""
    how = ranking_options(cfg, query.dataset)
    kept = {key: how[key] for key in ("normalize", "protocol", "draws", "seed")}
    record = evaluate_features(query, gallery, metric=how["distance"], ranks=cfg.test.ranks, **kept)
    return record | {"magnification": magnification(cfg.data.height, query.size, query.low)}


def _accuracy(record: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in record.items() if key in ("mAP", "mINP") or re.fullmatch(r"rank\d+", key)}
