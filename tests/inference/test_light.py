"""Queries described without torch are described as with it; what does not fit, or is damaged, is left to torch."""

import json
import logging
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from adapted import with_threshold
from torch.nn import functional as F
from traced import write_light

from torchreid_xres.inference import Extractor, backends, light_files
from torchreid_xres.inference.light import ABOUT, FOLDER, LIGHT, LIGHT_ABOUT, TRAINING, LightExtractor
from torchreid_xres.search import Gallery, adapt

SIZES = ((64, 32), (16, 8), (11, 21), (31, 16), (200, 90), (32, 16))
PICTURES = [PIL.Image.effect_noise(size[::-1], 60).convert("RGB") for size in SIZES]
FP32 = {"device": "cpu", "precision": "fp32"}


def light_of(extractor, folder, adapted=True):
    return LightExtractor.of(folder, extractor.about, extractor.weights, adapted)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("osnet_x0_25", {}),
        ("sr_reid", {"test.flip": True, "data.interpolation": "bicubic", "data.norm_std": [0.5, 0.25, 0.2]}),
        ("asymmetric", {"model.options": {"query": "osnet_x0_25"}}),
    ],
)
def test_features_are_those_of_torch(run_of, tmp_path, name, changes):
    extractor = Extractor(run_of(name, **changes), **FP32)
    assert write_light(extractor, tmp_path) > 0
    light = light_of(extractor, tmp_path)
    whole, ours = ([of.prepare(img) for img in PICTURES] for of in (extractor, light))
    for one, other in zip(whole, ours, strict=True):
        assert np.array_equal(one.pixels.numpy(), other.pixels) and one.size == other.size
    wanted, got = extractor.describe(whole), torch.from_numpy(light.describe(ours))
    assert F.cosine_similarity(got, wanted).min() > 0.99999
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    assert [light.is_low(size) for size in SIZES] == [extractor.is_low(size) for size in SIZES]
    assert light.full_size == extractor.full_size and light.drawn_sources == extractor.drawn_sources
    assert light.has_front_end == (extractor.restored(whole[1]) is not None)
    assert write_light(extractor, tmp_path) is None  # it is there


@pytest.fixture(scope="module")
def kept(run_of, tmp_path_factory):
    """A network, and a folder with what is kept of it."""
    extractor, folder = Extractor(run_of("osnet_x0_25"), **FP32), tmp_path_factory.mktemp("kept")
    write_light(extractor, folder)
    return extractor, folder


@pytest.mark.parametrize("fault", ["damaged", "gone", "older", "of other settings", "of other weights", "no weights"])
def test_what_does_not_fit_is_left_to_torch(kept, tmp_path, fault):
    extractor, folder = kept
    place = shutil.copytree(folder, tmp_path / "gallery")
    about, file, weights = place / LIGHT / LIGHT_ABOUT, place / LIGHT / "network.onnx", tmp_path / "last.pth.tar"
    shutil.copy2(extractor.weights, weights)
    told = json.loads(about.read_text())
    assert LightExtractor.of(place, extractor.about, weights, True) is not None
    if fault == "damaged":
        file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    elif fault == "gone":
        file.unlink()
    elif fault == "older":
        about.write_text(json.dumps(told | {"format": 0}))
    elif fault == "of other settings":
        about.write_text(json.dumps(told | {"about": told["about"] | {"flip": not told["about"]["flip"]}}))
    elif fault == "of other weights":
        weights.write_bytes(weights.read_bytes() + b"\0")
    else:
        weights.unlink()
    assert LightExtractor.of(place, extractor.about, weights, True) is None


def test_networks_that_look_at_own_pixels_are_left_to_torch(run_of, tmp_path):
    assert write_light(Extractor(run_of("dgrl"), **FP32), tmp_path) is None and not any(tmp_path.iterdir())


def test_a_network_that_cannot_be_written_is_told_and_nothing_is_kept(kept, tmp_path, monkeypatch, caplog):
    def refused(self, name, roles):
        raise RuntimeError("\nno such operator\nat all")

    monkeypatch.setattr(backends.Backend, "proved", refused)
    with caplog.at_level(logging.WARNING):
        assert light_files.write_light(kept[0], tmp_path) is None and not any(tmp_path.iterdir())
    assert "queries to this gallery need torch: no such operator" in caplog.text


def test_a_query_encoder_answers_what_it_answers_in_torch(run_of, tiny_root, tmp_path):
    extractor = Extractor(run_of("osnet_x0_25"), **FP32)
    gallery = Gallery(tmp_path / "gallery", extractor)
    gallery.update(tiny_root / "gallery")
    learned = adapt.adapt(gallery, extractor, adapt.plan(gallery, extractor, 1)).folder
    with_threshold(learned, 1.5)
    both = gallery.make_extractor(query_encoder=learned, **FP32)
    place = gallery.folder
    write_light(extractor, place)
    assert light_of(extractor, place) is None and light_of(extractor, place, adapted=False).query_encoder is None
    write_light(both, place)
    light = light_of(extractor, place)
    whole, ours = ([of.prepare(img) for img in PICTURES] for of in (both, light))
    assert light.by_query_encoder(ours).tolist() == [False, True, True, False, False, False]
    assert light.by_query_encoder(ours).tolist() == both.by_query_encoder(whole).tolist()
    torch.testing.assert_close(torch.from_numpy(light.describe(ours)), both.describe(whole), rtol=1e-3, atol=1e-4)
    assert light.query_encoder.about == both.query_encoder.about
    assert light.query_encoder.share_of_others(gallery.matrix) == 0
    with_threshold(learned, 2.5)  # learned anew, and not yet written
    assert light_of(extractor, place) is None
    shutil.rmtree(learned)
    assert light_of(extractor, place).query_encoder is None
    (place / FOLDER).mkdir()
    (place / FOLDER / TRAINING).touch()
    assert light_of(extractor, place) is None and not (place / FOLDER / ABOUT).exists()


@pytest.mark.slow
def test_the_exporter_of_now_writes_the_same(run_of, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    extractor = Extractor(run_of("osnet_x0_25"), **FP32)
    assert light_files.write_light(extractor, tmp_path) > 0
    light = light_of(extractor, tmp_path)
    wanted = extractor.describe([extractor.prepare(img) for img in PICTURES])
    got = torch.from_numpy(light.describe([light.prepare(img) for img in PICTURES]))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
