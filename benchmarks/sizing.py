"""What a server with so many images takes: a calculation from the bytes an image has here and the engine's own rules.

    python benchmarks/sizing.py --keep benchmarks/results/sizing.json

An image has 4 bytes a dimension, and the facts that filters and hits need: --facts bytes, or as many as those of the
rows that benchmarks/galleries.py draws. To that Milvus adds, in memory:

- FLAT nothing;
- HNSW the links of its graph, 4 bytes each and 2 M of them in the lowest layer, in which all images are
  (https://milvus.io/docs/index-explained.md; M is 32 here);
- DISKANN keeps features and graph on disk (up to 56 links) and in memory 0.125 of the features' size for their codes
  and 0.125 as a cache (PQCodeBudgetGBRatio and SearchCacheBudgetGBRatio in https://milvus.io/docs/disk_index.md).

Facts are in memory with each of them. Disk is what query nodes and object store hold: features, facts and index. A node
is filled to --full of its memory, as searching and compacting need some. One replica, nothing is measured at these
sizes: before you buy, ask https://milvus.io/tools/sizing and load a part.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import galleries
import measure
import torch

from torchreid_xres.search.engine import INDEXES
from torchreid_xres.search.milvus import entities

LINK, DEGREE, IN_MEMORY = 4, 56, 0.25


def facts_bytes(args: argparse.Namespace) -> float:
    """Return the mean bytes of all that the engine keeps of a drawn image beside its feature."""
    drawn = argparse.Namespace(gallery=1000, images_each=20, intrinsic=2, noise=0.5, dim=2, seed=args.seed)
    sizes = []
    for batch in galleries.rows(drawn, 1000):
        for one in entities(batch, {}):
            sizes.append(sum(len(value.encode()) if isinstance(value, str) else 8 for value in one.values()) - 8)
    return sum(sizes) / len(sizes)


def takes(index: str, images: int, dims: int, facts: float, node: float) -> dict[str, Any]:
    """Return memory, disk and nodes of so many images.

    Args:
        index: FLAT, HNSW or DISKANN.
        images, dims: how many, and of how many dimensions.
        facts: bytes of each beside the feature.
        node: bytes of memory that a node can be filled with.
    """
    feature = 4 * dims
    graph = {"FLAT": 0, "HNSW": LINK * 2 * INDEXES["HNSW"][0]["M"], "DISKANN": LINK * DEGREE}[index]
    memory = facts + (feature * IN_MEMORY if index == "DISKANN" else feature + graph)
    disk = 2 * feature + graph + facts  # as it came in, and in the index
    row = {"images": f"{images:.0e}", "dimensions": dims, "index": index, "memory GB": images * memory / 1e9}
    return row | {"disk GB": images * disk / 1e9, "nodes": math.ceil(images * memory / node)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10**6, 10**8, 10**9])
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 512, 2048])
    parser.add_argument("--facts", type=float, help="bytes of an image beside its feature")
    parser.add_argument("--node-gb", type=float, default=64.0, help="memory of a node")
    parser.add_argument("--full", type=float, default=0.75, help="share of it that is filled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the result to this JSON file")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    facts, node = args.facts or facts_bytes(args), args.node_gb * 1e9 * args.full
    rows = [takes(i, n, d, facts, node) for n in args.images for d in args.dims for i in INDEXES]
    measure.finish(args, "What a server takes, calculated", rows, facts_bytes=round(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
