"""Whether a search expects rightly how many strangers are as near as a hit: expected against counted, as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchreid_xres.comparison.figures import COLOURS, MARKERS, legend_below, log_axis, new_figure

WITHIN = 2  # times; as far off is called right


def draw_calibration(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draw counted strangers over expected ones, a line for each data set and magnification.

    Args:
        rows: of ``benchmarks/strangers.py``: ``data set``, ``magnification``, ``expected`` and ``counted``, images a
            query. Where none was counted no point is drawn: its axes are logarithmic.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: without Matplotlib.
        ValueError: if nothing was counted.
    """
    if not all("counted" in row for row in rows):
        raise ValueError("these are no results of benchmarks/strangers.py: they hold no counted strangers")
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["counted"] > 0:
            groups.setdefault((row["data set"], row["magnification"]), []).append((row["expected"], row["counted"]))
    if not groups:
        raise ValueError("no strangers were counted: there is nothing to draw")
    sets, ways = (list(dict.fromkeys(group[place] for group in groups)) for place in (0, 1))
    places = sorted({expected for points in groups.values() for expected, _ in points})
    figure = new_figure(5.2, 4.6)
    axes = figure.subplots()
    ends = [places[0], places[-1]]
    near = axes.fill_between(ends, [at / WITHIN for at in ends], [at * WITHIN for at in ends], color="0.9", linewidth=0)
    axes.plot(ends, ends, color="0.6", linewidth=1)
    lines: dict[str, Any] = {f"within a factor of {WITHIN}": near}
    for (name, way), points in groups.items():
        colour = COLOURS[sets.index(name) % len(COLOURS)]
        style = {"marker": MARKERS[sets.index(name) % len(MARKERS)], "linestyle": ("-", "--", ":")[ways.index(way) % 3]}
        (lines[f"{name}, {way}"],) = axes.plot(*zip(*sorted(points), strict=True), color=colour, **style)
    log_axis(axes, places)
    log_axis(axes, [at for points in groups.values() for _, at in points], which="y")
    axes.set_xlabel("strangers expected as near as a distance")
    axes.set_ylabel("strangers counted")
    axes.grid(alpha=0.3)
    legend_below(figure, lines)
    return figure
