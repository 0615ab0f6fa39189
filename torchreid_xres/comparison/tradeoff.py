"""Figures of a benchmark for a paper: accuracy against effective magnification, and gain against cost."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from torchreid_xres.comparison.curves import AGAINST, FIGURES
from torchreid_xres.comparison.figures import (
    COLOURS,
    MARKERS,
    label_points,
    legend_below,
    log_axis,
    new_figure,
    per_cent_y,
)
from torchreid_xres.comparison.gain import gains
from torchreid_xres.comparison.suite import COSTS

COST_AXES = {
    "train_processor_seconds": "training (processor seconds)",
    "train_seconds": "training (seconds)",
    "multiply_adds": "multiply-adds of a query (G)",
    "parameters": "parameters (M)",
}
MOST_VALUES = 8  # so many magnifications are shown as they are
LEAST_SHARE = 0.05  # of the queries at each of them; else the queries are parted into BINS
BINS = 6

Queries = Mapping[str, np.ndarray]


class Drawn(NamedTuple):
    """A figure, what is to be said below it, and what is not in it and why, by label."""

    figure: Any
    about: str
    left_out: dict[str, str]


class Line(NamedTuple):
    """A row's accuracy in per cent by bins of queries: where each stands, its mean and deviation over runs."""

    label: str
    at: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    runs: int


class Point(NamedTuple):
    """A row's cost, and its gain in points with the ends of its interval; without those, where it has none."""

    label: str
    kind: str
    cost: float
    points: float
    low: float | None
    high: float | None


def queries_beside(path: Path) -> dict[str, list[Queries]]:
    """Return the arrays in the ``.npz`` beside a result as :func:`queries_by_row` does; none if there is no such file.

    Raises:
        ValueError: if it is damaged.
    """
    beside = path.with_suffix(".npz")
    if not beside.is_file():
        return {}
    try:
        with np.load(beside, allow_pickle=False) as arrays:
            return queries_by_row(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{beside} does not hold figures by query (LABEL/SEED/KEY): {error}") from error


def queries_by_row(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Queries]]:
    """Return the arrays beside a result by label, a mapping for each run.

    Args:
        arrays: ``LABEL/SEED/KEY``, as ``benchmarks/accuracy.py --keep`` writes them.

    Example:
        >>> queries_by_row({"a/b/1/mAP": np.zeros(2), "a/b/2/mAP": np.ones(2)})
        {'a/b': [{'mAP': array([0., 0.])}, {'mAP': array([1., 1.])}]}
    """
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for where, values in arrays.items():
        label, seed, key = where.rsplit("/", 2)
        found.setdefault(label, {}).setdefault(seed, {})[key] = values
    return {label: list(runs.values()) for label, runs in found.items()}


def bins_of(magnification: np.ndarray) -> np.ndarray:
    """Return the bin of each query, from 0, the least magnified first.

    There is one for each magnification where they are few, each of enough queries; else all are of about as many
    queries. Queries that are magnified alike stay together.

    Args:
        magnification: of each query, (Q,).

    Example:
        >>> bins_of(np.array([2.0, 4.0, 2.0, 3.0])).tolist()
        [0, 2, 0, 1]
    """
    rounded = np.round(magnification, 3)
    values, which, count = np.unique(rounded, return_inverse=True, return_counts=True)
    if len(values) > MOST_VALUES or count.min() < LEAST_SHARE * len(rounded):
        edges = np.quantile(rounded, np.linspace(0, 1, BINS + 1)[1:-1])
        which = np.unique(np.searchsorted(edges, rounded), return_inverse=True)[1]
    return which


