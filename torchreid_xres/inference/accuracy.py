"""What an exported network ranks, beside the network it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_xres.engine.base import XresMixin
from torchreid_xres.features.record import scores
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.inference.branches import by_role, sent_to
from torchreid_xres.inference.export import ROLES, Exported, Session
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.run import Run, ranking_options
from torchreid_xres.metrics import rank_features
from torchreid_xres.models.layers import Normalization


def compare_accuracy(
    run: str | Path, files: Sequence[Exported], dataset: str, root: str | Path = "", ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, float]]:
    """Rank a data set with a trained run and with the files that were made of it.

    Both get the images that the run's loader makes, at the network's size. A query is thus treated by a file as one of
    the file's ``low_size``, where the network in torch knows each one's own.

    Args:
        run: folder of the trained run.
        files: of both roles, or one for both.
        dataset: registered name.
        root: folder that holds the data sets now; empty: where the run had them.
        ranks: CMC ranks to name.

    Returns:
        ``torch`` and ``onnx``: CMC at the ranks, mAP and mINP in per cent.

    Raises:
        ValueError: if a role has no file.
    """
    sessions = {file.role: Session(file.path) for file in files}
    if not sessions.keys() >= {"query", "gallery"} and "" not in sessions:
        raise ValueError(f"a data set is ranked with both files, of queries and of the gallery; not {list(sessions)}")
    run, engine = trained_engine(run, dataset, root)
    found = {"torch": _ranked(run, engine, ranks)}
    data = run.cfg.data
    engine.extract = partial(_described, sessions, unwrap(engine.model), Normalization(data.norm_mean, data.norm_std))
    engine.flip = False  # the files do it
    return found | {"onnx": _ranked(run, engine, ranks)}


@torch.no_grad()
def _described(
    sessions: Mapping[str, Session], model: nn.Module, normalize: Normalization, batch: Mapping[str, Any]
) -> Tensor:
    images = normalize.undo(batch["img"].cpu())
    if "" in sessions:
        return sessions[""](images)
    return by_role(sent_to(model, batch), lambda role, chosen: sessions[role](images[chosen]))


@torch.no_grad()
def _ranked(run: Run, engine: XresMixin, ranks: Sequence[int]) -> dict[str, float]:
    (dataset,) = run.cfg.data.targets
    how, loaders = ranking_options(run.cfg, dataset), engine.datamanager.test_loader[dataset]
    (qf, query), (gf, gallery) = (engine._features(loaders[role], how["normalize"]) for role in ROLES)
    result = rank_features(
        qf, gf, query["pid"], gallery["pid"], query["camid"], gallery["camid"],
        metric=how["distance"], **{key: how[key] for key in ("protocol", "draws", "seed")},
    )  # fmt: skip
    return scores(result, ranks)
