import importlib.util

import PIL.Image
import pytest

from torchreid_xres.config import load_config
from torchreid_xres.engine import checkpoint
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.run import Run
from torchreid_xres.models.kgnet import KGNet

OPTIONS = {"hourglass": {"stacks": 1, "depth": 2, "width": 8}, "kgr_blocks": 1}
SR = {"features": 8, "groups": 1, "blocks": 1}
TINY = [
    "data.height", 64, "data.width", 64, "data.pair_rates", [2.0, 4.0], "model.reid", "osnet_x0_25",
    "model.reid_weights", "no longer there", "model.options", {**OPTIONS, "hourglass_weights": "nor there"},
    "sr.name", "omni_sr", "sr.scale", 4, "sr.options", SR,
]  # fmt: skip


@pytest.fixture
def tool(repo):
    spec = importlib.util.spec_from_file_location("draw_guidance_tool", repo / "tools" / "draw_guidance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trained(tmp_path):
    """Return a function: model name to the folder of a run that is done."""

    def make(name="kgnet"):
        folder = tmp_path / name
        folder.mkdir()
        Run(load_config(None, [*TINY, "model.name", name]), 0, folder, "0", name="split0").save()
        model = KGNet(num_classes=3, pretrained=False, reid="osnet_x0_25", sr_scale=4, sr_options=SR, **OPTIONS)
        checkpoint.save_atomic({"models": {"model": model.state_dict()}}, folder / LAST)
        return folder

    return make


def test_a_folder_of_images_becomes_a_picture_and_a_table(tool, trained, tiny_root, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert tool.main([str(trained()), str(tiny_root / "gallery"), "--out", str(out), "--count", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "enlarged" in lines[0] and "restored" in lines[0]
    # 18 images of 6 identities: every sixth is another one.
    assert [line.split()[1][:3] for line in lines[2:]] == ["008", "010", "012"]
    picture = PIL.Image.open(out)
    assert picture.format == "PNG" and picture.size == (13 * 68 + 4, 16 + 3 * 68 + 4)


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
