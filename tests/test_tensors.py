import random

import pytest
import torch
from tiny_jobs import same

from torchreid_xres.tensors import not_finite, read_tensors

STATE = {
    "weight": torch.arange(600.0).view(20, 30),
    "steps": 7,
    "note": "text",
    "list": [torch.ones(3, dtype=torch.int8)],
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "state.pth"
    torch.save(STATE, path)
    return path


def test_an_altered_byte_is_told_or_changes_nothing(saved):
    content, told = saved.read_bytes(), 0
    draws = random.Random(0)
    for _ in range(300):
        place = draws.randrange(len(content))
        altered = bytearray(content)
        altered[place] ^= 1 << draws.randrange(8)
        saved.write_bytes(altered)
        try:
            assert same(read_tensors(saved), STATE), place
        except ValueError as error:
            told += 1
            assert "state.pth" in str(error) and "\n" not in str(error)
    assert told > 150  # of the rest, most are the zeros that bring tensors to a multiple of 64 bytes


def test_a_tensor_s_altered_bytes_are_told(saved):
    content = saved.read_bytes()
    place = content.index(STATE["weight"].numpy().tobytes())
    for byte in range(place, place + STATE["weight"].nbytes, 61):
        saved.write_bytes(content[:byte] + bytes([content[byte] ^ 1]) + content[byte + 1 :])
        with pytest.raises(ValueError, match=r"state\.pth cannot be read; it may be damaged: Bad CRC-32 for .*data/0"):
            read_tensors(saved)


@pytest.mark.parametrize("older", [False, True])
def test_files_without_checksums_are_read(tmp_path, older):
    path = tmp_path / "state.pth"
    if older:
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    else:
        switch = getattr(torch.serialization, "set_crc32_options", None) or pytest.skip("this torch always writes them")
        switch(False)
        try:
            torch.save(STATE, path)
        finally:
            switch(True)
    assert same(read_tensors(path), STATE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"e",
        b"hello weights\n",
        b"epoch: 3\nstate",
        b"a,b\n1,2\n",
        b"<!DOCTYPE html>",
        b"PK\x03\x04" + bytes(90),
        b"\x80\x02e",
    ],
)
def test_other_files_are_named_in_one_line(tmp_path, content):
    path = tmp_path / "given.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"given\.pth (is no checkpoint|cannot be read)[^\n]*$") as caught:
        read_tensors(path)
    assert "weights_only" not in str(caught.value)


def test_what_is_not_finite_is_named():
    bad = {
        "a": torch.ones(2),
        "b": [{"c": torch.tensor([1, torch.inf])}],
        "d": torch.tensor(torch.nan, dtype=torch.bfloat16),
    }
    assert not_finite(bad) == ["b.0.c", "d"]
    assert not_finite({"a": torch.ones(2), "n": 3, "i": torch.ones(2, dtype=torch.int64), "x": float("nan")}) == []
