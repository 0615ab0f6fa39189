"""Shared fixtures: one thread, seeded generators, and the folder of real data where there is one."""

import os
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    # Two spinning threads on a busy two-core machine are many times slower than one.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights: XRES_DATA, or ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("XRES_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set XRES_DATA to the folder that holds it")
    return folder
