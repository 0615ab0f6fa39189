import copy
import json

import pytest
import torch
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from torchreid_xres import host
from torchreid_xres.features.record import weights_hash
from torchreid_xres.inference import export
from torchreid_xres.inference.accuracy import compare_accuracy
from torchreid_xres.inference.branches import ways
from torchreid_xres.inference.export import ExportError, Recipe, Session, compare, export_onnx
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.inference.network import find_run, load_network
from torchreid_xres.models import MODELS
from torchreid_xres.models.asymmetric import NEVER, Asymmetric
from torchreid_xres.models.nonlocal_block import NonLocal
from torchreid_xres.models.staged_trunk import channels_after

try:
    export.needs_onnx()
except ImportError as error:  # torch 2.4
    pytest.skip(str(error), allow_module_level=True)

# Registered models that describe nobody, so that there is no descriptor to export.
NO_DESCRIPTOR = {
    "dgrl_restorer": "gives images",
    "prpr_restorer": "gives images",
    "hourglass_vehicle20": "gives heat maps",
}
ONE_FILE = {"hrnet_reid", "psh_rnet", "msifla", "osnet_x0_25"}


class Small(nn.Module):
    """A descriptor of 6 numbers that differ in sign."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.linear = nn.Linear(16, 6)

    def forward(self, img):  # (N, 3, H, W)
        return self.linear(self.conv(img).relu().mean((2, 3)))


class BatchFixed(Small):
    """Windows are put together again as many a Swin Transformer does it: the number of images becomes a number."""

    def forward(self, img):
        windows = super().forward(img).view(-1, 3)  # (2 N, 3)
        return windows.view(int(len(windows) / 2), 6)


class OverBatch(nn.Module):
    """What an exporter could make of a network: right for no batch but one image's."""

    def __init__(self, chain):
        super().__init__()
        self.chain = self.model = chain

    def forward(self, image):
        found = self.chain(image)
        return found - 0.01 * (found.mean(0, keepdim=True) - found)


def noise(*size, count=8):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for _ in range(count)]


