"""Shared fixtures: one thread where none are asked for, an own cache, seeded generators, the folder of real data."""

import os
from pathlib import Path

import pytest
import torch

pytest_plugins = ["untrained_runs"]
REPO = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    # Two spinning threads on a busy two-core machine are many times slower than one, in the tests' commands, too.
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


def pytest_report_header(config):
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let a report of names that are no text pass between the processes of pytest-xdist."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_collection_modifyitems(items):
    """Leave out the example of what the oldest torch cannot do."""
    for item in items:
        if item.name == "torchreid_xres.inference.export.export_onnx":
            from torchreid_xres.inference.export import needs_onnx

            try:
                needs_onnx()
            except ImportError as error:
                item.add_marker(pytest.mark.skip(reason=str(error)))


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


@pytest.fixture(scope="module")
def config_of(tiny_root, tmp_path_factory):
    """Return a function: a registered model's name, and changes, to its configuration at a tiny size."""
    from every_model import configurations

    return configurations(tiny_root, tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def engine_of(config_of):
    """Return a function: a registered model's name, and changes, to its engine, ready for a step."""
    from every_model import engines

    return engines(config_of)


@pytest.fixture
def tiny_config(tiny_root, tmp_path):
    """Return a function: overrides (dotted keys) to a configuration of a job that takes a second or two."""
    from tiny_jobs import TINY, configured

    def make(**changes):
        return configured(TINY, tiny_root, tmp_path / "run", changes)

    return make


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """A root with a tree for the data set ``folder``: 8 training and 6 test identities, 2 cameras, 64x32 pixels.

    Each identity has its own colours in three bands, so that even an untrained network ranks above chance.
    """
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    for identity in range(14):
        bands = generator.integers(0, 255, (4, 1, 3)).repeat(16, axis=0)
        for camera in (1, 2):
            part = "train" if identity < 8 else ("query" if camera == 1 else "gallery")
            folder = root / part / f"{identity:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            for shot in range(3):
                noise = generator.normal(0, 12, (64, 32, 3))
                pixels = np.clip(bands + 15 * camera + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{identity:03d}_c{camera}_{shot}.png")
    return root


@pytest.fixture(scope="session")
def mixed_root(tiny_root, tmp_path_factory) -> Path:
    """The same pictures, those of camera 1 at half the side, with images of both cameras on both sides of the test."""
    from PIL import Image

    root = tmp_path_factory.mktemp("mixed")
    for path in sorted(tiny_root.glob("*/*/*.png")):
        part, identity, name = path.parts[-3:]
        part = part if part == "train" else "query" if name.endswith("_0.png") else "gallery"
        folder = root / part / identity
        folder.mkdir(parents=True, exist_ok=True)
        img = Image.open(path)
        (img.reduce(2) if "_c1_" in name else img).save(folder / name)
    return root
