"""A module of VPFA is learned from pairs of features; its settings are chosen, and it is kept as a file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError
from torchreid_xres.data.split import shuffled
from torchreid_xres.devices import distributed
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.features.fusion import training_trial, validation_trial
from torchreid_xres.jobs.tasks.pair_features import Rates, identity_means, views_by_rate
from torchreid_xres.models.vpfa import PANNINGS, Panning, VPBlock
from torchreid_xres.tensors import require_finite
from torchreid_xres.terminal import progress

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
        for _ in progress(range(settings.epochs), main=distributed.is_main(), desc=f"learning {name}", unit="epoch"):
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


def moved(module: Panning, features: FeatureSet, rates: Rates) -> FeatureSet:
    """Return features with those of low images moved, whatever their role.

    Args:
        module: as learned.
        features: of any images.
        rates: tells the images' rates.
    """
    return replace(features, features=module(features.features, torch.from_numpy(rates.of(features))))


def searched(
    name: str,
    pairs: FeatureSet,
    settings: Settings,
    grid: Mapping[str, Sequence[Any]],
    *,
    apart: Sequence[FeatureSet] = (),
    rates: Rates | None = None,
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
        rates: tells the rates of these; None: they are those of the protocol.
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
    require_settings(grid)
    rates = rates or Rates()
    on = "validation" if apart else "training"
    if apart:
        held, rest, trial = sorted(set(apart[0].pid.tolist())), pairs, validation_trial
    else:
        pids = shuffled(set(pairs.pid.tolist()), f"vpfa:{seed}")
        held = pids[: max(1, round(HELD_OUT * len(pids)))]
        rest, trial = rows_of(pairs, ~np.isin(pairs.pid, held)), training_trial
        apart, rates = [pairs], Rates()

    def score(module: Panning | None = None) -> float:
        seen = [[part if module is None else moved(module, part, rates)] for part in apart]
        return 100 * float(trial(*seen, pids=held, metric=metric, seed=seed).rank([1.0]).mAP())

    tried = []
    for values in product(*grid.values()):
        one = dict(zip(grid, values, strict=True))
        module = fit(name, rest, replace(settings, **one), seed=seed, device=device)
        tried.append({**one, "mAP": score(module)})
        logger.info("%s with %s: mAP %.2f %% on identities kept out", name, one, tried[-1]["mAP"])
    best = max(tried, key=lambda one: one["mAP"])
    chosen = replace(settings, **{key: best[key] for key in grid})
    return chosen, {"on": on, "held_out": len(held), "before": score(), "tried": tried}


def require_settings(grid: Iterable[str]) -> None:
    """Refuse a setting that cannot be searched.

    Raises:
        ConfigError: naming it.
    """
    known = [field.name for field in fields(Settings)]
    unknown = sorted(set(grid) - set(known))
    if unknown:
        raise ConfigError(f"vpfa.search names {unknown}; allowed: {', '.join(known)}")


def rows_of(features: FeatureSet, rows: np.ndarray) -> FeatureSet:
    """Return the same set with some of its rows, (N,) bool."""
    per_image = {key: getattr(features, key)[rows] for key in ("pid", "camid", "rate", "low", "size")}
    names = np.asarray(features.names)[rows].tolist()
    return replace(features, features=features.features[torch.as_tensor(rows)], names=names, **per_image)


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
