"""GPU paths without a GPU: every model, engine and loss, and the ranking, on tensors that only claim to be on one.

A clash of devices raises. What is read back, and what is copied to the GPU, has to be named here with its reason: a
read makes a GPU finish all its work before the next is given to it.
"""

import numpy as np
import pytest
import torch
from every_model import CASES
from fake_gpu import gpu, is_fake

from torchreid_xres.data.camera import Camera
from torchreid_xres.keypoints import to_points
from torchreid_xres.keypoints.heatmaps import binary_maps, gaussian_maps
from torchreid_xres.keypoints.scores import pck
from torchreid_xres.losses.batch_hard import batch_hard_triplet
from torchreid_xres.losses.pixelwise import OF_IMAGES
from torchreid_xres.losses.weighted_triplet import weighted_regularised_triplet
from torchreid_xres.metrics import rank_features
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.metrics.rerank import _first_pass, _FromFeatures
from torchreid_xres.models.vpfa import PANNINGS

# Who reads back, at most how often in a step or a batch, and why.
READ = {
    "engine/base:step": (2, "once a step, all losses: one that is not finite ends the run; msifla takes two steps"),
    "engine/evaluation:_described": (1, "once a batch: its features, which are collected on the CPU"),
    "engine/asymmetric:_ask_gallery_encoder": (2, "once a run, in batches: what a frozen encoder says is kept"),
    "models/asymmetric:for_query": (1, "once a batch: the threshold was found in training and is kept in the weights"),
    "engine/prpr:_views": (12, "the loader's transforms, which levels pass after they were made, work on pictures"),
    "host_mends/training:forward": (1, "the host's triplet loss says when a batch holds one identity"),
    "torchreid/cross_entropy_loss:forward": (1, "the host's"),
    "torchreid/softmax:forward_backward": (2, "the host's: a loss and an accuracy"),
}
ROWS = "which images of the batch: known on the CPU, so that nothing is read back"
# Who copies to the GPU, and why.
COPIED = {
    "devices/parallel:to_device": "the batch",
    "engine/evaluation:extract": "the batch",
    "torchreid/softmax:forward_backward": "the batch, by the host",
    "torchreid/engine:parse_data_for_train": "the batch, by the host",
    "torchreid/cross_entropy_loss:forward": "the host's: labels that it made on the CPU",
    "tensors:kept_constant": "once",
    "data/degrade:_weights": "once for each size",
    "data/degrade:_inverse_weights": "once for each size",
    "data/camera:_view": "noise, drawn where a checkpoint keeps the generator's state",
    "engine/keypoints:losses": "the batch's keypoints",
    "engine/keypoints:augment": "draws, made where a checkpoint keeps the generator's state",
    "engine/asymmetric:_ask_gallery_encoder": "once a run: the batch",
    "engine/asymmetric:_of_index": "what the frozen encoder once said of the batch",
    "engine/prpr:_views": "the levels, after the loader's transforms; rows",
    "models/prpr:captured": "the pictures at their own size",
    **dict.fromkeys(
        ("engine/sr_reid:losses", "engine/psh_rnet:losses", "engine/kgnet:losses", "engine/dgrl:losses",
         "engine/dgrl_restorer:losses", "engine/msifla:_versions", "models/cmsr2:resolution_versions",
         "models/sr_reid:extract", "models/kgnet:extract", "models/dgrl:extract", "models/dgrl:restore",
         "models/prpr:extract", "models/asymmetric:extract", "losses/asymmetric:forward"), ROWS,
    ),
}  # fmt: skip


def require_named(found):
    """Fail for what is read back or copied and not named above."""
    often = {who: times for who, times in found.back.items() if times > READ.get(who, (0, ""))[0]}
    assert not often, f"read back, and not named: {often}"
    unnamed = {who: times for who, times in found.there.items() if who not in COPIED}
    assert not unnamed, f"copied to the GPU, and not named: {unnamed}"
    found.back.clear()
    found.there.clear()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in {"dgrl", "kgnet", "msifla", "prpr"})) for name in CASES],
)
def test_every_step_and_extraction(name, engine_of):
    engine = engine_of(name)
    batch = next(iter(engine.train_loader))
    with gpu() as found:
        found.move_engine(engine)
        summary = engine.step(batch)
        assert summary and all(type(value) is float for value in summary.values())
        require_named(found)
        engine.set_model_mode("eval")
        if engine.figures:  # it describes no identities
            with torch.no_grad():
                said = engine.model(batch["img"].to("cuda"))
            assert all(map(is_fake, [said] if torch.is_tensor(said) else said))
            return
        with torch.no_grad():
            assert engine._described(batch).shape[0] == len(batch["img"])
        require_named(found)


