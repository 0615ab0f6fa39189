"""Where a gallery is kept: the same tests for each home."""

import importlib.util

import pytest


@pytest.fixture(params=["files", "milvus"])
def home(request, tmp_path):
    """A place for a gallery that is not there yet."""
    if request.param == "files":
        yield str(tmp_path / "gallery")
        return
    if not all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite"))):
        pytest.skip("pymilvus and milvus-lite are not installed: pip install 'torchreid_xres[milvus]'")
    yield f"milvus:{tmp_path / 'g.db'}"
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(tmp_path / "g.db"))
