"""Figures by Matplotlib: made without a display, written whole, in the format that the name ends in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_xres.files import whole_file
from torchreid_xres.terminal import printable

FORMATS = (".png", ".svg", ".pdf")
# Told apart by lightness and by hue, also with a deficient colour vision (P. Tol, "Colour Schemes", 2021: muted).
COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
MARKERS = "o^sDvPX*<>"
SMALL, LEGEND = 8, 9  # points, of texts among what is drawn and below it
LEAST_SPAN = 12  # per cent from bottom to top, so that a wobble does not look like a fall
NEAR = 6  # points from a point to its text, where that has room
STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))  # of the labels on a logarithmic axis; the finer where it is short


def log_axis(axes: Any, values: Sequence[float], prefix: str = "", which: str = "x") -> None:
    """Make an axis logarithmic, with round numbers at its ticks, and room around the values.

    Args:
        axes: of Matplotlib.
        values: that are shown there, above 0.
        prefix: before each number.
        which: ``x`` or ``y``.
    """
    low, high = min(values) / 1.15, max(values) * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    for steps in STEPS:
        ticks = [step * 10**decade for decade in decades for step in steps if low <= step * 10**decade <= high]
        if len(ticks) > 3:
            break
    ticks = ticks if len(ticks) > 1 else sorted({min(values), max(values)})
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(ticks, labels=[f"{prefix}{round(tick, 3):.12g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def per_cent_y(axes: Any) -> None:
    """Let the vertical axis span enough per cent, and none that there are not."""
    bottom, top = axes.get_ylim()
    middle, half = (bottom + top) / 2, max(top - bottom, LEAST_SPAN) / 2
    axes.set_ylim(max(0, middle - half), min(100.5, middle + half))


def legend_below(figure: Any, lines: Mapping[str, Any]) -> None:
    """Put a legend below the axes of a figure, in as many columns as it has room for.

    Args:
        figure: of :func:`new_figure`.
        lines: label -> what Matplotlib drew; a label is shown as it is, also one that begins with ``_``.
    """
    width = 0.6 * LEGEND * max(len(printable(label)) for label in lines) + 5 * LEGEND  # about, with the line before it
    columns = min(len(lines), max(1, int(72 * figure.get_figwidth() / width)))
    places = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": LEGEND}
    legend = figure.legend(list(lines.values()), [str(i) for i in range(len(lines))], **places)
    for text, label in zip(legend.get_texts(), lines, strict=True):
        text.set_text(printable(label))  # only now: Matplotlib leaves out what begins with "_"


def label_points(
    axes: Any, points: Sequence[tuple[float, float, str]], kept_free: Sequence[Sequence[float]] = ()
) -> None:
    """Write a text at each point where it covers least of other texts, points and what is to be kept free.

    The layout of the figure is fixed by it: whatever else is drawn comes before.

    Args:
        axes: of Matplotlib, with their limits and scales.
        points: x, y and the text, in data coordinates.
        kept_free: lines (x0, y0, x1, y1) that texts had better not cover, in data coordinates.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # whereby the axes come to where they stay
    figure.set_layout_engine("none")
    unit = 72 / figure.dpi  # points of a pixel

    def place(x: float, y: float) -> np.ndarray:
        return axes.transData.transform((x, y)) * unit

    frame = axes.get_window_extent().extents * unit + (NEAR / 2, NEAR / 2, -NEAR / 2, -NEAR / 2)
    at = [place(x, y) for x, y, _ in points]
    how = {"fontsize": SMALL, "parse_math": False}
    texts = [axes.text(x, y, printable(text), **how) for x, y, text in points]
    sizes = [np.array([box.width, box.height]) * unit for box in (text.get_window_extent() for text in texts)]
    for text in texts:
        text.remove()
    solid = [np.concatenate([one - 4, one + 4]) for one in at]
    for x0, y0, x1, y1 in kept_free:
        ends = np.array([place(x0, y0), place(x1, y1)])
        solid.append(np.concatenate([ends.min(axis=0) - 1, ends.max(axis=0) + 1]))

    def boxes(which: int) -> Iterator[tuple[float, np.ndarray]]:
        """Give places for a text, each with its distance: beside, above, below, at the corners, ever further away."""
        for distance in (NEAR, 12, 20, 30, 42, 56):
            for way in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
                middle = at[which] + np.array(way) * (distance + sizes[which] / 2)
                yield distance, np.concatenate([middle - sizes[which] / 2, middle + sizes[which] / 2])

    def cost(which: int, distance: float, box: np.ndarray) -> float:
        others = [one for number, one in placed.items() if number != which]
        covered = sum(_overlap(box, one) for one in solid) + 2 * sum(_overlap(box, one) for one in others)
        return distance + covered + 5 * (np.prod(sizes[which]) - _overlap(box, frame))

    placed: dict[int, np.ndarray] = {}
    for _ in range(3):  # those placed early see only then where the others are
        for which in range(len(points)):
            placed[which] = min(boxes(which), key=lambda found: cost(which, *found))[1]
    line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    behind = {"pad": 0.5, "facecolor": (1, 1, 1, 0.7), "edgecolor": "none"}
    for which, (x, y, text) in enumerate(points):
        middle = (placed[which][:2] + placed[which][2:]) / 2
        away = np.linalg.norm(at[which] - at[which].clip(placed[which][:2], placed[which][2:]))
        axes.annotate(
            printable(text), (x, y), middle - at[which], textcoords="offset points", ha="center", va="center",
            arrowprops=line if away > 1.1 * NEAR else None, bbox=behind, **how,
        )  # fmt: skip


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the area that two boxes (x0, y0, x1, y1) share."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.prod(sides.clip(0)))


def new_figure(width: float, height: float) -> Any:
    """Return an empty Matplotlib figure.

    Args:
        width, height: in inches.

    Raises:
        ImportError: if Matplotlib is not installed, saying how it is.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need Matplotlib: pip install 'torchreid_xres[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure, whole or not at all; the same figure gives the same file.

    Its texts are shown as they are: a ``$`` in a name begins no formula.

    Args:
        figure: of :func:`new_figure`.
        path: its file; the name ends in one of ``FORMATS``.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    kind = path.suffix.lower()[1:]
    # Type 42: publishers refuse PDFs with Matplotlib's usual fonts of type 3.
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with whole_file(path) as scratch, matplotlib.rc_context({"svg.hashsalt": path.name, "pdf.fonttype": 42}):
        figure.savefig(scratch, format=kind, dpi=160, metadata=dated.get(kind))