def test_what_only_settings_reach():
    with gpu() as found:
        features, pids = torch.rand(8, 4).to("cuda"), (torch.arange(8) // 2).to("cuda")
        img, points = torch.rand(8, 3, 16, 8).to("cuda"), torch.rand(8, 20, 2).to("cuda")
        found.there.clear()
        assert all(is_fake(loss(img, img)) for loss in OF_IMAGES.values())
        assert is_fake(batch_hard_triplet(features, pids)) and is_fake(weighted_regularised_triplet(features, pids))
        assert is_fake(psnr(img, img)) and is_fake(ssim(img, img))
        assert is_fake(pck(to_points(gaussian_maps(points, (8, 8))), points)) and is_fake(binary_maps(points, (8, 8)))
        require_named(found)


def test_of_a_camera_only_jpeg_reads_back():
    with gpu() as found:
        images, sizes = torch.rand(4, 3, 32, 16).to("cuda"), torch.tensor([[32, 16]] * 4)
        found.there.clear()
        assert is_fake(Camera(jpeg=0.0, share=1.0).views(images, sizes)[0])
        require_named(found)
        assert is_fake(Camera(jpeg=1.0, share=1.0).views(images, sizes)[0])
        assert found.back == {"data/camera:_compressed": 4}  # a library on the CPU writes and reads it


@pytest.mark.parametrize("name", PANNINGS)
def test_features_are_moved_by_rates_on_the_cpu(name):
    module = PANNINGS[name].build(features=4, rates=[2, 4], hidden=4)
    with gpu() as found:
        found.move(module, {})
        features = torch.rand(6, 4).to("cuda")
        found.there.clear()
        assert is_fake(module(features, torch.tensor([1, 2, 2, 3, 4, 8.0], dtype=torch.float64)))
        assert not found.back


def test_ranking_reads_a_band_and_not_a_query():
    query, gallery = torch.rand(70, 4), torch.rand(80, 4)
    labels = (torch.arange(70).numpy() % 10, torch.arange(80).numpy() % 10, [0] * 70, [1] * 80)
    with gpu() as found:
        on = query.to("cuda"), gallery.to("cuda")
        found.there.clear()
        bands = 2
        rank_features(*on, *labels, tile=35)
        assert found.back == {
            "metrics/distance:squared_norms": 2,  # once for each side: numbers that no distance can be made of
            "metrics/rank:_rows_with_nan": bands,
            "metrics/protocols:entries": bands,
            "metrics/protocols:_places_on_gpu": 2 * bands,  # places, and which of them are tied
        }
        assert set(found.there) == {"metrics/protocols:entries", "metrics/protocols:_places_on_gpu"}
        found.back.clear()
        _first_pass(_FromFeatures(*on, "euclidean"), 21, np.empty((70, 80), np.float32))
        assert set(found.back) == {
            "metrics/distance:squared_norms", "metrics/rerank:__init__", "metrics/rerank:_first_pass",
            "metrics/rerank:_lowest",
        }
        assert max(found.back.values()) <= 5  # one band


@pytest.mark.parametrize("read", [
    lambda x: x.sum().item(), lambda x: bool((x > 0).all()), lambda x: x.cpu(), lambda x: x[x[:, 0] > 0],
    lambda x: x.tolist(), lambda x: x.nonzero(), lambda x: torch.zeros(2, 2).copy_(x), lambda x: float(x.mean()),
])  # fmt: skip
def test_a_read_is_seen(read):
    with gpu() as found:
        read(torch.rand(2, 2).to("cuda"))
        assert sum(found.back.values()) == 1


def test_a_clash_and_a_constant_are_seen():
    with gpu() as found:
        x = torch.rand(2, 2).to("cuda")
        with pytest.raises(RuntimeError, match="device"):
            x + torch.ones(2)
        found.there.clear()
        x.new_tensor([1.0, 2.0])
        x[[1, 0]]
        torch.tensor([1.0], device="cuda")
        assert sum(found.there.values()) == 3
        x * torch.tensor(2.0) + 1
        assert sum(found.there.values()) == 3 and not found.back
