"""A job on tiny images: two epochs of a small net take a second or two."""

import pytest
from tiny_jobs import TINY, configured


@pytest.fixture
def tiny_config(tiny_root, tmp_path):
    """Return a function: overrides (dotted keys) to a configuration of a job that takes a second."""

    def make(**changes):
        return configured(TINY, tiny_root, tmp_path / "run", changes)

    return make
