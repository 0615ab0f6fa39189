"""Does the front end of a trained run help? Queries with and without it: rank-1, mAP, PSNR against the originals.

    python benchmarks/front_end_effect.py log/sr_reid_mlr_cuhk03 --root /path/to/data
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from torchreid_xres.config import load_config
from torchreid_xres.engine.base import LAST, to_device
from torchreid_xres.engine.job import own_runs
from torchreid_xres.metrics import rank_features
from torchreid_xres.metrics.image import psnr
from torchreid_xres.models.weights import load_weights


@torch.no_grad()
def effect(job: Path, root: str, split: int) -> list[dict]:
    """Return one row with and one without the front end.

    Args:
        job: folder of a finished job of ``sr_reid``.
        root: folder of the data sets.
        split: split of the data set.
    """
    cfg = load_config(job / "config.yaml", ["data.root", root, "test.evaluate", "True", "data.save_dir", str(job)])
    run = own_runs(cfg, split, job)[-1]
    engine = run.engine()
    load_weights(engine.model, run.folder / LAST, strict=True)
    model = engine.model.eval()
    name = cfg.data.targets[0]
    loaders = engine.test_loader[name]
    natural = loaders["query"].dataset.natural
    originals = loaders["query"] if natural else engine.datamanager.query_loader(name, 1.0)

    gf, gallery = engine._features(loaders["gallery"], False)
    features, facts, quality = defaultdict(list), defaultdict(list), defaultdict(list)
    for seen, original in zip(loaders["query"], originals, strict=True):
        batch = to_device(seen, "cpu")
        plain = model.normalize.undo(batch["img"])
        restored = model.restore(batch["img"])
        features["with"].append(model.extract(batch))
        features["without"].append(model.extract({**batch, "low": torch.zeros(len(batch["low"]), dtype=torch.bool)}))
        target = model.normalize.undo(original["img"])
        quality["with"].append(psnr(restored, target))
        quality["without"].append(psnr(plain, target))
        for key in ("pid", "camid", "rate"):
            facts[key].append(batch[key].numpy())
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
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--root", required=True)
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    rows = effect(args.job, args.root, args.split)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
