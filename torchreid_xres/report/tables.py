"""Tables from evaluation records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from tabulate import tabulate


def accuracy_table(records: Iterable[dict], ranks: Sequence[int] = (1, 5, 10), style: str = "github") -> str:
    """Return one row per model and data set; several splits become mean and standard deviation.

    Args:
        records: as :func:`torchreid_xres.engine.record.make_record` makes them.
        ranks: CMC ranks shown; the records must have them.
        style: a table format of ``tabulate`` (``github``, ``latex``, ``simple``, ...).

    Returns:
        The table as text; accuracies in per cent, rank-1 by the query's rate in the columns ``r1@...``.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        groups.setdefault((record["dataset"], record["model"]), []).append(record)
    rates = sorted({r for group in groups.values() for rec in group for r in rec["by_rate"]}, key=float)
    curve = sorted({r for group in groups.values() for rec in group for r in rec.get("curve", {})}, key=float)
    rows = []
    for (dataset, model), group in groups.items():
        row = {"data set": dataset, "model": model}
        for key in (*(f"rank{r}" for r in ranks), "mAP", "mINP"):
            row[key.replace("rank", "rank-")] = _spread([rec[key] for rec in group])
        if len(rates) > 1:
            for r in rates:
                row[f"r1@x{r}"] = _spread([rec["by_rate"][r]["rank1"] for rec in group if r in rec["by_rate"]])
        for r in curve:
            row[f"all@x{r}"] = _spread([rec["curve"][r]["rank1"] for rec in group if r in rec.get("curve", {})])
        row["params (M)"] = f"{group[0]['parameters'] / 1e6:.2f}"
        row["train (s)"] = _spread([rec["train_seconds"] for rec in group if rec.get("train_seconds")], digits=0)
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return "-"
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text