def test_a_file_takes_any_number_and_size_of_8_bit_images(tmp_path):
    model = Small().train()
    recipe = Recipe((16, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), flip=True, unit=True, interpolation="bicubic")
    (file,) = export_onnx(model, tmp_path / "new" / "m.onnx", recipe, facts={"model": "small"})
    assert model.training, "the network is left as it was"
    assert [path.name for path in file.path.parent.iterdir()] == ["m.onnx"]
    assert (file.role, file.precision, file.dim, file.size) == ("", "fp32", 6, file.path.stat().st_size)
    assert 0 <= file.difference < 1e-5 and file.cosine > 0.999999
    assert b".py" not in file.path.read_bytes(), "no lines of Python, and no paths of this machine"

    session = Session(file.path)
    assert session.facts["model"] == "small" and session.facts["role"] == "any"
    assert session.facts["size"] == "16x8" and len(session.facts["weights_sha256"]) == 64
    # From the definition: resize, normalise, both directions, length 1.
    image = torch.stack(noise(31, 22, count=4))
    x = nn.functional.interpolate(image / 255, (16, 8), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    x = (x - mean) / std
    with torch.no_grad():
        wanted = nn.functional.normalize(model(x) + model(x.flip(-1)), dim=1)
    assert torch.allclose(session(image), wanted, atol=1e-5)
    assert torch.allclose(session(image / 255), wanted, atol=1e-5), "floats are rounded to the 8 bits that it takes"


def test_floats_as_input(tmp_path):
    (file,) = export_onnx(Small(), tmp_path / "m.onnx", Recipe((16, 8)), input_type="float32", opset=20)
    images = torch.stack(noise(16, 8))
    assert torch.equal(Session(file.path)(images), Session(file.path)(images.float() / 255))


def test_a_graph_with_the_number_of_images_in_it_is_caught(tmp_path):
    with pytest.raises(ExportError, match="at 3 images of 45x23"):
        export_onnx(BatchFixed(), tmp_path / "m.onnx", Recipe((16, 8)))
    assert not any(tmp_path.iterdir())


def test_a_graph_that_is_wrong_in_silence_at_another_batch_is_caught(tmp_path, monkeypatch):
    write = export.write_graph
    monkeypatch.setattr(export, "write_graph", lambda chain, *rest: write(OverBatch(chain), *rest))
    with pytest.raises(ExportError, match=r"differs from torch by|cosine to torch"):
        export_onnx(Small(), tmp_path / "m.onnx", Recipe((16, 8)))
    assert not any(tmp_path.iterdir())


def test_the_bound_of_the_cosine(tmp_path):
    (file,) = export_onnx(Small(), tmp_path / "m.onnx", Recipe((16, 8)))
    batch = torch.stack(noise(20, 10, count=3))
    right = Session(file.path)(batch)
    assert compare(file.path, [batch], [right], 0.999) == (0.0, pytest.approx(1.0))
    off = right + torch.tensor([0.3, 0, 0, 0, 0, 0])
    with pytest.raises(ExportError, match=r"at 3 images of 20x10 the file's cosine to torch is 0\.\d+, at least 0"):
        compare(file.path, [batch], [off], 0.9999)
    with pytest.raises(ExportError, match="cosine"):
        compare(file.path, [batch], [right * torch.nan], 0.5)
    with pytest.raises(ExportError, match="differs from torch"):
        compare(file.path, [batch], [right * 1.01], 0.9999)
    with pytest.raises(ExportError, match=r"gives \(3, 6\) for 3 images of 20x10, torch \(3, 5\)"):
        compare(file.path, [batch], [right[:, :5]], 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_numbers_are_near_and_refused_where_they_are_not_near_enough(tmp_path, precision):
    images, path = noise(30, 18), tmp_path / "m.onnx"
    (file,) = export_onnx(Small(), path, Recipe((16, 8)), precision=precision, images=images)
    assert 1e-6 < file.difference < 0.05 and file.cosine > export.BOUNDS[precision]
    kept = path.read_bytes()
    with pytest.raises(ExportError, match="at least 1 is asked for"):
        export_onnx(Small(), path, Recipe((16, 8)), precision=precision, images=images, bound=1.0)
    assert path.read_bytes() == kept and len(list(tmp_path.iterdir())) == 1, "what was there before stays"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"precision": "fp8"}, "no precision 'fp8'; allowed: fp32, fp16, int8"),
        ({"precision": "int8"}, "int8 takes its ranges from images.* there are 0"),
        ({"input_type": "float64"}, "no input type 'float64'"),
        ({"opset": 17}, "opset 17"),
        ({"roles": ("train",)}, r"the roles are query, gallery or one of them, not \['train'\]"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(Small(), tmp_path / "m.onnx", Recipe((16, 8)), **changes)
    with pytest.raises(ValueError, match="from 1 pixel to the network's 16x8, not 20x4"):
        Recipe((16, 8), low_size=(20, 4))


def test_a_network_that_torch_cannot_export_is_named(tmp_path, monkeypatch):
    def fails(*_, dynamic_shapes, **__):
        raise RuntimeError("many lines of\nadvice") from ValueError("\nno such operator")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ExportError, match=r"torch cannot export Small: no such operator$"):
        export_onnx(Small(), tmp_path / "m.onnx", Recipe((16, 8)))
    assert not any(tmp_path.iterdir())


def test_a_network_that_replaces_its_own_weights_is_refused_before_the_exporter_crashes(tmp_path, monkeypatch):
    class Writes(Small):
        def forward(self, img):
            self.linear.weight.data = 2 * self.conv.weight.sum() + torch.ones(6, 16)
            return super().forward(img)

    monkeypatch.setattr(torch.onnx, "export", lambda *_, dynamic_shapes, **__: pytest.fail("the exporter was called"))
    with pytest.raises(ExportError, match=r"torch cannot export Writes: at each call .* parameter linear\.weight$"):
        export_onnx(Writes(), tmp_path / "m.onnx", Recipe((16, 8)))
    assert not any(tmp_path.iterdir())


