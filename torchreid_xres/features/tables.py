"""Tables from evaluation records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from torchreid_xres.features.keypoint_tables import keypoint_table
from torchreid_xres.text import text_table


def record_tables(records: Sequence[dict], ranks: Sequence[int] = (1, 5, 10), style: str = "github") -> list[str]:
    """Return every table that the records of a job can fill, each kind of record in its own.

    Args:
        records: as :func:`torchreid_xres.jobs.job.run_job` returns them.
        ranks: CMC ranks shown.
        style: a table format of ``tabulate``.
    """
    makers = (
        (lambda part: accuracy_table(part, ranks, style), lambda record: "rank1" in record),
        (lambda part: curve_table(part, style=style), lambda record: "curve" in record),
        (lambda part: keypoint_table(part, style), lambda record: "pck" in record),
        (lambda part: restoration_table(part, style), _restores),
    )
    parts = [(maker, [record for record in records if fits(record)]) for maker, fits in makers]
    return [maker(part) for maker, part in parts if part]


def _restores(record: dict) -> bool:
    return any(key.startswith("psnr_") for key in record)


def accuracy_table(records: Iterable[dict], ranks: Sequence[int] = (1, 5, 10), style: str = "github") -> str:
    """Return one row per model and data set; several splits become mean and standard deviation.

    Args:
        records: as :func:`torchreid_xres.features.record.make_record` makes them; others are left out.
        ranks: CMC ranks shown; the records must have them.
        style: a table format of ``tabulate`` (``github``, ``latex``, ``simple``, ...).

    Returns:
        The table as text; accuracies in per cent, and beside them :func:`rank1_by_resolution`; ``magnified``: how many
        times the network enlarges a low query (the median).
    """
    groups = _grouped(record for record in records if "rank1" in record)
    rows = []
    for ((dataset, model), group), parts in zip(groups.items(), rank1_by_resolution(groups.values()), strict=True):
        row = {"data set": dataset, "model": model}
        for key in (*(f"rank{r}" for r in ranks), "mAP", "mINP"):
            row[key.replace("rank", "rank-")] = spread([rec[key] for rec in group])
        row |= parts
        row["magnified"] = gaps_of(group)
        row["params (M)"] = f"{group[0]['parameters'] / 1e6:.2f}"
        row["train (s)"] = spread([rec["train_seconds"] for rec in group if rec.get("train_seconds")], digits=0)
        rows.append(row)
    if all(row["magnified"] == "-" for row in rows):  # records made before it was kept
        rows = [{key: value for key, value in row.items() if key != "magnified"} for row in rows]
    return text_table(rows, style)


def gaps_of(records: Iterable[Mapping[str, Any]]) -> str:
    """Return how many times a network enlarges the low queries of records, by the median of each and their mean.

    Example:
        >>> gaps_of([{"magnification": {"all": 1.5, "low": 2.0}}]), gaps_of([{"rank1": 50.0}])
        ('x2.0', '-')
    """
    found = [record.get("magnification", {}).get("low") for record in records]
    known = [gap for gap in found if gap is not None]
    return f"x{mean(known):.1f}" if known else "-"


def rank1_by_resolution(groups: Iterable[Sequence[dict]]) -> list[dict[str, str]]:
    """Return the columns with rank-1 in per cent by the queries' resolution, for each row of a table.

    Args:
        groups: the records of each row.

    Returns:
        ``r1@x2``, ... of the queries at each rate, if there are several rates; ``r1@Q1`` to ``r1@Q4`` of the quarters
        of the queries by size, the smallest first, if a record has those.

    Example:
        >>> quarters = [{"quarter": 1, "rank1": 40.0}, {"quarter": 4, "rank1": 60.0}]
        >>> rank1_by_resolution([[{"by_rate": {"1": {"rank1": 50.0}}, "by_size": quarters}]])
        [{'r1@Q1': '40.0', 'r1@Q4': '60.0'}]
    """
    found = [[_rank1_parts(record) for record in records] for records in groups]
    known = {key for group in found for parts in group for key in parts}
    several = sum(kind == "x" for kind, _ in known) > 1
    keys = sorted((key for key in known if several or key[0] == "Q"), key=lambda key: (key[0] == "Q", key[1]))
    return [
        {f"r1@{kind}{at:g}": spread([parts[kind, at] for parts in group if (kind, at) in parts]) for kind, at in keys}
        for group in found
    ]


def _rank1_parts(record: dict) -> dict[tuple[str, float], float]:
    parts = {("x", float(rate)): part["rank1"] for rate, part in record["by_rate"].items()}
    return parts | {("Q", part["quarter"]): part["rank1"] for part in record.get("by_size", [])}


def curve_table(records: Iterable[dict], figures: Sequence[str] = ("rank1", "mAP"), style: str = "github") -> str:
    """Return figures with all low queries at one rate, then at the next: what resolution costs each model.

    Args:
        records: those with a curve (``test.query_rates``) are shown.
        figures: ``rank1``, ``mAP`` or others of the record, a row each.
        style: a table format of ``tabulate``.
    """
    groups = _grouped(record for record in records if "curve" in record)
    rates = sorted({rate for group in groups.values() for rec in group for rate in rec["curve"]}, key=float)
    rows = [
        {"data set": dataset, "model": model, "all queries at": figure.replace("rank", "rank-")}
        | {f"x{rate}": spread([rec["curve"][rate][figure] for rec in group if rate in rec["curve"]]) for rate in rates}
        for (dataset, model), group in groups.items()
        for figure in figures
    ]
    return text_table(rows, style)


def restoration_table(records: Iterable[dict], style: str = "github") -> str:
    """Return PSNR in dB and SSIM of the images a restorer makes at each scale, beside the bicubic ones.

    Args:
        records: those of restorers are shown, with the mean over splits.
        style: a table format of ``tabulate``.
    """
    rows = []
    held = [record for record in records if _restores(record)]
    levels = sorted({int(key[6:]) for record in held for key in record if re.fullmatch(r"psnr_x\d+", key)})
    for (dataset, model), group in _grouped(held).items():
        for made, prefix in ((model, ""), ("bicubic", "bicubic_")):
            row = {"data set": dataset, "model": made}
            for figure, digits in (("psnr", 2), ("ssim", 4)):
                for level in levels:
                    key = f"{figure}_{prefix}x{level}"
                    row[f"{figure.upper()} x{level}"] = spread([rec[key] for rec in group if key in rec], digits)
            rows.append(row)
    return text_table(rows, style)


def ablation_table(result: dict, style: str = "github") -> str:
    """Return the rows of an ablation, ours beside the paper's own figures, and under them what is other than there.

    Args:
        result: as ``benchmarks/ablation.py`` writes it: in ``rows`` of each the ``label``, the ``records``, ``quoted``
            (the paper's ``figures``; one that it does not give is None), ``paper`` (its row) and ``differs`` (texts).
        style: a table format of ``tabulate``.

    Returns:
        The table as text, whose last columns name the paper's row and the notes; below it what both sides were measured
        on, and the notes by number. Where no row has a figure of a paper there are no columns for one.
    """
    figures = [*result["figures"], *(["mAP"] if "mAP" not in result["figures"] else [])]
    notes = list(dict.fromkeys(text for row in result["rows"] for text in row.get("differs", [])))
    quotes = any(value is not None for row in result["rows"] for value in row["quoted"])
    lines = []
    for row in result["rows"]:
        own = sorted(1 + notes.index(text) for text in row.get("differs", []))
        line = {"": row["label"]}
        for key in figures:
            values = [record[key] for record in row["records"] if key in record]
            line[_heading(key)] = spread(values, {"psnr": 2, "ssim": 3}.get(key, 1))
        if quotes:
            for key, value in zip(result["figures"], row["quoted"], strict=True):
                line[f"quoted {_heading(key)}"] = "-" if value is None else str(float(value))
            line["quoted from"] = row.get("paper") or "-"
        line["notes"] = ", ".join(map(str, own)) or "-"
        lines.append(line)
    held = [record for row in result["rows"] for record in row["records"] if "input" in record]
    ours = dict.fromkeys("{} at {}x{}, epochs: {}".format(r["dataset"], *r["input"], r["epochs"]) for r in held)
    parts = [text_table(lines, style)]
    how = "Quoted from" if quotes else "Of"
    parts += [f"Measured on {'; '.join(ours)}. {how} {result['source']}."] if ours else []
    parts += ["\n".join(f"{number}. {text}" for number, text in enumerate(notes, 1))] if notes else []
    return "\n\n".join(parts)


def _heading(figure: str) -> str:
    return figure.upper() if figure in ("psnr", "ssim") else figure.replace("rank", "rank-")


def _grouped(records: Iterable[dict]) -> dict[tuple[str, str], list[dict]]:
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        groups.setdefault((record["dataset"], record["model"]), []).append(record)
    return groups


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean, and with it the standard deviation of several values; a dash for none.

    Example:
        >>> spread([50.0, 52.0])
        '51.0 ± 1.4'
    """
    if not values:
        return "-"
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text