def lines_by_magnification(queries: Mapping[str, Sequence[Queries]], figure: str) -> list[Line]:
    """Return a line for each row over the same bins of queries; each stands at their median magnification by the row.

    Args:
        queries: of each row's runs: ``pid``, ``split``, ``magnification`` and the figure.
        figure: ``rank1`` or ``mAP``.

    Raises:
        ValueError: if rows are of different queries.
    """
    first = next(iter(queries.values()))[0]
    for label, runs in queries.items():
        for run in runs:
            if not all(np.array_equal(run[key], first[key]) for key in ("pid", "split")):
                raise ValueError(f"{label} was measured on other queries than {next(iter(queries))}")
    known = ~np.isnan(sum(run[figure] for runs in queries.values() for run in runs))  # those with a match
    which = bins_of(first["magnification"][known])
    lines = []
    for label, runs in queries.items():
        at = runs[0]["magnification"][known]
        parts = [which == number for number in range(which.max() + 1)]
        values = np.array([[run[figure][known][part].mean() for part in parts] for run in runs], dtype=float)
        spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(parts))
        places = np.array([np.median(at[part]) for part in parts])
        lines.append(Line(label, places, values.mean(axis=0), spread, len(runs)))
    return lines


def draw_magnification(
    rows: Sequence[Mapping[str, Any]], queries: Mapping[str, Sequence[Queries]], figure: str = "rank1"
) -> Drawn:
    """Draw accuracy against by how much the network enlarges queries; a band is a standard deviation over seeds.

    Args:
        rows: of a result of ``benchmarks/accuracy.py``.
        queries: of rows by label, see :func:`queries_by_row`; rows without are left out.
        figure: ``rank1`` or ``mAP``.

    Raises:
        ValueError: if no row has figures by query, or rows are of different queries.
        ImportError: without Matplotlib.
    """
    labels = [row["label"] for row in rows]
    left_out = {label: "no figures by query were kept" for label in labels if label not in queries}
    if len(left_out) == len(labels):
        raise ValueError("no figures by query were kept of these rows, so no accuracy over magnification is drawn")
    lines = lines_by_magnification({label: queries[label] for label in labels if label in queries}, figure)
    drawn = new_figure(6, 3.6 + 0.1 * len(lines))
    axes = drawn.subplots()
    shown = {}
    for number, line in enumerate(lines):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        said = f"{line.label} (n = {line.runs})"
        (shown[said],) = axes.plot(line.at, line.mean, color=colour, marker=marker, markersize=5)
        if line.runs > 1:
            low, high = line.mean - line.std, line.mean + line.std
            axes.fill_between(line.at, low, high, color=colour, alpha=0.15, linewidth=0)
    log_axis(axes, [at for line in lines for at in line.at], "x")
    per_cent_y(axes)
    axes.set_xlabel(AGAINST["magnification"])
    axes.set_ylabel(f"{FIGURES[figure]} (%)")
    axes.grid(alpha=0.3)
    legend_below(drawn, shown)
    about = (
        f"{FIGURES[figure]} of queries by how much the network enlarges them, in {len(lines[0].at)} bins, the same for "
        "all; band: standard deviation over n seeds"
    )
    return Drawn(drawn, about, left_out)


def baseline_of(result: Mapping[str, Any]) -> str:
    """Return the label that most rows of a result are compared with.

    Raises:
        ValueError: if no row is compared with another.
    """
    found = Counter(row["difference"]["against"] for row in result["rows"] if row.get("difference"))
    if not found:
        raise ValueError(f"no row of the suite {result['suite']} is compared with another, so there is no gain")
    return found.most_common(1)[0][0]


def cost_of_row(row: Mapping[str, Any], cost: str) -> float | None:
    """Return the mean cost of a row's cells in the unit of tables; None without any."""
    known = [one[cost] / COSTS[cost][1] for one in row["costs"] if one.get(cost)]
    return mean(known) if known else None


