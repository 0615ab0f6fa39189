"""Training pictures kept in memory: the same items, read once."""

import pytest
import torch
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from torchreid_xres.data import base
from torchreid_xres.data.io import read_image
from torchreid_xres.data.manager import XresDataManager

OPTIONS = {"synthetic": True, "lr_camera": "1"}


@pytest.fixture
def reads(monkeypatch):
    """The files that are read, in order."""
    seen = []

    def counted(path, *how):
        seen.append(str(path))
        return read_image(path, *how)

    monkeypatch.setattr(base, "read_image", counted)
    return seen


def train_set(root, **kwargs):
    options = OPTIONS | {key: kwargs.pop(key) for key in ("pairs", "cache_mb", "pair_rates") if key in kwargs}
    made = XresDataManager(
        root=str(root), sources="folder", height=48, width=20, batch_size_train=8, use_gpu=False, workers=0,
        options={"folder": options}, **kwargs,
    )  # fmt: skip
    return made.train_loader.dataset, made


@pytest.mark.parametrize("pairs", [False, True])
def test_items_are_the_same_and_files_are_read_once(tiny_root, reads, pairs):
    plain, _ = train_set(tiny_root, pairs=pairs, pair_rates=[2.0])
    cached, _ = train_set(tiny_root, pairs=pairs, pair_rates=[2.0], cache_mb=1)
    for index in (*range(len(plain)), *range(len(plain)), -1):
        for dataset in (plain, cached):
            torch.manual_seed(index)
            dataset.last = dataset[index]
        assert plain.last.keys() == cached.last.keys()
        for key, value in plain.last.items():
            same = torch.equal(value, cached.last[key]) if torch.is_tensor(value) else value == cached.last[key]
            assert same, key
    assert len(reads) == len(plain) * 2 + 1 + len(plain)


def test_no_cache_where_it_would_be_too_large_or_read_once(tiny_root):
    dataset, made = train_set(tiny_root, cache_mb=1)
    assert dataset._cache is not None
    assert made.test_loader["folder"]["query"].dataset._cache is None
    count = len(dataset)
    limit = 2**20 // (3 * count * 20) + 1  # height at which 1 MiB does not do
    made = XresDataManager(
        root=str(tiny_root), sources="folder", height=limit, width=20, batch_size_train=8, use_gpu=False, workers=0,
        options={"folder": OPTIONS | {"cache_mb": 1}},
    )  # fmt: skip
    assert made.train_loader.dataset._cache is None
    assert train_set(tiny_root)[0]._cache is None


def test_workers_fill_one_cache(tiny_root, reads):
    dataset, _ = train_set(tiny_root, cache_mb=1)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context="fork")
    assert len(list(loader)) == len(dataset) // 8
    dataset[0], dataset[len(dataset) - 1]
    assert reads == []  # the workers read them, and this process has them


def test_normalised_pictures_have_the_bits_of_torchvision(tiny_root):
    dataset, made = train_set(tiny_root, transforms=[])
    usual = Compose([Resize((48, 20)), ToTensor(), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    for transform in (made.transform_tr, made.transform_te):
        assert [type(step).__name__ for step in transform.transforms][-1] == "ToNormalized"
    for item in dataset:
        if not item["low"]:
            assert torch.equal(item["img"], usual(read_image(item["impath"])))