def test_a_model_that_tells_images_apart_must_say_how():
    class New(Small):
        def extract(self, batch):
            return self(batch["img"])

    with pytest.raises(ValueError, match="New tells images apart, and it is not known how"):
        ways(New(), (8, 4))


@pytest.mark.parametrize("name", NO_DESCRIPTOR)
def test_models_without_descriptors_are_refused(name, tmp_path):
    sizes = {
        "dgrl_restorer": {"groups": 1, "blocks": 1, "features": 4, "reduction": 2},
        "prpr_restorer": {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4},
        "hourglass_vehicle20": {"stacks": 1, "depth": 2, "width": 8},
    }
    with pytest.raises(ValueError, match="describes no identities"):
        export_onnx(MODELS.build(name, **sizes[name]), tmp_path / "m.onnx", Recipe((32, 32)))


def test_every_registered_model_is_exported_here_or_has_a_reason(methods):
    assert set(MODELS) - set(methods) == set(NO_DESCRIPTOR)


def test_the_ways_of_a_model_are_those_of_its_extract(run_of, method):
    """In torch, without a file: each way gives what ``extract`` gives for images of its role."""
    run, weights = find_run(run_of(method))
    model, _ = load_network(run, weights)
    recipe = Recipe.of(run.cfg, (run.cfg.data.height // 2, run.cfg.data.width // 2))
    found = ways(model, recipe.low_size)
    assert list(found) == ([""] if method in ONE_FILE else ["query", "gallery"])
    images = torch.stack(noise(40, 24, count=3))
    outputs = []
    with torch.no_grad():
        for role in found:
            chain = export.Chain(model, role, recipe).eval()
            outputs.append(chain(images))
            wanted = chain.reference(images)
            torch.testing.assert_close(outputs[-1], wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    assert len(outputs) == 1 or not torch.allclose(*outputs, atol=1e-4), "two files are worth it"


class Shallow(nn.Module):
    """A published network's maps, by one convolution each."""

    def __init__(self, *channels, strides=(16,)):
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, c, stride, stride) for c, stride in zip(channels, strides, strict=True))

    def forward(self, img):
        found = [conv(img).relu() for conv in self.maps]
        return found if len(found) > 1 else found[0]

    featuremaps = forward


def shallow_hrnet(reid):
    reid.backbone = Shallow(*reid.backbone.feature_info.channels(), strides=(4, 8, 16, 32))


def shallow_dgrl(model):
    channels = channels_after(nn.Sequential(model.stems["hr"].layers, *model.stages))
    for stem in model.stems.values():
        stem.layers = Shallow(channels[0], strides=(4,))
    for i, stage in enumerate(model.stages):
        after = [module for module in stage.modules() if isinstance(module, NonLocal)][-1:]
        model.stages[i] = nn.Sequential(nn.Conv2d(channels[i], channels[i + 1], 1, 1 if i in (0, 3) else 2), *after)


def shallow_branches(model):
    for level in model.branches:
        model.branches[level] = Small()


def shallow_parts(model):
    for part in model.reid:
        part.backbone = Shallow(part.part_dim)


def shallow_encoders(model):
    for encoder in model.encoders.values():
        encoder.trunk = Shallow(encoder.bn.num_features)


# How the published networks in a method, which are most of the work, are replaced in place by a convolution or two.
SHALLOW = {
    "sr_reid": lambda model: setattr(model, "reid", Small()),
    "hrnet_reid": shallow_hrnet,
    "psh_rnet": lambda model: shallow_hrnet(model.reid),
    "kgnet": shallow_encoders,
    "msifla": shallow_parts,
    "dgrl": shallow_dgrl,
    "prpr": shallow_branches,
    "asymmetric": lambda model: setattr(model, "query", Small()),
}


def test_the_methods_made_shallow_are_all_but_the_hosts(methods):
    assert set(methods) - set(SHALLOW) == {"osnet_x0_25"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("sr_reid", "msifla") else pytest.mark.slow) for name in SHALLOW]
)
def test_what_a_method_does_with_queries_exports(name, run_of, tmp_path):
    run, weights = find_run(run_of(name))
    model, _ = load_network(run, weights)
    SHALLOW[name](model)
    (file,) = export_onnx(model.eval(), tmp_path / "m.onnx", Recipe.of(run.cfg), roles=["query"])
    assert file.role == ("" if name in ONE_FILE else "query")


