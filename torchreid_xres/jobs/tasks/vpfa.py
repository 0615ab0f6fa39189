"""VPFA's task: learn from a trained run's features of training images to move those of low queries.

The modules are in ``models/vpfa.py``. Only training images are learned from. Settings that a configuration leaves open
(``vpfa.search``) are chosen on the validation part, or else on training identities kept out of the fit; the test set is
looked at once, at the end.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR
from yacs.config import CfgNode

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.data.split import shuffled
from torchreid_xres.engine.base import XresMixin
from torchreid_xres.features.features import FeatureSet, evaluate_features
from torchreid_xres.features.fusion import training_trial, validation_trial
from torchreid_xres.features.record import magnification
from torchreid_xres.files import write_json
from torchreid_xres.jobs.extraction import OF_VALIDATION, engine_features, trained_engine
from torchreid_xres.jobs.run import TASKS, Run, ranking_options
from torchreid_xres.jobs.tasks.pair_features import (
    camera_gap,
    identity_means,
    pair_features,
    resolution_direction,
    resolution_rates,
    views_by_rate,
)
from torchreid_xres.models.vpfa import PANNINGS, Panning, VPBlock
from torchreid_xres.tensors import require_finite

logger = logging.getLogger(__name__)

# Training identities that a search of settings keeps out of the fit.
HELD_OUT = 0.25


@dataclass(frozen=True)
class Settings:
    """How a module is learned: the keys of the section ``vpfa`` that a search may choose.

    Attributes:
        target: where a low feature is to go: ``sample``, the same image's high one, or ``prototype``, the mean high
            feature of its identity.
        hidden: width of the perceptron.
        epochs, batch_size, lr, weight_decay, stepsize, gamma: of Adam; every ``stepsize`` epochs ``lr`` is multiplied
            by ``gamma``.
    """

    target: str = "sample"
    hidden: int = 2048
    epochs: int = 120
    batch_size: int = 32
    lr: float = 2e-4
    weight_decay: float = 1e-5
    stepsize: int = 30
    gamma: float = 0.5

    def __post_init__(self) -> None:
        if self.target not in ("sample", "prototype"):
            raise ConfigError(f"vpfa.target is {self.target!r}; allowed: 'sample', 'prototype'")
        for name in ("hidden", "epochs", "batch_size", "stepsize"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"vpfa.{name} is a whole number of at least 1, not {getattr(self, name)!r}")


def fit(
    name: str, pairs: FeatureSet, settings: Settings | None = None, *, seed: int = 0, device: str = "cpu"
) -> Panning:
    """Learn a module from pairs.

    Args:
        name: of :data:`~torchreid_xres.models.vpfa.PANNINGS`.
        pairs: as :func:`~torchreid_xres.jobs.tasks.pair_features.pair_features` returns them.
        settings: how; None for those published.
        seed: of the first weights and the order of the pairs.
        device: where to train.

    Returns:
        The module, on the CPU, in evaluation mode.
    """
    settings = settings or Settings()
    high, low = views_by_rate(pairs)
    aim = high  # (N, D), of a low view
    if settings.target == "prototype":
        identity = torch.as_tensor(np.unique(pairs.pid[pairs.rate == 1], return_inverse=True)[1])
        aim = identity_means(high, identity)[identity]
    views = {1.0: high, **low}
    x = torch.cat(list(views.values())).to(device)  # ((1 + R) * N, D)
    target = torch.cat([high, *[aim] * len(low)]).to(device)  # what is not low stays where it is
    rate = torch.tensor(list(views), device=device).repeat_interleave(len(high))
    order = torch.Generator().manual_seed(seed)

    def train(block: VPBlock, inputs: Tensor, targets: Tensor) -> None:
        optimizer = torch.optim.Adam(block.parameters(), settings.lr, weight_decay=settings.weight_decay)
        schedule = StepLR(optimizer, settings.stepsize, settings.gamma)
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(inputs), generator=order).to(device).split(settings.batch_size):
                loss = F.mse_loss(block(inputs[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()

    with checkpoint.random_state_kept():
        torch.manual_seed(seed)
        module = PANNINGS.build(name, features=x.shape[1], rates=list(low), hidden=settings.hidden).to(device)
        module.learn(x, rate, target, train)
    return module.cpu().eval()


def moved(module: Panning, features: FeatureSet, reference: float) -> FeatureSet:
    """Return features with those of low images moved.

    Args:
        module: as learned.
        features: of any images.
        reference: see :func:`~torchreid_xres.jobs.tasks.pair_features.resolution_rates`.
    """
    rates = torch.from_numpy(resolution_rates(features, reference))
    return replace(features, features=module(features.features, rates))


def searched(
    name: str,
    pairs: FeatureSet,
    settings: Settings,
    grid: Mapping[str, Sequence[Any]],
    *,
    apart: Sequence[FeatureSet] = (),
    reference: float = 1.0,
    metric: str = "cosine",
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Settings, dict[str, Any]]:
    """Choose settings by fits on training identities, each judged on the validation part or on others of them.

    Without a validation part some training identities are kept out of the fit; their low views are queries against
    their images as captured under other cameras. The network has been trained on all of them, so the figures are
    better than those of the test.

    Args:
        name: of :data:`~torchreid_xres.models.vpfa.PANNINGS`.
        pairs: of all training identities.
        settings: what is not searched.
        grid: field of :class:`Settings` -> the values to try; all combinations are.
        apart: features of queries and gallery of the validation part; empty where there is none.
        reference: side of an image of full resolution in pixels, for these.
        metric: distance of the ranking.
        seed: of the split of identities, and of the fits.
        device: where to train.

    Returns:
        The settings of the highest mAP, the first of equal ones, and what was tried: ``on`` ``validation`` or
        ``training``, ``held_out`` identities, mAP ``before`` in per cent, and a list ``tried`` of settings with their
        ``mAP``.

    Raises:
        ConfigError: for a setting that cannot be searched.
        ValueError: if the identities kept out have no match under another camera.
    """
    _require_settings(grid)
    if apart:
        asked, gallery = apart
        held, rest = sorted(set(asked.pid.tolist())), pairs
        trial = partial(validation_trial, gallery=[gallery])
    else:
        pids = shuffled(set(pairs.pid.tolist()), f"vpfa:{seed}")
        held = pids[: max(1, round(HELD_OUT * len(pids)))]
        asked, rest, reference = pairs, rows_of(pairs, ~np.isin(pairs.pid, held)), 1.0
        trial = training_trial

    def score(features: FeatureSet) -> float:
        return 100 * float(trial([features], pids=held, metric=metric, seed=seed).rank([1.0]).mAP())

    tried = []
    for values in product(*grid.values()):
        one = dict(zip(grid, values, strict=True))
        module = fit(name, rest, replace(settings, **one), seed=seed, device=device)
        tried.append({**one, "mAP": score(moved(module, asked, reference))})
        logger.info("%s with %s: mAP %.2f %% on identities kept out", name, one, tried[-1]["mAP"])
    best = max(tried, key=lambda one: one["mAP"])
    chosen = replace(settings, **{key: best[key] for key in grid})
    on = "validation" if apart else "training"
    return chosen, {"on": on, "held_out": len(held), "before": score(asked), "tried": tried}


def _require_settings(grid: Iterable[str]) -> None:
    known = [field.name for field in fields(Settings)]
    unknown = sorted(set(grid) - set(known))
    if unknown:
        raise ConfigError(f"vpfa.search names {unknown}; allowed: {', '.join(known)}")


def rows_of(features: FeatureSet, rows: np.ndarray) -> FeatureSet:
    """Return the same set with some of its rows, (N,) bool."""
    per_image = {key: getattr(features, key)[rows] for key in ("pid", "camid", "rate", "low", "size")}
    names = np.asarray(features.names)[rows].tolist()
    return replace(features, features=features.features[torch.as_tensor(rows)], names=names, **per_image)


@TASKS.register("vpfa", again=True)
def vpfa(run: Run) -> list[dict]:
    """Learn the modules ``vpfa.modules`` for the trained run in ``vpfa.run`` and evaluate its queries moved by them.

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
    trained, engine, pairs, query, gallery, reference, _ = start
    network = engine.choice.told()
    if not query.low.any():
        raise ConfigError(f"VPFA moves low-resolution queries, and {query.dataset} has none")
    device, flip = "cuda" if run.cfg.use_gpu else "cpu", trained.cfg.test.flip
    curve = {f"{rate:g}": averaged(queries_at(engine, query, rate), flip) for rate in run.cfg.test.query_rates}
    facts = {
        "split_id": trained.split,
        "seed": run.cfg.train.seed,
        "config_sha256": run.sha256,
        "direction": resolution_direction(pairs),
        "gap": camera_gap(pairs, set(query.camid[query.low].tolist())),
    }

    def record(module: Panning | None, label: str, stage: str) -> dict:
        def figures(seen: FeatureSet) -> dict:
            seen = seen if module is None else moved(module, seen, reference)
            return evaluated(seen, gallery, trained.cfg)

        parts = [engine.model, *([module] if module else [])]
        kept = figures(query) | facts | {"model": label, "stage": stage}
        if network:
            kept["chosen"] = network
        kept["parameters"] = sum(p.numel() for part in parts for p in part.parameters())
        if curve:
            kept["curve"] = {rate: _accuracy(figures(seen)) for rate, seen in curve.items()}
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
        reference: side of an image of full resolution in pixels.
        apart: query and gallery of its validation part, where there is one and settings are searched; else none.
    """

    trained: Run
    engine: XresMixin
    pairs: FeatureSet
    query: FeatureSet
    gallery: FeatureSet
    reference: float
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
    return Opened(trained, engine, pairs, query, gallery, reference, tuple(apart))


def checked(cfg: CfgNode) -> tuple[list[str], Settings]:
    """Return the modules and settings of a configuration.

    Raises:
        ConfigError: for an unknown module, or a setting that cannot be, or that cannot be searched.
    """
    names = list(cfg.vpfa.modules)
    _require_settings(cfg.vpfa.search)
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
        of_part = {"apart": start.apart, "reference": start.reference}
        settings, told["search"] = searched(
            name, pairs, settings, grid, **of_part, metric=metric, seed=seed, device=device
        )
    module = fit(name, pairs, settings, seed=seed, device=device)
    told |= {"settings": asdict(settings), "train_seconds": round(time.perf_counter() - began, 1)}
    save_panning(module, name, path, belongs=belongs, record=told)
    return module, told


def save_panning(module: Panning, name: str, path: str | Path, **about: Any) -> None:
    """Write a learned module, whole or not at all.

    Args:
        module: the module.
        name: as registered in :data:`~torchreid_xres.models.vpfa.PANNINGS`.
        path: file to write.
        **about: what else is to be kept with it: numbers, text, lists and dictionaries of them.

    Raises:
        ValueError: if NaN or infinity is in it; nothing is written.
    """
    require_finite(module.state_dict(), f"the module {name}", "; a smaller vpfa.lr may help")
    options = {"features": module.features, "rates": list(module.rates), "hidden": module.hidden}
    checkpoint.save_atomic({"name": name, "options": options, "state": module.state_dict(), "about": about}, path)


def load_panning(path: str | Path) -> tuple[Panning, dict[str, Any]]:
    """Read what :func:`save_panning` wrote; nothing in the file is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or holds something else.
    """
    kept = checkpoint.load(path)
    require_finite(kept, path, "; remove it to learn it again")
    try:
        module = PANNINGS.build(kept["name"], **kept["options"])
        module.load_state_dict(kept["state"])
        return module.eval(), dict(kept["about"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds no module of VPFA: {' '.join(str(error).split())}") from error


def averaged(features: FeatureSet, flip: bool) -> FeatureSet:
    """Return the mean of an image's and its mirror's feature where a run's are their sum, as VPFA's offsets need it."""
    return replace(features, features=features.features / 2) if flip else features


@torch.no_grad()
def queries_at(engine: XresMixin, query: FeatureSet, rate: float) -> FeatureSet:
    """Return the queries' features with all low ones at one rate.

    Args:
        engine: of the network that gave ``query``.
        query: the queries as they are.
        rate: 1 or more.

    Raises:
        ValueError: for a set whose low resolution is natural.
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
