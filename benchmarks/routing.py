"""From where on should a query encoder answer, by labels, and where does the threshold that needs none put it?

    python benchmarks/routing.py --run log/asymmetric_unlabelled_mlr_cuhk03 --root /path/to/data
    python benchmarks/routing.py --run RUN --root DATA --keep routing.json

The queries are the training images that were kept out of a run's training, seen at rates up to the camera's largest;
the gallery is the training images of other cameras as captured, described by the gallery encoder. Their labels are read
here alone. Without meaning where the gallery encoder has learned from these images with their labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import of_run
import torch
from torch import Tensor

from torchreid_xres.data.degrade import low_size
from torchreid_xres.engine.asymmetric import AsymmetricEngine, kept_out
from torchreid_xres.engine.restorer import full_flags
from torchreid_xres.engine.routing import agreement, counted, find_threshold
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.metrics import rank_features

RATES = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
CAUTIONS = (1.0, 0.25)


@torch.no_grad()
def routing(folder: Path, root: str) -> tuple[list[dict], dict]:
    """Return a row for each rate, and what they are of.

    Args:
        folder: of a trained run of ``asymmetric``.
        root: folder of the data sets.

    Raises:
        ValueError: for a run of another model, or one that kept no images out.
    """
    run, engine = trained_engine(folder, root=root)
    if not isinstance(engine, AsymmetricEngine):
        raise ValueError(f"{folder}: {run.label} has no query encoder")
    model, dataset = unwrap(engine.model).eval(), engine.datamanager.train_loader.dataset
    sharp = [i for i, full in enumerate(full_flags(dataset)) if full]
    held_out = kept_out(dataset, sharp, run.cfg.loss.asymmetric.held_out)
    if not held_out:
        raise ValueError(f"{folder}: {run.label} has kept no images out of its training")
    train = dataset.train
    pids, cams = (np.array([entry[i] for entry in train]) for i in (1, 2))
    everyone = torch.cat([model.describe_gallery(batch["img"]) for batch in engine.as_captured(range(len(train)))])
    rows, views_of = [], []
    for rate in (rate for rate in RATES if rate <= engine.camera.rates[1]):
        views, heights = [], []
        for batch in engine.as_captured(held_out):
            sizes = [tuple(size) for size in batch["size"].tolist()]
            images = engine.normalize.undo(batch["img"])
            seen = [engine.camera.view_at(image, size, rate) for image, size in zip(images, sizes, strict=True)]
            views.append(engine.normalize(torch.stack(seen)))
            heights += [low_size(*size, rate)[0] for size in sizes]
        told = {"query": torch.cat([model(view) for view in views])}
        told["gallery"] = torch.cat([model.describe_gallery(view) for view in views])
        found = {side: agreement(features, everyone, held_out)[1] for side, features in told.items()}
        views_of.append(torch.stack([model.size[0] / torch.tensor(heights), found["query"], found["gallery"]]))
        magnified = float(views_of[-1][0].median())
        row = {"its input": "x".join(map(str, model.query_size)), "rate": rate, "magnified": magnified}
        precision = {
            side: across_cameras(features, everyone, pids[held_out], pids, cams[held_out], cams)
            for side, features in told.items()
        }
        row |= {f"mAP, {side}": 100 * float(np.nanmean(ap)) for side, ap in precision.items()}
        gain = 100 * (precision["query"] - precision["gallery"])
        gain = gain[~np.isnan(gain)]
        row |= {"gain": float(gain.mean()), "its error": float(gain.std(ddof=1) / np.sqrt(len(gain)))}
        row |= {f"agreement, {side}": float(values.mean()) for side, values in found.items()}
        rows.append(row)
    each, query, gallery = torch.cat(views_of, dim=1)
    for caution in CAUTIONS:
        threshold = find_threshold(each, counted(query, views_of[0][1], caution), gallery)
        for row in rows:
            row[f"caution {caution:g}"] = "query" if row["magnified"] >= threshold else "gallery"
    about = {"model": run.label, "dataset": run.cfg.data.sources[0], "seed": run.cfg.train.seed}
    return rows, about | {"size": list(model.size), "images": len(held_out)}


def across_cameras(
    query: Tensor, gallery: Tensor, q_pids: np.ndarray, g_pids: np.ndarray, q_cams: np.ndarray, g_cams: np.ndarray
) -> np.ndarray:
    """Return the average precision of each query among the images of all cameras but its own, (Q,)."""
    found = np.full(len(query), np.nan)
    for camera in np.unique(q_cams):
        asked, there = q_cams == camera, g_cams != camera
        result = rank_features(
            query[asked], gallery[there], q_pids[asked], g_pids[there], q_cams[asked], g_cams[there], metric="cosine"
        )
        found[asked] = result.ap
    return found


def main(argv: list[str] | None = None) -> int:
    return of_run.command(__doc__, routing, "who should answer, by labels of {dataset}", argv)


if __name__ == "__main__":
    sys.exit(main())
