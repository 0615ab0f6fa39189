"""Resolution curves: rank-1 and mAP against the queries' rate or magnification, several models in one plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from torchreid_xres.comparison.figures import COLOURS, MARKERS, legend_below, log_axis, new_figure, per_cent_y
from torchreid_xres.features.records import check_record, read_json
from torchreid_xres.terminal import printable

FIGURES = {"rank1": "rank-1", "mAP": "mAP"}
# What a point is of -> the record's entry that holds it.
QUERIES = {"all": "curve", "drawn": "by_rate"}
# What a curve is over -> how it is named at the axis.
AGAINST = {"rate": "", "magnification": "effective magnification (input height / stored height)"}


class Curve(NamedTuple):
    """Figures of a model by rate, in per cent.

    Attributes:
        dataset: registered name.
        label: the model's.
        rates: ascending.
        at: where they stand on the axis: the rates, or by how much the network enlarges queries at them.
        mean: figure (``rank1``, ``mAP``) -> its mean over the records at each rate.
        std: the same, the standard deviation; 0 of a single record.
        records: of how many records.
    """

    dataset: str
    label: str
    rates: list[float]
    at: list[float]
    mean: dict[str, list[float]]
    std: dict[str, list[float]]
    records: int


def labelled_records(files: Iterable[str]) -> list[tuple[str, dict]]:
    """Read the records of files: one each, or a list of them.

    Args:
        files: paths, or ``LABEL=path`` to show its records under another label than their model's.

    Returns:
        Labels and records of rankings; others are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is no JSON or holds no record of a ranking.
    """
    found = []
    for text in files:
        label, _, name = text.partition("=") if "=" in text and not Path(text).is_file() else ("", "", text)
        held = read_json(name)
        records = held if isinstance(held, list) else [held]
        ranked = [record for record in records if isinstance(record, dict) and "rank1" in record]
        if not ranked:
            raise ValueError(f"{name} holds no record of a ranking")
        found += [(label or record["model"], record) for record in (check_record(one, name) for one in ranked)]
    return found


def resolution_curves(
    records: Iterable[tuple[str, dict]], queries: str = "all", against: str = "rate"
) -> list[Curve]:
    """Gather records by data set and label, those of several splits or seeds into one curve.

    Args:
        records: labels and records, as :func:`labelled_records` returns them.
        queries: ``all``: at each rate all low queries are at that rate (what an evaluation with ``test.query_rates``
            keeps). ``drawn``: the queries that the protocol has at that rate.
        against: ``rate``, or ``magnification``: by how much the network enlarges the low queries at that rate (their
            median), which records have of all queries, if they were made by a version that keeps it.

    Returns:
        The curves, in the order of the records; a rate that not all records of a label have is left out.

    Raises:
        ValueError: if a record has no such figures, or no magnification, or the records of one label have no rate in
            common.

    Example:
        >>> one = {"dataset": "d", "by_rate": {"2": {"rank1": 60.0, "mAP": 50.0}, "4": {"rank1": 40.0, "mAP": 30.0}}}
        >>> two = {"dataset": "d", "by_rate": {"2": {"rank1": 62.0, "mAP": 52.0}}}
        >>> resolution_curves([("a", one), ("a", two)], "drawn")[0].mean
        {'rank1': [61.0], 'mAP': [51.0]}
    """
    entry = QUERIES[queries]
    groups: dict[tuple[str, str], list[dict]] = {}
    for label, record in records:
        if not record.get(entry):
            hint = "; it was evaluated without test.query_rates" if queries == "all" else ""
            raise ValueError(f"the record of {label} on {record['dataset']} holds no figures by rate ({entry}){hint}")
        groups.setdefault((record["dataset"], label), []).append(record)
    curves = []
    for (dataset, label), group in groups.items():
        shared = set.intersection(*(set(record[entry]) for record in group))
        if not shared:
            raise ValueError(f"the {len(group)} records of {label} on {dataset} have no rate in common")
        rates = sorted(shared, key=float)
        at = [[_at(rate, record[entry][rate], against) for record in group] for rate in rates]
        if None in (place for places in at for place in places):
            hint = "was made before it was kept" if queries == "all" else "has it of all queries only (curve)"
            raise ValueError(f"a record of {label} on {dataset} holds no magnification by rate; it {hint}")
        values = {key: [[record[entry][rate][key] for record in group] for rate in rates] for key in FIGURES}
        curves.append(
            Curve(
                dataset,
                label,
                [float(rate) for rate in rates],
                [mean(places) for places in at],
                {key: [mean(at_rate) for at_rate in found] for key, found in values.items()},
                {key: [stdev(v) if len(v) > 1 else 0.0 for v in found] for key, found in values.items()},
                len(group),
            )
        )
    return curves


def _at(rate: str, part: dict, against: str) -> float | None:
    return float(rate) if against == "rate" else part.get("magnification")


def draw_curves(curves: Sequence[Curve], queries: str = "all", against: str = "rate") -> Any:
    """Draw rank-1 and mAP side by side, a row for each data set; a band is a standard deviation to either side.

    Args:
        curves: of any data sets.
        queries, against: as for :func:`resolution_curves`; named at the axis.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: without Matplotlib.
    """
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    labels = list(dict.fromkeys(curve.label for curve in curves))
    figure = new_figure(9, 3.6 * len(datasets) + 0.3)
    grid = figure.subplots(len(datasets), len(FIGURES), squeeze=False)
    lines: dict[str, tuple[str, Any]] = {}
    for row, dataset in zip(grid, datasets, strict=True):
        for axes, (key, name) in zip(row, FIGURES.items(), strict=True):
            for curve in (curve for curve in curves if curve.dataset == dataset):
                i = labels.index(curve.label)
                colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
                middle, spread = curve.mean[key], curve.std[key]
                (line,) = axes.plot(curve.at, middle, color=colour, marker=marker)
                said = f"{curve.label} ({curve.records} runs, mean ± std)" if curve.records > 1 else curve.label
                lines.setdefault(curve.label, (said, line))
                if curve.records > 1:
                    low, high = ([m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
                    axes.fill_between(curve.at, low, high, color=colour, alpha=0.18, linewidth=0)
            places = sorted({place for curve in curves if curve.dataset == dataset for place in curve.at})
            if against == "rate":
                axes.set_xticks(places, [f"x{rate:g}" for rate in places])
            else:
                log_axis(axes, places, "x")
            per_cent_y(axes)
            axes.set_title(printable(f"{dataset}: {name}"))
            of = "all low queries at" if queries == "all" else "queries that the protocol has at"
            axes.set_xlabel(AGAINST[against] or of)
            axes.set_ylabel(f"{name} (%)")
            axes.grid(alpha=0.3)
    legend_below(figure, dict(lines.values()))
    return figure
