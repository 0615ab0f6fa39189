"""A tiny data set drawn on disk and engines on it, through the host's own classes."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from torchreid_xres import host, host_mends


def pytest_configure(config):
    config.addinivalue_line("markers", "mend(name): the test shows this mend's fault and its cure")


@pytest.fixture(autouse=True)
def _mended():
    host_mends.apply()
    yield
    host_mends.use_host_evaluator(False)


class Net(nn.Module):
    """Enough of a re-ID model: a trunk, a classifier, and a parameter held by the model itself."""

    def __init__(self, ids=4):
        super().__init__()
        self.trunk = nn.Linear(3, 6)
        self.classifier = nn.Linear(6, ids)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, images):
        features = self.trunk(images.mean(dim=(2, 3))) * self.scale
        return self.classifier(features) if self.training else features


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Register the data set ``tiny`` (4 identities, 2 cameras) and return its manager, engine and folder.

    The gallery has 8 images, fewer than the host's rank 10 and 20.
    """
    rng = np.random.default_rng(0)
    folder = tmp_path / "tiny"
    folder.mkdir()

    def draw(role, pid, camid, count):
        items = []
        for i in range(count):
            path = folder / f"{role}_{pid}_{camid}_{i}.png"
            PIL.Image.fromarray(rng.integers(0, 60, (16, 8, 3), dtype=np.uint8) + np.uint8(40 * pid)).save(path)
            items.append((str(path), pid, camid))
        return items

    train = [item for pid in range(4) for cam in (0, 1) for item in draw("train", pid, cam, 2)]
    query = [item for pid in range(4) for item in draw("query", pid, 0, 1)]
    gallery = [item for pid in range(4) for cam in (0, 1) for item in draw("gallery", pid, cam, 1)]

    class Tiny(host.ImageDataset):
        def __init__(self, root="", **kwargs):
            super().__init__(train, query, gallery, **kwargs)

    table = getattr(host.module("data.datasets"), "__image_datasets")
    monkeypatch.setitem(table, "tiny", Tiny)

    def manager(**kwargs):
        settings = {"sources": "tiny", "height": 16, "width": 8, "batch_size_train": 8, "workers": 0, "use_gpu": False}
        return host.ImageDataManager(**{**settings, **kwargs})

    def engine(model=None, scheduler=None):
        model = model or Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return host.ImageSoftmaxEngine(manager(), model, optimizer, scheduler=scheduler, use_gpu=False)

    return SimpleNamespace(manager=manager, engine=engine, folder=folder, cls=Tiny, train=train, query=query)
