import importlib.util

import PIL.Image
import pytest

from torchreid_xres.config import load_config
from torchreid_xres.engine import checkpoint
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.run import Run
from torchreid_xres.models.msifla import MSIFLA

TINY = ["data.height", "32", "data.width", "16", "model.reid", "osnet_x0_25", "model.options", "{widths: [4, 8]}",
        "model.reid_weights", "no longer there"]  # fmt: skip


@pytest.fixture
def tool(repo):
    spec = importlib.util.spec_from_file_location("draw_scales_tool", repo / "tools" / "draw_scales.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trained(tmp_path):
    """Return a function: model name to the folder of a run that is done."""

    def make(name="msifla"):
        folder = tmp_path / name
        folder.mkdir()
        Run(load_config(None, [*TINY, "model.name", name]), 0, folder, "0", name="split0").save()
        model = MSIFLA(num_classes=3, pretrained=False, reid="osnet_x0_25", widths=(4, 8))
        checkpoint.save_atomic({"models": {"model": model.state_dict()}}, folder / LAST)
        return folder

    return make


def test_a_folder_of_images_becomes_a_picture_and_a_table(tool, trained, tiny_root, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert tool.main([str(trained()), str(tiny_root / "gallery"), "--out", str(out), "--count", "2"]) == 0
    shown = capsys.readouterr().out
    assert "scale 1/3" in shown and "x4" in shown
    assert PIL.Image.open(out).size == (2 * (48 + 4 * 20 + 4), 16 + 5 * 36 + 4)


def test_it_says_what_it_lacks(tool, trained, tiny_root, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for argv, message in (
        ((trained(), empty), "no images"),
        ((empty, tiny_root), "is no folder of a run"),
        ((trained("sr_reid"), tiny_root), "is a run of sr_reid"),
    ):
        assert tool.main([str(part) for part in argv]) == 2
        assert message in capsys.readouterr().err
