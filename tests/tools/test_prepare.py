"""tools/prepare.py, as a user calls it."""

import importlib.util

import pytest


@pytest.fixture(scope="module")
def tool(repo):
    spec = importlib.util.spec_from_file_location("prepare_tool", repo / "tools" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prepare(tool, capsys):
    """Run the tool in this process; returns exit status, standard output and error text."""

    def run(*args):
        status = tool.main([str(arg) for arg in args])
        return status, *capsys.readouterr()

    return run


def test_a_set_is_written_and_compared(prepare, tiny_root, tmp_path):
    out = tmp_path / "out"
    options = ("--options", "synthetic=true", 'lr_camera="1"', "rates=[2, 4]")
    status, shown, _ = prepare("write", "folder", "--root", tiny_root, "--out", out, *options)
    assert status == 0
    assert "query: 18 images, 6 identities" in shown
    assert "without loss" in shown
    assert prepare("verify", out)[:2] == (0, "all files are as recorded\n")
    assert prepare("verify", out / "protocol.json", "--root", tiny_root)[0] == 0

    victim = next((out / "query").iterdir())
    victim.unlink()
    status, shown, _ = prepare("verify", out)
    assert status == 1
    assert shown == f"missing: query/{victim.name}\n1 missing\n"


def test_jpeg_says_its_loss(prepare, tiny_root, tmp_path):
    args = ("write", "folder", "--root", tiny_root, "--out", tmp_path / "out", "--format", "jpg", "--quality", "80")
    status, shown, _ = prepare(*args)
    assert status == 0
    assert "JPEG at quality 80 costs" in shown and "dB PSNR" in shown
    assert "were there already" in prepare(*args)[1]


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
def test_it_says_what_it_lacks(prepare, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = prepare(*args)
    assert status == 2
    assert message in error
    assert list(tmp_path.iterdir()) == []
