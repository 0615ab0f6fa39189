import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from torchreid_xres.config import load_config
from torchreid_xres.models import build_model
from torchreid_xres.models.layers import Normalization
from torchreid_xres.pictures.activations import activation_cells, activation_map, overlay
from torchreid_xres.pictures.seen import Trained


def batch(height=64, width=32):
    return {
        "img": torch.randn(1, 3, height, width), "rate": torch.tensor([2.0]), "low": torch.tensor([True]),
        "size": torch.tensor([[height // 2, width // 2]]), "role": ["query"],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["osnet_x0_25", "resnet18", "shufflenet_v2_x1_0"])
def test_the_map_is_that_of_the_networks_last_feature_map(name):
    model = build_model(name, 2, pretrained=False).eval()
    one = batch(128, 64)
    with torch.no_grad():
        last = model.featuremaps(one["img"])[0]
    expected = torch.zeros(last.shape[1:])
    for channel in last:
        expected += channel * channel
    low, high = expected.min(), expected.max()
    torch.testing.assert_close(activation_map(model, one), (expected - low) / (high - low))


@pytest.mark.parametrize(
    "name, size, options",
    [
        ("pcb_p4", (64, 32), None),
        ("densenet121", (64, 32), None),
        ("hacnn", (160, 64), None),
        ("sr_reid", (64, 32), {"sr_options": {"depth": 3, "features": 4}}),
        ("msifla", (64, 32), {"reid": "osnet_x0_25", "widths": (4, 8), "reduce_dim": 8}),
        ("dgrl", (64, 32), {"reid": "osnet_x0_25", "groups": 2, "sr": "bicubic"}),
        ("prpr", (64, 32), {"reid": "osnet_x0_25", "size": (64, 32), "trunk": "light", "head_features": 4}),
    ],
)
def test_stripes_and_pooled_features_are_no_maps(name, size, options):
    model = build_model(name, 0 if options else 2, pretrained=False, **(options or {})).eval()
    found = activation_map(model, batch(*size))
    assert min(found.shape) > 1 and found.min() == 0 and found.max() == 1
    # What a map of this size is of: the image's own proportions.
    assert found.shape[0] / found.shape[1] == pytest.approx(size[0] / size[1], rel=0.3)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_constant_map_is_zero_and_no_map_is_an_error():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat = nn.Conv2d(3, 2, 1)
            nn.init.zeros_(self.flat.weight)

        def forward(self, img):
            return self.flat(img).mean(dim=(2, 3))

    assert activation_map(Constant(), batch()).abs().max() == 0
    with pytest.raises(ValueError, match="Flatten has no feature map"):
        activation_map(nn.Flatten(), batch())
    with pytest.raises(ValueError, match="one image at a time"):
        activation_map(Constant(), {"img": torch.zeros(2, 3, 8, 8)})


def test_overlays_are_bright_where_the_map_is_strong():
    strength = torch.zeros(4, 2)
    strength[3, 1] = 1
    pixels = np.asarray(overlay(torch.full((3, 64, 32), 0.5), strength)).astype(int)
    assert pixels.shape == (64, 32, 3) and pixels[60, 28].sum() > 2 * pixels[4, 4].sum()
    assert pixels[60, 28, 0] > pixels[60, 28, 2]  # yellow, not blue


def test_cells_pair_each_rate_with_its_map():
    data = load_config(None, ["data.height", "64", "data.width", "32"]).data
    model = build_model("osnet_x0_25", 2, pretrained=False).eval()
    trained = Trained("osnet_x0_25", model, data, Normalization())
    cells, columns = activation_cells(trained, [PIL.Image.new("RGB", (40, 80), "teal")] * 2, (1, 4))
    assert columns == 4 and len(cells) == 8
    assert [cell.caption for cell in cells[:4]] == ["x1, 80x40", "map 4x2", "x4, 20x10", "map 4x2"]
