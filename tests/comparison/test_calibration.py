"""The figure of expected against counted strangers."""

import pytest

from torchreid_xres.comparison.calibration import draw_calibration
from torchreid_xres.comparison.figures import save_figure

pytest.importorskip("matplotlib")


def row(name, expected, counted, way="x4"):
    return {"data set": name, "magnification": way, "expected": expected, "counted": counted}


def test_a_line_for_each_set_and_magnification(tmp_path):
    rows = [row("a", 1.0, 2.0), row("a", 0.1, 0.3), row("a", 10.0, 0.0), row("b", 1.0, 1.0, "as captured")]
    figure = draw_calibration(rows)
    (axes,) = figure.axes
    _, first, second = axes.lines  # the diagonal comes first
    assert first.get_xdata().tolist() == [0.1, 1.0] and first.get_ydata().tolist() == [0.3, 2.0]
    assert second.get_xdata().tolist() == [1.0] and first.get_color() != second.get_color()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["within a factor of 2", "a, x4", "b, as captured"]
    assert axes.get_yscale() == axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.3", "0.4", "0.5", "0.6", "0.8", "1", "1.5", "2"]
    save_figure(figure, tmp_path / "strangers.svg")
    with pytest.raises(ValueError, match="no strangers were counted"):
        draw_calibration([row("a", 1.0, 0.0)])
