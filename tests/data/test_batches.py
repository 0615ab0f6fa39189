"""Batches that hold the camera's own pixels beside what the network sees."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from torchreid_xres.data.base import dataset_options
from torchreid_xres.data.batches import with_native
from torchreid_xres.data.manager import XresDataManager


@pytest.fixture
def manager(mixed_root):
    """Of pictures of 64x32 and 32x16."""

    def make(**options):
        return XresDataManager(
            options={"folder": {"lr_camera": "1", "pair_rates": (2.0,)}}, root=str(mixed_root), sources="folder",
            targets="folder", height=48, width=24, batch_size_train=6, batch_size_test=9, workers=0, use_gpu=False,
            **options,
        )  # fmt: skip

    return make


def test_test_batches_hold_the_cameras_own_pixels(manager):
    made = manager(native=True)
    loaders = [made.test_loader["folder"]["gallery"], made.query_loader("folder", 2.0)]
    for loader in loaders:
        batch = next(iter(loader))
        assert [list(image.shape[:2]) for image in batch["native"]] == batch["size"].tolist()
        assert len({image.shape for image in batch["native"]}) == 2
        for path, image in zip(batch["impath"], batch["native"], strict=True):
            assert np.array_equal(image, np.asarray(loader.dataset.seen(path)))
        assert batch["img"].shape == (9, 3, 48, 24)
    assert "native" not in next(iter(made.train_loader))
    assert "native" not in next(iter(manager().test_loader["folder"]["query"]))


def test_a_training_set_gives_them_whatever_it_keeps_in_memory(manager, mixed_root):
    with dataset_options({"*": {"cache_mb": 100}}):
        batch = next(iter(with_native(manager().train_loader)))
    assert {image.shape for image in batch["native"]} <= {(64, 32, 3), (32, 16, 3)}
    assert batch["img"].shape == (6, 3, 48, 24)


def test_sets_of_the_host_have_none():
    loader = DataLoader(torch.zeros(4, 2), batch_size=2)
    assert with_native(loader) is loader and torch.equal(next(iter(loader)), torch.zeros(2, 2))
