import pytest

from torchreid_xres.report.figures import new_figure, save_figure


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
