"""Does the front end of a trained run help? The run with and without it: rank-1, mAP, PSNR and SSIM of the queries.

    python benchmarks/front_end_effect.py log/sr_reid_mlr_cuhk03 --root /path/to/data
    python benchmarks/front_end_effect.py log/psh_rnet_mlr_cuhk03_mini --root /path/to/data
    python benchmarks/front_end_effect.py log/accuracy_cuhk03_mini/runs/vdsr_* --root /path/to/data  # their mean

Without it, what passed it (queries; in PS-HRNet the gallery, too) goes to the re-ID network as the loader enlarged it.
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
from of_run import trained_folder

from torchreid_xres.devices.parallel import to_device
from torchreid_xres.engine.base import XresMixin
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.jobs.extraction import trained_engine
from torchreid_xres.jobs.run import Run
from torchreid_xres.metrics import rank_features
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.restored import restored_view
from torchreid_xres.sr import build_front_end


@torch.no_grad()
def restoration(run: Run, engine: XresMixin) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Compare what the re-ID network sees of the first target's queries with their originals, at the network's size.

    Args:
        run, engine: as :func:`~torchreid_xres.jobs.extraction.trained_engine` returns them.

    Returns:
        The rates of the queries, (Q,), and of each query ``psnr`` (dB) and ``ssim`` (at most 1) over RGB; None if they
        are low resolution by nature, so that there are no originals, or the network has no front end.
    """
    name, model = run.cfg.data.targets[0], unwrap(engine.model)
    loader = engine.test_loader[name]["query"]
    if loader.dataset.natural:
        return None
    device = next(model.parameters()).device
    normalize = Normalization(run.cfg.data.norm_mean, run.cfg.data.norm_std).to(device)
    rates, found = [], defaultdict(list)
    for seen, original in zip(loader, engine.datamanager.query_loader(name, 1.0), strict=True):
        view = restored_view(model, to_device(seen, device), normalize)
        if view is None:
            return None
        target = normalize.undo(original["img"].to(device))
        for figure, compare in (("psnr", psnr), ("ssim", ssim)):
            found[figure].append(compare(view.float(), target).cpu().numpy())
        rates.append(seen["rate"].numpy())
    return np.concatenate(rates), {figure: np.concatenate(parts) for figure, parts in found.items()}


@torch.no_grad()
def effect(folder: Path, root: str) -> tuple[list[dict], dict]:
    """Return one row without and one with the front end, and of what they are.

    Args:
        folder: of a finished run of a model whose ``front_end`` stands alone before its re-ID network.
        root: folder of the data sets.

    Raises:
        ValueError: for another model.
    """
    run, engine = trained_engine(folder, root=root)
    cfg, model = run.cfg, unwrap(engine.model)
    own = getattr(model, "front_end", None)
    if own is None:
        raise ValueError(f"{folder}: {run.label} has no front end that can be left out; sr_reid and psh_rnet have one")
    name = cfg.data.targets[0]
    loaders = engine.test_loader[name]
    rows = []
    for how, front_end in (("without", build_front_end("bicubic").eval()), ("with", own)):
        model.front_end = front_end  # the bicubic one leaves an image of the network's size as it is
        gf, gallery = engine._features(loaders["gallery"], cfg.test.normalize_feature)
        qf, query = engine._features(loaders["query"], cfg.test.normalize_feature)
        result = rank_features(
            qf, gf, query["pid"], gallery["pid"], query["camid"], gallery["camid"], metric=cfg.test.dist_metric,
            protocol=cfg.test.metric or loaders["query"].dataset.metric, draws=cfg.test.draws, seed=cfg.test.seed,
        )  # fmt: skip
        row = {"front end": how, "rank-1": 100 * float(result.cmc(1)[0]), "mAP": 100 * result.mAP()}
        if (found := restoration(run, engine)) is not None:
            rates, quality = found
            row |= {"PSNR": float(quality["psnr"].mean()), "SSIM": float(quality["ssim"].mean())}
            for rate in sorted(set(rates.tolist())):
                row[f"PSNR x{rate:g}"] = float(quality["psnr"][rates == rate].mean())
        rows.append(row)
    return rows, {"dataset": name, "manifest": loaders["query"].dataset.manifest.sha256, "seed": cfg.train.seed}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished jobs")
    parser.add_argument("--root", required=True)
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="also write the rows and the facts to this JSON file")
    args = parser.parse_args(argv)
    try:
        found = [effect(trained_folder(job, args.split), args.root) for job in args.runs]
    except USER_ERRORS as error:
        return tell(error)
    rows = [
        {key: value if key == "front end" else mean([row[key] for row in same]) for key, value in same[0].items()}
        for same in zip(*(rows for rows, _ in found), strict=True)
    ]
    measure.finish(args, "Queries with and without the front end", rows, of=[about for _, about in found])
    return 0


if __name__ == "__main__":
    sys.exit(main())
