"""Figures by Matplotlib: made without a display, written whole, in the format that the name ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchreid_xres.files import whole_file

FORMATS = (".png", ".svg", ".pdf")
# Told apart by lightness and by hue, also with a deficient colour vision (P. Tol, "Colour Schemes", 2021: muted).
COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
MARKERS = "o^sDvPX*<>"


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
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with whole_file(path) as scratch, matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(scratch, format=kind, dpi=160, metadata=dated.get(kind))
