import numpy as np
import pytest

from torchreid_xres.comparison.figures import label_points, legend_below, log_axis, new_figure, save_figure


@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_same_figure_gives_the_same_file(tmp_path, ending, start):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / f"plot.{ending}"
    found = []
    for _ in range(2):
        figure = new_figure(2, 1)
        figure.subplots().plot([1, 2], [3, 1], label="net")
        save_figure(figure, path)
        found.append(path.read_bytes())
    assert found[0] == found[1] and found[0].startswith(start)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_failed_one_leaves_what_was_there(tmp_path):
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")

    class Broken:
        def findobj(self, kind):
            return []

        def savefig(self, file, **how):
            file.write_bytes(b"half")
            raise OSError("no space")

    pytest.importorskip("matplotlib")
    with pytest.raises(OSError, match="no space"):
        save_figure(Broken(), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"torchreid_xres\[report\]"):
        new_figure(2, 1)


@pytest.mark.parametrize(
    "values, ticks",
    [((140, 2000), "200 500 1000 2000"), ((2, 4), "2 3 4"),
     ((0.02, 2), "0.02 0.05 0.1 0.2 0.5 1 2"), ((1.26,), "1.26")],
)
def test_a_logarithmic_axis_has_round_numbers(values, ticks):
    pytest.importorskip("matplotlib")
    axes = new_figure(3, 2).subplots()
    log_axis(axes, values, "x")
    low, high = axes.get_xlim()
    assert low < min(values) and high > max(values)
    assert " ".join(tick.get_text()[1:] for tick in axes.get_xticklabels()) == ticks


def test_texts_at_points_cover_neither_each_other_nor_points():
    pytest.importorskip("matplotlib")
    figure = new_figure(6, 4)
    axes = figure.subplots()
    generator = np.random.default_rng(0)
    points = [(x, y, f"row_{x:.2f}") for x, y in generator.random((12, 2)).tolist()]
    points += [(0.5, 0.5, "a"), (0.5, 0.5, "b$")]
    axes.plot([x for x, *_ in points], [y for _, y, _ in points], "o")
    label_points(axes, points, [(0, 0.5, 1, 0.5)])
    figure.draw_without_rendering()
    assert [text.get_text() for text in axes.texts] == [text for *_, text in points]
    boxes = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
    for number, box in enumerate(boxes):
        assert axes.bbox.padded(2).containsx(box.x0) and axes.bbox.padded(2).containsx(box.x1)
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.contains(*axes.transData.transform((x, y))) for x, y, _ in points)


def test_a_legend_has_as_many_columns_as_there_is_room_for():
    pytest.importorskip("matplotlib")
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for length, columns in ((4, 6), (30, 2), (200, 1)):
        figure.legends.clear()
        lines = {f"_{number}".ljust(length, "x"): axes.plot([1, 2])[0] for number in range(9)}
        legend_below(figure, lines)
        assert figure.legends[0]._ncols == columns
        assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)
