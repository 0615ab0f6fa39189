"""Fusion as a stage: branches' distances become one; PRPR's parts become one model, too (see ``models/prpr.py``)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError, file_of
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.choosing import Choice
from torchreid_xres.features.features import evaluate_features
from torchreid_xres.features.fusion import fused_sets, search_weights
from torchreid_xres.features.record import magnification
from torchreid_xres.jobs.extraction import load_network, roles_to_choose_on, run_features
from torchreid_xres.jobs.run import TASKS, Run, model_options, ranking_options
from torchreid_xres.models import build_model
from torchreid_xres.models.prpr import LEVELS, PRPR
from torchreid_xres.models.weights import load_weights


@TASKS.register("fuse")
def fuse(run: Run) -> list[dict]:
    """Fuse trained branches by ``fusion.weights`` and by searched ones; write prpr whole into the folder.

    The restorer's weights are ``sr.weights``; the branches' features are kept in their own folders. Branches of any
    other model are an ensemble: its features are all of theirs.

    Where there is a validation part, ``fusion.search all`` chooses the weights: those found on half of its identities
    are taken, in the folder's configuration, too, if they are not worse than ``fusion.weights`` on the other half.

    Returns:
        A record for each of ``fusion.search`` that is not chosen, then that of ``fusion.weights``. The last is the
        stage's own: this, or that of the weights found.

    Raises:
        ConfigError: for another number of branches than the model has, or than there are weights.
    """
    cfg = run.cfg
    folders = [Path(file_of(cfg, folder)) for folder in cfg.fusion.branches]
    pyramid = cfg.model.name == "prpr"
    if len(folders) != (len(LEVELS) if pyramid else len(cfg.fusion.weights)):
        weights = f"there are {len(cfg.fusion.weights)} fusion.weights"
        needed = f"prpr has {len(LEVELS)} branches" if pyramid else weights
        raise ConfigError(f"{needed}, and fusion.branches names {len(folders)}")
    if pyramid:
        model = assembled(run, folders)
        checkpoint.save_atomic({"models": {"model": model.state_dict()}}, run.folder / LAST)
        parameters = sum(p.numel() for p in model.parameters())
    else:
        networks = [load_network(Run.load(folder), folder / LAST)[0] for folder in folders]
        parameters = sum(p.numel() for network in networks for p in network.parameters())
    run.save()

    to_search = roles_to_choose_on(folders[0]) if cfg.fusion.search else ()
    branches = [run_features(folder, ("query", "gallery", *to_search)) for folder in folders]
    query, gallery, *searched = ([branch[role] for branch in branches] for role in branches[0])
    trained = [
        {**chosen, "model": branch.model}
        for folder, branch in zip(folders, query, strict=True)
        for chosen in Choice.of(checkpoint.load(folder / LAST)).told()
    ]
    name = query[0].dataset
    ranking = ranking_options(cfg, name)
    how = {key: ranking[key] for key in ("protocol", "draws", "seed")} | {"ranks": cfg.test.ranks}
    facts = {
        "parameters": parameters,
        "split_id": run.split,
        "seed": cfg.train.seed,
        "config_sha256": run.sha256,
        "magnification": magnification(cfg.data.height, query[0].size, query[0].low),
    }

    def record(weights: Any, label: str, stage: str, chosen: list[dict] = trained) -> dict:
        fused = fused_sets(query, gallery, weights, "cosine")
        found = evaluate_features(**fused, metric="euclidean", **how) | facts | {"model": label, "stage": stage}
        return found | ({"chosen": chosen} if chosen else {})

    shown = ":".join(f"{weight:g}" for weight in cfg.fusion.weights)
    given = record(cfg.fusion.weights, f"{run.label} ({shown})", run.stage)
    records, own = [], []
    for kind in cfg.fusion.search:
        found = search_weights(*searched, start=cfg.fusion.weights, by_size=kind == "size")
        label = f"{run.label} (searched{' by size' * (kind == 'size')})"
        chosen = [*trained, {"what": "fusion.weights", "on": found.on}]
        one = record(found.weights, label, f"{run.stage}, searched", chosen) | {"search": asdict(found)}
        if kind == "size" or found.on != "validation":
            records.append(one)
        elif found.checked < found.checked_start:
            records.append(one)
            given["chosen"] = chosen
        else:
            own = [one | {"stage": run.stage}]
            given["stage"] = f"{run.stage}, weights as given"
            cfg.fusion.weights = list(found.weights)
            run.save()
    return [*records, given, *own]


def assembled(run: Run, folders: list[Path]) -> PRPR:
    """Return the model of a run's configuration with the restorer and the branches as trained."""
    cfg = run.cfg
    last = checkpoint.load(folders[0] / LAST)["models"]["model"]
    num_classes = len(last["classifier.bias"])
    model = build_model("prpr", num_classes, cfg.loss.name, pretrained=False, **model_options(cfg, "prpr"))
    load_weights(model.restorer, file_of(cfg, cfg.sr.weights), strict=True)
    for level, folder in zip(LEVELS, folders, strict=True):
        load_weights(model.branches[level], folder / LAST, strict=True)
    return model
