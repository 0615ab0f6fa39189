"""What fewer dimensions cost: mAP on persons of CUHK03 with features cut by PCA, and the bytes that each takes.

    python benchmarks/dimensions.py --root DATA --keep benchmarks/results/dimensions.json

The directions are learned, without labels, from images of other persons than those that are asked for, as an archive's
builder would from a sample of it. Queries are the first image of each camera, as captured and degraded; the gallery
holds the others, and images of the query's own camera do not count. Needs ``cuhk03_p1`` and
``weights/osnet_x0_25_msmt17.pth`` below --root; takes some two minutes of one processor.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import measure
import torch
from strangers import WEIGHTS, cuhk03
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.data.split import shuffled
from torchreid_xres.inference import Extractor
from torchreid_xres.metrics.rank import rank_features


def described(extractor: Extractor, files: list[Path], rate: float = 1.0) -> Tensor:
    """Return the features of files, (N, D), of length 1, degraded or as they are."""
    parts = []
    for start in range(0, len(files), extractor.batch_size):
        pictures = [extractor.image(path) for path in files[start : start + extractor.batch_size]]
        parts.append(extractor.describe([extractor.prepare(degrade_image(img, rate)) for img in pictures]))
    return F.normalize(torch.cat(parts), dim=1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set and weights")
    parser.add_argument("--persons", type=int, default=100, help="that are asked for; as many others are learned from")
    parser.add_argument("--rate", type=float, default=4.0, help="of the degraded queries")
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 256, 128, 64, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write the result to this JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    extractor = Extractor.of_host("osnet_x0_25", args.root / WEIGHTS, (256, 128), device="cpu", precision="fp32")
    both = cuhk03(args.root, 2 * args.persons)
    files, owner = sorted(both.archive + both.queries), both.identity
    asked = set(shuffled({owner(path.name) for path in files}, "dimensions")[: args.persons])
    queries = [path for path in both.queries if owner(path.name) in asked]
    archive = [path for path in both.archive if owner(path.name) in asked]
    others = described(extractor, [path for path in files if owner(path.name) not in asked])
    mean = others.mean(0)
    directions = torch.linalg.svd(others - mean, full_matrices=False).Vh
    gallery = described(extractor, archive)
    labels = [[(owner(path.name), path.name.split("_")[2]) for path in of] for of in (queries, archive)]
    (q_pids, q_cams), (g_pids, g_cams) = (map(list, zip(*of, strict=True)) for of in labels)
    rows = []
    for rate in (1.0, args.rate):
        asking, whole = described(extractor, queries, rate), None
        for dims in (gallery.shape[1], *args.dims):
            cut = [one if whole is None else (one - mean) @ directions[:dims].T for one in (asking, gallery)]
            result = rank_features(*cut, q_pids, g_pids, q_cams, g_cams, metric="cosine")
            found = {"rank-1": 100 * float(result.cmc()[0]), "mAP": 100 * float(result.mAP())}
            whole = whole or found
            row = {"queries": "as captured" if rate == 1 else f"x{rate:g}", "dimensions": dims, **found}
            row |= {"mAP lost": whole["mAP"] - found["mAP"], "bytes a feature": 4 * dims}
            rows.append(row)
    images = {"queries": len(queries), "gallery": len(archive), "learned from": len(others)}
    measure.finish(args, "Features cut by PCA, CUHK03", rows, images=images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