def test_a_pair_of_encoders_says_from_where_on_which_answers(tmp_path):
    model = Asymmetric(reid=Small(), size=(32, 16), query_size=(16, 8)).eval()
    with torch.no_grad():
        model.query.linear.weight.add_(0.1 * torch.randn(6, 16))
    model.threshold.fill_(4.5)  # beyond the third of the input's size that a query has by default
    model.length.fill_(3.0)
    files = export_onnx(model, tmp_path / "m.onnx", Recipe((32, 16)))
    sessions = {file.role: Session(file.path) for file in files}
    assert [session.facts["threshold"] for session in sessions.values()] == ["4.5", "4.5"]
    assert sessions["query"].facts["gallery_sha256"] == weights_hash(model.gallery)
    prepare = export.Chain(model, "query", Recipe((32, 16))).prepare
    threshold = float(sessions["query"].facts["threshold"])
    for height in (7, 8, 32):
        image = torch.stack(noise(height, 5, count=2))
        role = "query" if 32 / height >= threshold else "gallery"
        assert role == ("query" if height == 7 else "gallery")
        about = {"size": torch.tensor([[height, 5]] * 2), "role": [""] * 2}
        with torch.no_grad():
            wanted = model.extract({"img": prepare(image), **about})
        assert torch.allclose(sessions[role](image), wanted, atol=1e-4)

    model.threshold.fill_(NEVER)
    with pytest.raises(ValueError, match="the query encoder answers no query"):
        export_onnx(model, tmp_path / "m.onnx", Recipe((32, 16)))


@pytest.mark.slow
def test_every_method_exports(run_of, method, tmp_path):
    folder = run_of(method)
    run, weights = find_run(folder)
    model, _ = load_network(run, weights)
    recipe = Recipe.of(run.cfg)
    files = export_onnx(model, tmp_path / "m.onnx", recipe)
    assert [file.role for file in files] == ([""] if method in ONE_FILE else ["query", "gallery"])
    assert {path.name for path in tmp_path.iterdir()} == {file.path.name for file in files}
    # As the extractor has it, but for its resizing in 8 bits.
    size = recipe.low_size if files[0].role else recipe.size
    picture = noise(*size, count=1)[0]
    (wanted,) = Extractor(folder, device="cpu", precision="fp32")([picture], role=files[0].role)
    assert torch.cosine_similarity(Session(files[0].path)(picture[None])[0], wanted, dim=0) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", ["osnet_x0_25", "resnet50"])
def test_networks_of_torchreid_export(name, tmp_path):
    model = host.build_model(name, num_classes=1, pretrained=False)
    (file,) = export_onnx(model, tmp_path / "m.onnx", Recipe((64, 32)))
    assert file.role == "" and file.cosine > 0.99999


def test_the_files_rank_as_the_run_does(run_of, tmp_path, monkeypatch):
    """Without an exporter: a session that asks torch, so that only the sending of images to files is under test."""
    folder = run_of("sr_reid")
    run, weights = find_run(folder)
    model, _ = load_network(run, weights)
    recipe = Recipe.of(run.cfg)
    asked = []

    class Asks:
        def __init__(self, role):
            self.chain = export.Chain(copy.deepcopy(model), role, recipe).eval()

        def __call__(self, images):
            asked.append((self.chain.role, len(images)))
            return self.chain(images)

    monkeypatch.setattr("torchreid_xres.inference.accuracy.Session", Asks)
    files = [export.Exported(role, role, "fp32", 0.0, 1.0, 512, 1) for role in ("query", "gallery")]
    found = compare_accuracy(folder, files, "folder")
    assert found["onnx"] == pytest.approx(found["torch"], abs=0.1) and found["torch"]["mAP"] > 0
    assert dict(asked).keys() == {"query", "gallery"}
    json.dumps(found)
    with pytest.raises(ValueError, match="with both files"):
        compare_accuracy(folder, files[:1], "folder")