def usual_cost(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the first of the costs of training that all rows have which have any."""
    kinds = ("train_processor_seconds", "train_seconds")
    return next((key for key in kinds if all(cost_of_row(row, key) for row in rows if row["costs"])), kinds[-1])


def gain_points(
    rows: Sequence[Mapping[str, Any]],
    queries: Mapping[str, Sequence[Queries]],
    baseline: str,
    figure: str,
    cost: str,
) -> tuple[list[Point], dict[str, str]]:
    """Return cost and gain of rows, all over one baseline, and which are left out and why.

    Args:
        rows: of a result of ``benchmarks/accuracy.py``.
        queries: of rows by label, see :func:`queries_by_row`. A row without has the gain that the result holds, if that
            is over the baseline.
        baseline: label of the row that gains are over; it may be among the rows, and has no gain then.
        figure: ``rank1`` or ``mAP``.
        cost: a key of :data:`COST_AXES`.
    """
    known = [{"label": label, "seed": number, "queries": run} for label, runs in queries.items()
             for number, run in enumerate(runs)]  # fmt: skip
    found, left_out = [], {}
    for row in rows:
        label, price, told = row["label"], cost_of_row(row, cost), row.get("difference")
        if label == baseline:
            continue
        told = told if told and told["against"] == baseline else None
        if label in queries and baseline in queries and not (told and "low" in told[figure]):
            told = gains([cell for cell in known if cell["label"] in (label, baseline)], {label: baseline})[label]
        if price is None or told is None:
            left_out[label] = f"no {cost} is kept" if told else f"no gain over {baseline} is kept, nor figures by query"
            continue
        one = told[figure]
        found.append(Point(label, row["kind"], price, one["points"], one.get("low"), one.get("high")))
    return found, left_out


def draw_gains(
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    queries: Mapping[str, Sequence[Queries]],
    figure: str = "rank1",
    cost: str = "train_seconds",
) -> Drawn:
    """Draw gains over the suite's baseline, each with its 95 % interval, against what a row costs.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        rows: those of it to be drawn.
        queries: see :func:`gain_points`.
        figure: ``rank1`` or ``mAP``.
        cost: a key of :data:`COST_AXES`.

    Raises:
        ValueError: if no row has both a gain and that cost.
        ImportError: without Matplotlib.
    """
    baseline = baseline_of(result)
    points, left_out = gain_points(rows, queries, baseline, figure, cost)
    if not points:
        raise ValueError(f"no row has both a gain over {baseline} and {cost}: {left_out}")
    at_zero = next((cost_of_row(row, cost) for row in result["rows"] if row["label"] == baseline), None)
    drawn = new_figure(6.4, 4.4)
    axes = drawn.subplots()
    axes.axhline(0, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    kinds, shown = list(dict.fromkeys(point.kind for point in points)), {}
    for number, kind in enumerate(kinds):
        own = [point for point in points if point.kind == kind]
        style = {"color": COLOURS[number % len(COLOURS)], "fmt": MARKERS[number % len(MARKERS)], "markersize": 6}
        ends = [
            [point.points - (point.points if point.low is None else point.low) for point in own],
            [(point.points if point.high is None else point.high) - point.points for point in own],
        ]
        spot = ([point.cost for point in own], [point.points for point in own])
        shown[kind] = axes.errorbar(*spot, yerr=ends, elinewidth=1, capsize=2, **style)
    named = [(point.cost, point.points, point.label) for point in points]
    if at_zero is not None:
        axes.plot([at_zero], [0], linestyle="", color="black", marker="h", markersize=8)
        named.append((at_zero, 0.0, baseline))
    log_axis(axes, [x for x, *_ in named])
    axes.margins(y=0.12)
    axes.set_xlabel(COST_AXES[cost])
    axes.set_ylabel(f"{FIGURES[figure]}: points over {baseline}", parse_math=False)
    axes.grid(alpha=0.3)
    legend_below(drawn, shown)
    bars = [(point.cost, point.low, point.cost, point.high) for point in points if point.low is not None]
    bars.append((axes.get_xlim()[0], 0, axes.get_xlim()[1], 0))
    label_points(axes, named, bars)
    bare = [point.label for point in points if point.low is None]
    about = f"gain in {FIGURES[figure]} over {baseline}, {len(points)} comparisons"
    if len(bare) < len(points):
        about += "; bars: 95 % interval of a paired bootstrap over identities and runs"
    if bare:
        about += f"; without figures by query, so without an interval: {', '.join(bare)}"
    return Drawn(drawn, about, left_out)
