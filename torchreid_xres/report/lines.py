"""Line charts as numbers for a template: where ticks and points lie in the chart's own coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

# Of the chart's own coordinates; a page shows it as wide as it has room.
WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 44  # margins around the plot
TICKS = 5  # about so many on an axis
MARKED = 12  # of lines with at most so many points each is marked

Points = Sequence[tuple[float, float]]


class Tick(NamedTuple):
    """A place on an axis and the number there."""

    at: float
    label: str


class Line(NamedTuple):
    """A line by its points (x, y) in the chart's coordinates, and which of them are marked."""

    label: str
    points: list[tuple[float, float]]
    marks: list[tuple[float, float]]


class Chart(NamedTuple):
    """A chart to be drawn.

    Attributes:
        title: what it shows.
        x: what the horizontal axis shows, with its unit.
        y: what the vertical axis shows, with its unit; may be empty.
        x_ticks, y_ticks: of the axes.
        lines: in the order of the legend.
        said: the last value of each line, for those who do not see it.
    """

    title: str
    x: str
    y: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    said: str


def line_chart(
    lines: Mapping[str, Points],
    *,
    title: str,
    x: str,
    y: str,
    span: tuple[float, float] | None = None,
    x_ticks: Sequence[float] = (),
) -> Chart:
    """Lay lines out over one pair of axes.

    Args:
        lines: label -> points (x, y), finite, in ascending x; at least one point in all.
        title: what the chart shows.
        x: what the horizontal axis shows, with its unit.
        y: what the vertical axis shows, with its unit; may be empty where the title says it.
        span: lowest and highest y; None fits the points.
        x_ticks: where the horizontal axis is labelled; empty for round numbers.

    Raises:
        ValueError: if there is nothing to draw, or a number is not finite.

    Example:
        >>> chart = line_chart({"net": [(1, 50), (2, 75)]}, title="CMC", x="rank", y="%", span=(0, 100))
        >>> [tick.label for tick in chart.y_ticks], chart.said
        (['0', '20', '40', '60', '80', '100'], 'net: 75 at 2')
        >>> chart.lines[0].points  # from the left margin to the right one; half and a quarter of the plot's height
        [(52.0, 108.0), (406.0, 59.0)]
    """
    points = [point for line in lines.values() for point in line]
    if not points or not all(math.isfinite(number) for point in points for number in point):
        raise ValueError(f"the chart {title!r} has no points, or some that are not finite")
    first, last = min(px for px, _ in points), max(px for px, _ in points)
    y_ticks = ticks(*(span or (min(py for _, py in points), max(py for _, py in points))))
    low, high = span or (y_ticks[0], y_ticks[-1])
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(value: float) -> float:
        return round(LEFT + plot_width * ((value - first) / (last - first) if last > first else 0.5), 1)

    def down(value: float) -> float:
        return round(TOP + plot_height * (high - value) / (high - low), 1)

    laid = []
    for label, line in lines.items():
        placed = [(across(px), down(py)) for px, py in line]
        laid.append(Line(label, placed, placed if len(placed) <= MARKED else []))
    within = [value for value in x_ticks or ticks(first, last) if first <= value <= last]
    return Chart(
        title, x, y,
        [Tick(across(value), f"{value:g}") for value in within],
        [Tick(down(value), f"{value:g}") for value in y_ticks if low <= value <= high],
        laid,
        "; ".join(f"{label}: {line[-1][1]:.4g} at {line[-1][0]:g}" for label, line in lines.items() if line),
    )  # fmt: skip


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers at even steps, the first not above ``low`` and the last not below ``high``.

    Example:
        >>> ticks(0.3, 2.1)
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
        >>> ticks(7, 7)
        [6.0, 6.5, 7.0, 7.5, 8.0]
    """
    if low == high:
        margin = 10 ** math.floor(math.log10(abs(low))) if low else 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / TICKS
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(start, stop + 1)]


def thinned(points: Points, most: int = 200) -> list[tuple[float, float]]:
    """Return at most ``most`` points: the means of equal stretches of a longer line.

    Example:
        >>> thinned([(0, 1.0), (1, 3.0), (2, 5.0), (3, 5.0)], most=2)
        [(0.5, 2.0), (2.5, 5.0)]
    """
    size = -(-len(points) // most) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(px for px, _ in part), fmean(py for _, py in part)) for part in parts]
