import random

import numpy as np
import pytest
import torch

from torchreid_xres import checkpoint


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_every_generator_goes_on_where_it_was(tmp_path):
    random.gauss(0, 1)  # leaves a cached second value behind
    np.random.randn()
    checkpoint.save_atomic({"random": checkpoint.random_state()}, tmp_path / "a.pth")
    expected = draws(), random.gauss(0, 1), np.random.randn()
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    checkpoint.set_random_state(checkpoint.load(tmp_path / "a.pth")["random"])
    assert (draws(), random.gauss(0, 1), np.random.randn()) == expected


def test_a_kept_state_hides_what_the_block_draws():
    with checkpoint.random_state_kept():
        first = draws()
    assert draws() == first


def test_a_failing_write_leaves_the_old_file_and_no_scratch(tmp_path):
    path = tmp_path / "a.pth"
    checkpoint.save_atomic({"x": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save_atomic({"x": lambda: None}, path)
    assert checkpoint.load(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in the checkpoint ran')",))


@pytest.mark.parametrize("spoil", ["cut", "text", "code"])
def test_a_bad_file_is_named_and_never_run(tmp_path, spoil):
    path = tmp_path / "bad.pth"
    torch.save({"x": Bomb()} if spoil == "code" else {"x": torch.ones(1000)}, path)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif spoil == "text":
        path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"bad\.pth (cannot be read|is no checkpoint)[^\n]*$"):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.pth"):
        checkpoint.load(tmp_path / "none.pth")
