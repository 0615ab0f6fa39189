import random
from collections import Counter

import pytest
import torch
from PIL import Image

import torchreid_xres  # noqa: F401 (registers)
from torchreid_xres import host
from torchreid_xres.data.base import CrossResolutionDataset
from torchreid_xres.data.manager import XresDataManager, low_flags

OPTIONS = {"folder": {"synthetic": True, "lr_camera": "1"}}


def manager(root, **kwargs):
    kwargs = {"sources": "folder", "height": 32, "width": 16, "batch_size_train": 8, "workers": 0, **kwargs}
    return XresDataManager(root=str(root), options=kwargs.pop("options", OPTIONS), use_gpu=False, **kwargs)


def test_the_hosts_own_manager_sees_our_sets(tiny_root):
    made = host.ImageDataManager(
        root=str(tiny_root), sources="folder", height=32, width=16, batch_size_train=8, workers=0, use_gpu=False
    )
    batch = next(iter(made.train_loader))
    assert {"img", "pid", "camid", "impath", "dsetid", "rate", "size", "role", "low"} == set(batch)
    assert batch["img"].shape == (8, 3, 32, 16) and batch["rate"].tolist() == [1.0] * 8


def test_options_reach_training_and_test_sets(tiny_root):
    made = manager(tiny_root, options={"folder": OPTIONS["folder"] | {"rates": [4.0]}, "*": {"pairs": True}})
    batch = next(iter(made.train_loader))
    assert set(batch["rate"].tolist()) <= {1.0, 4.0} and batch["img_hr"].shape == batch["img_lr"].shape
    query = next(iter(made.test_loader["folder"]["query"]))
    assert set(query["rate"].tolist()) == {4.0} and query["size"].tolist()[0] == [16, 8]
    assert "img_hr" not in query


def test_a_mixed_sampler_fills_each_identity_with_both_kinds(tiny_root):
    made = manager(tiny_root, train_sampler="MixedIdentitySampler", num_instances=4, num_low=1)
    for batch in made.train_loader:
        counts = Counter(zip(batch["pid"].tolist(), batch["low"].tolist(), strict=True))
        assert set(counts.values()) == {1, 3}
        assert all(count == (1 if low else 3) for (_, low), count in counts.items())


def test_low_flags_follow_the_items_over_a_sum_of_sets(tiny_root):
    made = manager(tiny_root, sources=["folder", "folder"], targets=["folder"])
    dataset = made.train_loader.dataset
    assert low_flags(dataset) == [dataset[i]["low"] for i in range(len(dataset))]
    assert len(dataset) == 96 and made.num_train_pids == 16


@pytest.mark.parametrize("rate", [1.0, 2.0, 4.0])
def test_queries_at_one_rate_keep_their_order_and_labels(tiny_root, rate):
    made = manager(tiny_root)
    usual = made.test_loader["folder"]["query"].dataset
    loader = made.query_loader("folder", rate)
    assert [row[:3] for row in loader.dataset.data] == [row[:3] for row in usual.data]
    assert {float(r) for batch in loader for r in batch["rate"]} == {rate}
    sizes = torch.cat([batch["size"] for batch in loader])
    assert set(map(tuple, sizes.tolist())) == {(int(64 // rate), int(32 // rate))}


def test_natural_queries_become_smaller_still(tiny_root):
    made = manager(tiny_root, options={"folder": {"lr_camera": "1"}})
    assert made.test_loader["folder"]["query"].dataset.natural
    for rate, size in ((1.0, (64, 32)), (2.0, (32, 16))):
        batch = next(iter(made.query_loader("folder", rate)))
        assert set(map(tuple, batch["size"].tolist())) == {size} and batch["low"].all()


def test_a_set_of_the_host_has_no_rates_to_set(tiny_root):
    with pytest.raises(ValueError, match=r"'market1501', a set of torchreid, cannot be put"):
        manager(tiny_root).query_loader("market1501", 2.0)


def test_the_queries_of_a_curve_are_of_the_same_kind_as_the_evaluated_ones(tiny_root, monkeypatch):
    made, given = manager(tiny_root, cuhk03_labeled=True), {}
    monkeypatch.setattr(
        "torchreid_xres.data.manager.host.init_image_dataset", lambda name, **options: given.update(options) or []
    )
    made.query_loader("folder", 2.0)
    assert given["cuhk03_labeled"] is True


# Both draws of the crop and the flip; the border is black before normalisation to mean 0 and deviation 1.
PADDED = {"transforms": ["random_flip", "pad_crop"], "pad": 4, "norm_mean": [0.0] * 3, "norm_std": [1.0] * 3}


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_no_low_view_of_a_mirrored_border_has_a_frame(tiny_root, monkeypatch, mode):
    grey = 200 / 255
    monkeypatch.setattr(CrossResolutionDataset, "read", lambda self, path: Image.new("RGB", (32, 64), (200,) * 3))
    options = {"folder": OPTIONS["folder"] | {"pairs": True, "rates": [4.0]}}
    dataset = manager(tiny_root, options=options, padding_mode=mode, **PADDED).train_loader.dataset
    for view in ("img_hr", "img_lr"):
        off = max((dataset[i][view] - grey).abs().max() for i in range(12))
        assert off < 1e-5 if mode == "reflect" else off > grey - 0.1


def test_a_mirrored_border_moves_no_draw(tiny_root):
    pieces = []
    for mode in ("constant", "reflect"):
        dataset = manager(tiny_root, padding_mode=mode, **PADDED).train_loader.dataset
        torch.manual_seed(0)
        random.seed(0)
        pieces.append(torch.stack([dataset[i]["img"] for i in range(24)]))
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert torch.equal(pieces[0][inside], pieces[1][inside]) and not torch.equal(*pieces)
