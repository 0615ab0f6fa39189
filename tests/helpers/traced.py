"""A network as ONNX in a second, by torch's exporter of before, where a test does not ask how it is written."""

import io
import warnings

import pytest
import torch

from torchreid_xres.inference import backends, light_files


def handed(runtime, network, image, precision):
    """In place of ``OnnxRuntime.handed``: the network as it takes these images, for any number of them."""
    made = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (image,), made, input_names=["image"], output_names=["descriptor"], opset_version=18,
            dynamic_axes={"image": {0: "n"}}, dynamo=False,
        )  # fmt: skip
    return made.getvalue()


def write_light(extractor, folder):
    """Keep a gallery's network, or its query encoder, for queries without torch; skip where that cannot be."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends.OnnxRuntime, "handed", handed)
        return light_files.write_light(extractor, folder)
