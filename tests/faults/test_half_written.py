"""Programs that write files are killed at some of their writes: no half of a file is found, and a rerun makes all."""

import json

import numpy as np
import PIL.Image
import pytest
from tiny_jobs import TINY, configured, untrained_run

from torchreid_xres.data.prepare import verify_written
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.files import _SCRATCH

SIGKILL, SIGTERM = 9, 15


def features(folder):
    random = np.random.default_rng(len(folder.name))
    for role, count in (("query", 4), ("gallery", 6)):
        FeatureSet(
            features=random.normal(size=(count, 3)).astype(np.float32), names=[f"{role}{i}.png" for i in range(count)],
            role=role, dataset="folder", model=folder.name, weights_sha256=folder.name, manifest_sha256="m",
            pid=np.arange(count) % 2, camid=np.full(count, role == "gallery"), rate=np.ones(count),
            low=np.zeros(count, bool), size=np.full((count, 2), 8),
        ).save(folder / f"{role}.npz")  # fmt: skip
    return folder


def whole(path):
    """Read a file whole, or fail."""
    if path.suffix == ".npz":
        FeatureSet.load(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix in (".png", ".jpg"):
        with PIL.Image.open(path) as img:
            img.load()
    else:
        assert path.read_bytes()
    return path


@pytest.fixture
def program(request, tmp_path, tiny_root):
    """Return the command line of a program, and the folder that it writes in."""
    out = tmp_path / "out"
    out.mkdir()
    if request.param == "fuse":
        branches = [features(tmp_path / name) for name in ("a", "bc")]
        return ["fuse", *branches, "--out", out], out
    if request.param == "prepare":
        options = ["synthetic=true", "lr_camera='1'"]
        return ["prepare", "write", "folder", "--root", tiny_root, "--out", out, "--options", *options], out
    run = untrained_run(configured(TINY, tiny_root, tmp_path / "run", {}), tmp_path / "run")
    return ["visualize", "restored", run, tiny_root / "query" / "008", "--count", "1", "--out", out / "a.png"], out


@pytest.mark.parametrize(
    "program, number", [("fuse", SIGKILL), ("prepare", SIGTERM), ("visualize", SIGKILL)], indirect=["program"]
)
def test_killed_at_some_writes(fork, program, number):
    command, out = program
    undisturbed = fork("tool", *command, watched=out)
    assert (undisturbed["status"], undisturbed["result"]) == (0, 0), undisturbed["output"]
    made = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    writes = undisturbed["writes"]
    for moment in writes[:: max(1, len(writes) // 3)]:
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        reply = fork("tool", *command, watched=out, moment=moment, signal=number)
        assert reply["status"] in (-number, 0), reply["output"]
        for path in out.rglob("*"):
            if path.is_file() and not _SCRATCH.fullmatch(path.name):
                whole(path)
        assert fork("tool", *command, watched=out)["result"] == 0
        found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert {name for name in found if not _SCRATCH.fullmatch(name.name)} == set(made)
        if command[0] == "prepare":
            assert verify_written(out) == {} and found == made
