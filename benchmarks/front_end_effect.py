"""Does the front end of a trained run help? Queries with and without it: rank-1, mAP, PSNR against the originals.

    python benchmarks/front_end_effect.py log/sr_reid_mlr_cuhk03 --root /path/to/data
    python benchmarks/front_end_effect.py log/accuracy_cuhk03_mini/runs/vdsr_* --root /path/to/data  # their mean
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import measure
import numpy as np
import torch

from torchreid_xres.engine.base import to_device
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.metrics import rank_features
from torchreid_xres.metrics.image import psnr


@torch.no_grad()
def effect(folder: Path, root: str) -> tuple[list[dict], dict]:
    """Return one row with and one without the front end, and of what they are.

    Args:
        folder: of a finished run of ``sr_reid``.
        root: folder of the data sets.
    """
    run, engine = trained_engine(folder, root=root)
    cfg, model = run.cfg, engine.model
    device = next(model.parameters()).device
    name = cfg.data.targets[0]
    loaders = engine.test_loader[name]
    natural = loaders["query"].dataset.natural
    originals = loaders["query"] if natural else engine.datamanager.query_loader(name, 1.0)

    gf, gallery = engine._features(loaders["gallery"], False)
    features, facts, quality = defaultdict(list), defaultdict(list), defaultdict(list)
    for seen, original in zip(loaders["query"], originals, strict=True):
        batch = to_device(seen, device)
        plain = model.normalize.undo(batch["img"])
        restored = model.restore(batch["img"])
        for how, low in (("with", batch["low"]), ("without", torch.zeros_like(batch["low"]))):
            with engine.proof.autocast():  # as the gallery
                features[how].append(engine.extract({**batch, "low": low}).float().cpu())
        target = model.normalize.undo(original["img"].to(device))
        quality["with"].append(psnr(restored, target).cpu())
        quality["without"].append(psnr(plain, target).cpu())
        for key in ("pid", "camid", "rate"):
            facts[key].append(seen[key].numpy())
    pids, camids, rates = (np.concatenate(facts[key]) for key in ("pid", "camid", "rate"))
    rows = []
    for how in ("without", "with"):
        result = rank_features(
            torch.cat(features[how]), gf, pids, gallery["pid"], camids, gallery["camid"], metric=cfg.test.dist_metric,
            protocol=cfg.test.metric or loaders["query"].dataset.metric, draws=cfg.test.draws, seed=cfg.test.seed,
        )  # fmt: skip
        row = {"front end": how, "rank-1": 100 * float(result.cmc(1)[0]), "mAP": 100 * result.mAP()}
        if not natural:
            decibel = torch.cat(quality[how]).numpy()
            row |= {f"PSNR x{rate:g}": float(decibel[rates == rate].mean()) for rate in sorted(set(rates.tolist()))}
        rows.append(row)
    return rows, {"dataset": name, "manifest": loaders["query"].dataset.manifest.sha256, "seed": cfg.train.seed}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished jobs")
    parser.add_argument("--root", required=True)
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="also write the rows and the facts to this JSON file")
    args = parser.parse_args(argv)
    found = [effect(job / f"split{args.split}" / "sr_reid", args.root) for job in args.runs]
    rows = [
        {key: value if key == "front end" else mean([row[key] for row in same]) for key, value in same[0].items()}
        for same in zip(*(rows for rows, _ in found), strict=True)
    ]
    measure.finish(args, "Queries with and without the front end", rows, of=[about for _, about in found])
    return 0


if __name__ == "__main__":
    sys.exit(main())
