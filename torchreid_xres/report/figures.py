"""Figures by Matplotlib: made without a display, written whole, in the format that the name ends in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchreid_xres.files import whole_file
from torchreid_xres.terminal import printable

FORMATS = (".png", ".svg", ".pdf")
# Told apart by lightness and by hue, also with a deficient colour vision (P. Tol, "Colour Schemes", 2021: muted).
COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
MARKERS = "o^sDvPX*<>"
STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7))  # of the labels on a logarithmic axis; the finer where it is short


def log_x(axes: Any, values: Sequence[float], prefix: str = "") -> None:
    """Make the horizontal axis logarithmic, with round numbers at its ticks, and room around the values.

    Args:
        axes: of Matplotlib.
        values: that are shown there, above 0.
        prefix: before each number.
    """
    low, high = min(values) / 1.15, max(values) * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    for steps in STEPS:
        ticks = [step * 10**decade for decade in decades for step in steps if low <= step * 10**decade <= high]
        if len(ticks) > 3:
            break
    ticks = ticks if len(ticks) > 1 else sorted({min(values), max(values)})
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{prefix}{tick:.3g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def legend_below(figure: Any, lines: Mapping[str, Any], columns: int = 4) -> None:
    """Put a legend below the axes of a figure.

    Args:
        figure: of :func:`new_figure`.
        lines: label -> what Matplotlib drew; a label is shown as it is, also one that begins with ``_``.
        columns: at most so many beside each other.
    """
    places = {"loc": "outside lower center", "ncols": min(columns, len(lines)), "frameon": False}
    legend = figure.legend(list(lines.values()), [str(i) for i in range(len(lines))], **places)
    for text, label in zip(legend.get_texts(), lines, strict=True):
        text.set_text(printable(label))  # only now: Matplotlib leaves out what begins with "_"


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
