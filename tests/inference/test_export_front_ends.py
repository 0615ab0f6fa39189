"""Every front end in sr_reid's ONNX file for queries, before a re-ID network of one convolution."""

import pytest
import torch
from tiny_front_ends import TINY, build
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from torchreid_xres.inference import export
from torchreid_xres.inference.chain import Chain, Recipe
from torchreid_xres.inference.export import ExportError, Session, export_onnx
from torchreid_xres.models import MODELS

try:
    export.needs_onnx()
except ImportError as error:  # torch 2.4
    pytest.skip(str(error), allow_module_level=True)

# Of spandrel's networks, which are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

FAST = ("vdsr",)
# What torch cannot follow, or follows wrongly: the file is refused. A later torch or spandrel may do it right.
REFUSED = {
    "spandrel-SeemoRe": "the image's own numbers choose its expert",
    "spandrel-HAT": "the number of images becomes a number of the graph",
    "spandrel-SwinIR": "the number of images becomes a number of the graph",
}
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in TINY if case not in {*FAST, *REFUSED}]
RECIPE = Recipe((16, 8))


def reid_behind(case):
    """Return sr_reid with the front end of a case, in evaluation mode."""
    model = MODELS.build("sr_reid", pretrained=False, sr="bicubic")
    model.front_end = build(case)
    model.reid = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model.eval()


def pictures(count=5):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 3, 37, 20), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("case", [*FAST, *SLOW])
def test_every_front_end_exports(case, tmp_path):
    model = reid_behind(case)
    with torch.no_grad():
        wanted = Chain(model, "query", RECIPE).reference(pictures())
    (file,) = export_onnx(model, tmp_path / "m.onnx", RECIPE, roles=["query"])
    torch.testing.assert_close(Session(file.path)(pictures()), wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    with torch.no_grad():
        assert torch.equal(Chain(model, "query", RECIPE).reference(pictures()), wanted), "the network is left as it was"


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_front_end_that_torch_does_not_follow_is_not_let_through(case, tmp_path):
    try:
        (file,) = export_onnx(reid_behind(case), tmp_path / "m.onnx", RECIPE, roles=["query"])
    except ExportError:
        assert not any(tmp_path.iterdir())
    else:
        assert Session(file.path)(pictures()).shape == (5, 8)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_span_exports_in_fewer_bits(precision, tmp_path):
    model = reid_behind("spandrel-SPAN")
    (file,) = export_onnx(
        model, tmp_path / "m.onnx", RECIPE, roles=["query"], precision=precision, images=list(pictures())
    )
    assert file.cosine > export.BOUNDS[precision]
