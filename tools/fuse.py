"""Fuse the distances of several models, or of saved features; show each alone and all together.

    xres fuse log/original log/x2 log/x3 log/x4                    # 2:1:1:1
    xres fuse log/a log/b --weights 3 1 --rerank --out log/fused
    xres fuse log/a log/b --search --objective rank1               # on the validation part, else training identities
    xres fuse log/a log/b --by-size                                # the same, by the query's size
    xres fuse log/a log/b --reciprocal-rank

A folder holds query.npz and gallery.npz, or is that of a trained run. For a search it also holds train.npz, or
validation_query.npz and validation_gallery.npz, which are of identities that no branch was trained on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from choices import METRICS, OBJECTIVES
from program import new_parser, tool

if TYPE_CHECKING:
    from torchreid_xres.features.features import FeatureSet
    from torchreid_xres.features.fusion import Search
    from torchreid_xres.metrics.fusion import SizeWeights

RANKS = (1, 5, 10)


def parser() -> argparse.ArgumentParser:
    parser = new_parser("fuse", __doc__)
    parser.add_argument("branches", nargs="+", type=Path, metavar="FOLDER", help="original images' branch first")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--weights", nargs="+", type=float, metavar="W", help="default 2 1 1 1 for four, else equal")
    how.add_argument("--search", action="store_true", help="search weights on validation or training identities")
    how.add_argument("--by-size", action="store_true", help="search weights that depend on the query's size")
    how.add_argument("--reciprocal-rank", action="store_true", help="fuse ranks instead of distances")
    parser.add_argument("--metric", choices=METRICS, default="cosine", help="the branches' distance (default cosine)")
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking of every list")
    parser.add_argument("--protocol", choices=("market", "single_shot"), help="default: as the data set says")
    parser.add_argument("--objective", choices=OBJECTIVES, default="mAP", help="what a search maximises (default mAP)")
    parser.add_argument("--seed", type=int, default=0, help="of a search's split of the identities")
    parser.add_argument("--out", type=Path, help="folder for the fused features and fusion.json")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    if len(args.branches) < 2:
        reader.error("fusion needs at least two folders")
    if args.reciprocal_rank and args.rerank:
        reader.error("--reciprocal-rank has no distances within the gallery, which --rerank needs")
    if args.by_size and args.metric != "cosine":
        reader.error("--by-size needs --metric cosine")
    return args


def is_saved(folder: Path, roles: Sequence[str]) -> bool:
    """Return whether a folder holds a branch's features, and not a trained run that is to make them.

    Raises:
        ValueError: if it is neither, or has no features of a role.
    """
    from torchreid_xres.engine.base import LAST

    if (folder / LAST).is_file() and not (folder / "query.npz").is_file():
        return False
    missing = [f"{role}.npz" for role in roles if not (folder / f"{role}.npz").is_file()]
    if missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}, and no {LAST} of a trained run to make it")
    return True


def searched_roles(folder: Path) -> tuple[str, ...]:
    """Return the roles of the features to search weights on, as the first branch has them."""
    from torchreid_xres.jobs.extraction import OF_VALIDATION, roles_to_choose_on

    if is_saved(folder, ("query", "gallery")):
        return OF_VALIDATION if (folder / f"{OF_VALIDATION[0]}.npz").is_file() else ("train",)
    return roles_to_choose_on(folder)


def read_branch(folder: Path, roles: Sequence[str]) -> dict[str, FeatureSet]:
    """Return a branch's features by role, from its files or from the model of a trained run.

    Raises:
        ValueError: if a file holds the features of another role.
    """
    from torchreid_xres.features.features import FeatureSet
    from torchreid_xres.jobs.extraction import run_features

    if not is_saved(folder, roles):
        return run_features(folder, roles)
    found = {role: FeatureSet.load(folder / f"{role}.npz") for role in roles}
    for role, features in found.items():
        if features.role != role.removeprefix("validation_"):
            raise ValueError(f"{folder / role}.npz holds the features of {features.role} images")
    return found


@tool(parse, "no file is half written")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.files import write_json

    if args.out and args.out.resolve() in {folder.resolve() for folder in args.branches}:
        raise ValueError(f"--out {args.out} is the folder of a branch, whose features it would overwrite")
    records, fused, search = fuse(args)
    if args.out:
        for role, features in fused.items():
            features.save(args.out / f"{role}.npz")
        write_json(records, args.out / "fusion.json")
    print(table(records, args.branches))
    if search is not None:
        print("\n" + search_text(search))
    kept = f"xres fuse {shlex.quote(str(args.out))} FOLDER fuses it with others" if search is None and fused else ""
    print(f"\nnext: {kept if args.out and kept else '--out FOLDER keeps the fused features and the records'}")
    return 0


def fuse(args: argparse.Namespace) -> tuple[list[dict], dict[str, FeatureSet], Search | None]:
    """Return the records of the branches and of the fusion, the fused features by role, and what was searched."""
    from torchreid_xres.data import DATASETS
    from torchreid_xres.devices.memory import keep_freed_memory
    from torchreid_xres.features.features import evaluate_features
    from torchreid_xres.features.fusion import evaluate_reciprocal_ranks, fused_sets, search_weights
    from torchreid_xres.files import require_writable
    from torchreid_xres.jobs.extraction import require_trained
    from torchreid_xres.metrics.fusion import default_weights

    searched = args.search or args.by_size
    if args.out:
        require_writable(args.out)
    keep_freed_memory()
    roles = ("query", "gallery", *(searched_roles(args.branches[0]) if searched else ()))
    with redirect_stdout(sys.stderr):  # torchreid's loaders print what they have found
        for folder in args.branches:  # all of them, before the images of one are read
            if not is_saved(folder, roles):
                require_trained(folder)
        branches = [read_branch(folder, roles) for folder in args.branches]
    query, gallery, *apart = ([branch[role] for branch in branches] for role in roles)
    name = query[0].dataset
    protocol = args.protocol or (DATASETS[name].build.metric if name in DATASETS else "market")
    how = {"protocol": protocol, "ranks": RANKS}

    search, fused = None, {}
    if args.reciprocal_rank:
        record = evaluate_reciprocal_ranks(query, gallery, metric=args.metric, **how) | {"how": "reciprocal ranks"}
    else:
        weights, found_by = args.weights or default_weights(len(branches)), "given" if args.weights else "default"
        if searched:
            settings = {"metric": args.metric, "objective": args.objective, "seed": args.seed}
            search = search_weights(*apart, by_size=args.by_size, **settings)
            weights, found_by = search.weights, "searched by size" if args.by_size else "searched"
        fused = fused_sets(query, gallery, weights, args.metric)
        # One descriptor of all branches: its Euclidean distance is the fused one.
        record = evaluate_features(**fused, metric="euclidean", rerank=args.rerank, **how)
        record |= {"how": found_by, "weights": as_json(weights), "search": as_json(search)}
        record["branch_distance"] = args.metric
        if search is not None:
            record["chosen"] = [{"what": "fusion.weights", "on": search.on}]
    record["inputs"] = [
        {"folder": str(folder), "model": branch.model, "weights_sha256": branch.weights_sha256}
        for folder, branch in zip(args.branches, query, strict=True)
    ]
    alone = [
        evaluate_features(q, g, metric=args.metric, rerank=args.rerank, **how)
        for q, g in zip(query, gallery, strict=True)
    ]
    return [*alone, record], fused, search


def as_json(value: Search | SizeWeights | Sequence[float] | None) -> dict | list | None:
    return asdict(value) if is_dataclass(value) else value and list(value)


def table(records: Sequence[dict], folders: Sequence[Path]) -> str:
    """Return a row for each branch alone and for the fusion, accuracies in per cent."""
    from torchreid_xres.features.tables import rank1_by_resolution
    from torchreid_xres.text import text_table

    fused = records[-1]
    weights = fused.get("weights")
    shown = f"fused, {fused['how']}"
    if isinstance(weights, list):
        shown += " " + ":".join(f"{weight:g}" for weight in weights)
    rows = []
    parts = rank1_by_resolution([record] for record in records)
    for record, branch, by_resolution in zip(records, [*map(str, folders), shown], parts, strict=True):
        row = {"branch": branch, "model": "" if record is fused else record["model"]}
        row |= {key.replace("rank", "rank-"): record[key] for key in (*(f"rank{r}" for r in RANKS), "mAP", "mINP")}
        rows.append(row | by_resolution)
    return text_table(rows, floatfmt=".1f", disable_numparse=[0])


def search_text(search: Search) -> str:
    """Return what was searched on and found; weights by size as a table."""
    from torchreid_xres.metrics.fusion import SizeWeights
    from torchreid_xres.text import text_table

    text = (
        f"searched on {search.identities} {search.on} identities ({search.queries} queries, {search.gallery} gallery "
        f"images, seed {search.seed}): {search.objective} {search.start:.1f} -> {search.found:.1f}; on the others "
        f"{search.checked_start:.1f} -> {search.checked:.1f}"
    )
    if not isinstance(search.weights, SizeWeights):
        return text
    rows = [[side, *weights] for side, weights in zip(search.weights.sides, search.weights.weights, strict=True)]
    headers = ["sqrt(height x width)", *(f"weight {j + 1}" for j in range(len(rows[0]) - 1))]
    return text + "\n\n" + text_table(rows, headers=headers, floatfmt=".2f", disable_numparse=False)


if __name__ == "__main__":
    sys.exit(main())
