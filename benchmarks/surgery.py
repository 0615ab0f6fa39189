"""What is a trained network without one of its parts? Each is put out at test in turn, and nothing is trained again.

    python benchmarks/surgery.py --run log/dgrl_mlr_cuhk03_mini --root /path/to/data
    python benchmarks/surgery.py --run log/msifla_vehicle2cam/split0/msifla --root /path/to/data --keep surgery.json

What stands for a part (its input, zero, the same weight for all, an enlarged image) each model says in its method
``named_parts``; parts without which there is no network, and those that do not run at test, have no row.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import of_run

from torchreid_xres.engine.base import XresMixin
from torchreid_xres.features.features import evaluate_features
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import labelled, trained_engine
from torchreid_xres.jobs.run import Run, ranking_options
from torchreid_xres.parts import Part, parts_of, put_out


def surgery(folder: Path, root: str) -> tuple[list[dict], dict]:
    """Return a row for a trained network as it is and one without each of its parts, and of what they are.

    Args:
        folder: of a trained run of a re-ID network.
        root: folder of the data sets.

    Raises:
        ValueError: for a network that gives no features.
    """
    run, engine = trained_engine(folder, root=root)
    if engine.figures:
        raise ValueError(f"{folder}: {run.label} gives images or maps; parts are put out of networks that rank")
    name, model = run.cfg.data.targets[0], unwrap(engine.model)
    parts = {label: part for label, part in parts_of(model).items() if part.off is not None}
    rows = [row_of(run, engine, name)]
    rows += [row for label, part in parts.items() if (row := row_of(run, engine, name, label, part))]
    return rows, {"model": run.label, "dataset": name, "seed": run.cfg.train.seed, "epochs": run.cfg.train.max_epoch}


def row_of(run: Run, engine: XresMixin, name: str, label: str = "", part: Part | None = None) -> dict | None:
    """Return the figures on a data set; None if the part does not run there."""
    loaders, digest = engine.test_loader[name], "without " + label
    with put_out(part) if part is not None else nullcontext([True]) as called:
        query, gallery = (
            labelled(run, engine, loaders[role], loaders[role].dataset, name=name, role=role, digest=digest)
            for role in ("query", "gallery")
        )
    if not called:
        return None
    how = ranking_options(run.cfg, name)
    record = evaluate_features(query, gallery, metric=how.pop("distance"), **how, ranks=(1,))
    row = {"put out": label or "nothing", "rank-1": record["rank1"], "mAP": record["mAP"]}
    return row | {f"rank-1 x{rate}": part["rank1"] for rate, part in record.get("by_rate", {}).items()}


def main(argv: list[str] | None = None) -> int:
    return of_run.command(__doc__, surgery, "{model} on {dataset} without each of its parts", argv)


if __name__ == "__main__":
    sys.exit(main())
