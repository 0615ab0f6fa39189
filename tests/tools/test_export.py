
import numpy as np
import PIL.Image
import pytest
import torch
from adapted import with_threshold

from torchreid_xres import host
from torchreid_xres.features.record import weights_hash
from torchreid_xres.inference import Extractor
from torchreid_xres.inference.export import Exported, ExportError
from torchreid_xres.search import Gallery
from torchreid_xres.search.adapt import adapt, plan


@pytest.fixture
def osnet(tmp_path):
    """A checkpoint of torchreid's smallest network, and how the tool is told of it."""
    path = tmp_path / "osnet.pth"
    torch.save(host.build_model("osnet_x0_25", num_classes=7, pretrained=False).state_dict(), path)
    return path, "--model", "osnet_x0_25", "--size", 32, 16


def test_what_the_command_line_says_reaches_the_export(run_tool, osnet, tmp_path, monkeypatch):
    asked = []

    def instead(model, path, recipe, **options):
        asked.append((type(model).__name__, path, recipe, options))
        return [Exported(path, "", options["precision"], 1e-6, 0.99999, 512, 2_000_000)]

    monkeypatch.setattr("torchreid_xres.inference.export.export_onnx", instead)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(10):
        PIL.Image.fromarray(np.full((20 + i, 10, 3), i, np.uint8)).save(pictures / f"{i}.png")
    (pictures / "._0.png").write_bytes(b"resource fork")
    (pictures / "raw.cr2").touch()
    code, shown, said = run_tool(
        *osnet, "--out", "o.onnx", "--precision", "int8", "--images", pictures, "--count", 4, "--bound", 0.9,
        "--input", "float32", "--opset", 20, "--low-size", 8, 5, "--role", "query",
    )  # fmt: skip
    told = "left out: 1 hidden, e.g. ._0.png; 1 pictures of kinds that Pillow does not read here, e.g. raw.cr2"
    assert (code, said) == (0, f"{pictures}: 10 images; {told}\n")
    assert "| o.onnx | all images | 512 " in " ".join(shown.split()) and "0.999990" in shown
    ((name, path, recipe, options),) = asked
    assert (name, str(path), recipe.size, recipe.low_size) == ("OSNet", "o.onnx", (32, 16), (8, 5))
    assert [image[0, 0, 0].item() for image in options["images"]] == [0, 2, 4, 6], "evenly spread"
    assert {key: options[key] for key in ("precision", "bound", "input_type", "opset", "roles")} == {
        "precision": "int8", "bound": 0.9, "input_type": "float32", "opset": 20, "roles": ("query",),
    }  # fmt: skip


def test_what_was_learned_for_a_gallery_becomes_the_file_for_queries(run_tool, osnet, tiny_root, tmp_path, monkeypatch):
    extractor = Extractor.of_host("osnet_x0_25", osnet[0], size=(32, 16), batch_size=18)
    gallery = Gallery(tmp_path / "gallery", extractor)
    gallery.update(tiny_root / "gallery")
    learned = adapt(gallery, extractor, plan(gallery, extractor, 1))
    with_threshold(learned.folder, 2.5)
    asked = []

    def instead(model, path, recipe, **options):
        asked.append(model)
        return [Exported(path, "query", options["precision"], 1e-6, 0.99999, 512, 2_000_000)]

    monkeypatch.setattr("torchreid_xres.inference.export.export_onnx", instead)
    argv = (*osnet, "--query-encoder", learned.folder, "--out", tmp_path / "m.onnx")
    code, _, said = run_tool(*argv)
    (model,) = asked
    assert code == 0 and model.threshold == 2.5, said
    assert weights_hash(model.gallery) == extractor.about["weights_sha256"]
    monkeypatch.undo()
    code, _, said = run_tool(*osnet[:-2], 64, 32, *argv[len(osnet) :])
    assert code == 2 and "its gallery encoder's input is 32x16, and this one's 64x32" in said


def test_a_file_that_is_not_the_network_ends_with_status_2(run_tool, osnet, monkeypatch):
    def refuses(*_, **__):
        raise ExportError("at 3 images of 45x23 the file differs")

    monkeypatch.setattr("torchreid_xres.inference.export.export_onnx", refuses)
    assert run_tool(*osnet, "--out", "o.onnx") == (2, "", "ExportError: at 3 images of 45x23 the file differs\n")


def test_a_users_mistake_is_one_message(run_tool, osnet, tmp_path):
    for args, message in (
        ((tmp_path / "none",), "FileNotFoundError: there is no run or checkpoint at"),
        ((osnet[0],), "lies in no folder of a run"),
        ((osnet[0], "--model", "osnet"), "torchreid has no network 'osnet'"),
        ((osnet[0], "--model", "resnet18"), "does not fit ResNet"),
        ((*osnet, "--precision", "int8"), "int8 takes its ranges from images"),
        ((*osnet, "--images", tmp_path), "there are no images in"),
        ((*osnet, "--low-size", 64, 8), "from 1 pixel to the network's 32x16, not 64x8"),
        ((*osnet, "--opset", 11), "opset 11 has no antialiased resizing"),
    ):
        code, _, said = run_tool(*args, "--out", tmp_path / "o.onnx")
        assert code == 2 and message in said and said.count("\n") == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["osnet.pth"]


@pytest.mark.parametrize(
    "args",
    [("run",), ("run", "--out", "m.pt"), ("run", "--out", "m.onnx", "--precision", "fp8"),
     ("run", "--out", "m.onnx", "--model", "resnet50", "--dataset", "folder")],
)  # fmt: skip
def test_what_cannot_be_asked_for(tool, args):
    with pytest.raises(SystemExit):
        tool.main(list(args))


@pytest.mark.slow
def test_a_checkpoint_of_torchreid_becomes_a_file(run_tool, osnet, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    code, shown, said = run_tool(*osnet, "--out", tmp_path / "out" / "osnet.onnx")
    assert code == 0, said
    assert "all images" in shown
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["osnet.onnx"]
