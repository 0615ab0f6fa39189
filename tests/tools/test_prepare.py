"""tools/prepare.py, as a user calls it."""


import pytest


def test_a_set_is_written_and_compared(run_tool, tiny_root, tmp_path):
    out = tmp_path / "out"
    options = ("--options", "synthetic=true", 'lr_camera="1"', "rates=[2, 4]")
    status, shown, _ = run_tool("write", "folder", "--root", tiny_root, "--out", out, *options)
    assert status == 0
    assert "query: 18 images, 6 identities" in shown
    assert "without loss" in shown
    assert run_tool("verify", out)[:2] == (
        0, "all files are as recorded\nnext: train on it with any framework\n",
    )  # fmt: skip
    assert run_tool("verify", out / "protocol.json", "--root", tiny_root)[0] == 0

    victim = next((out / "query").iterdir())
    victim.unlink()
    status, shown, _ = run_tool("verify", out)
    assert status == 1
    assert shown == f"missing: query/{victim.name}\n1 missing\nnext: xres prepare write mends a written set\n"


def test_jpeg_says_its_loss(run_tool, tiny_root, tmp_path):
    args = ("write", "folder", "--root", tiny_root, "--out", tmp_path / "out", "--format", "jpg", "--quality", "80")
    status, shown, _ = run_tool(*args)
    assert status == 0
    assert "JPEG at quality 80 costs" in shown and "dB PSNR" in shown
    assert "were there already" in run_tool(*args)[1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("write", "marcet", "--out", "x"), "no data set named 'marcet'"),
        (("write", "folder", "--root", "nowhere", "--out", "x"), "FileNotFoundError: folder: there is no folder"),
        (("write", "folder", "--out", "x", "--options", "seed"), "KEY=VALUE, not 'seed'"),
        (("write", "folder", "--out", "x", "--options", "rates=[1"), "--options rates=[1: no value in YAML"),
        (("verify", "nowhere"), "--root names the folder"),
        (("verify", "nowhere", "--root", "."), "No such file"),
        (("verify", "."), "has no manifest.json"),
        (("verify", ".", "--root", "."), "needs no --root"),
    ],
)
def test_it_says_what_it_lacks(run_tool, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = run_tool(*args)
    assert status == 2
    assert message in error
    assert list(tmp_path.iterdir()) == []
