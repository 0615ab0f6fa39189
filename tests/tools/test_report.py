"""tools/report.py on two tiny runs, as a user calls it, and the page in a browser where there is one."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import PIL.Image
import pytest

from torchreid_xres.config import load_config
from torchreid_xres.jobs.run import Run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def runs(tiny_root, tmp_path_factory):
    """Two runs of an epoch each: with a front end, and without one."""
    folders = []
    for front_end in ("vdsr", "bicubic"):
        folder = tmp_path_factory.mktemp(front_end)
        options = "{depth: 3, features: 4, channels: 3}" if front_end == "vdsr" else "{}"
        cfg = load_config(None, [
            "model.name", "sr_reid", "model.pretrained", "False", "sr.name", front_end, "sr.options", options,
            "data.root", str(tiny_root), "data.sources", "[folder]", "data.targets", "[folder]", "data.height", "32",
            "data.width", "16", "data.workers", "0", "data.pairs", "True", "data.options",
            "{folder: {synthetic: true, lr_camera: '1'}}", "train.max_epoch", "1", "train.batch_size", "16",
            "use_gpu", "False",
        ])  # fmt: skip
        Run(cfg, 0, folder, "0", name="split0").train()
        folders.append(folder)
    return folders


@pytest.fixture
def report(tool, tmp_path, capsys):
    """Run the tool's main in this process; returns exit status, the page (or None) and the error text."""

    def run(*args):
        out = tmp_path / "page" / "report.html"
        status = tool.main([*map(str, args), "--out", str(out)])
        said, err = capsys.readouterr()
        assert len(said.splitlines()) == (0 if status else 2)  # of the loaders nothing
        return status, out.read_text(encoding="utf-8") if out.is_file() else None, err

    return run


def test_two_runs_compared(report, runs):
    status, page, err = report(runs[0], "--against", runs[1], "--count", "2")
    assert status == 0, err
    assert "sr_reid (vdsr)" in page and "sr_reid (bicubic)" in page and "Training" in page and "identity" in page
    pictures = re.findall(r'<figure class="(\w+)"><img', page)
    # The worst of each run: 2 queries each, restored by it, with 5 of the list. What each finds has more.
    assert pictures.count("query") >= 4 and pictures.count("query") == pictures.count("restored")
    assert "Worst queries of run A: sr_reid (vdsr)" in page and "Worst queries of run B: sr_reid (bicubic)" in page
    assert pictures.count("hit") + pictures.count("miss") >= 20
    record = json.loads((runs[0] / "results" / "folder.json").read_text())
    assert f"<td>{record['rank1']:.1f}</td>" in page and record["manifest"] in page
    won, lost, same = map(int, re.findall(r"<b>(\d+)</b>", page))
    assert won + lost + same == record["query_images"]
    assert len(page) < 3e6


def test_a_folder_of_runs(report, runs, tmp_path, monkeypatch):
    for number, folder in enumerate(runs):
        shutil.copytree(folder, tmp_path / "log" / f"{number}" / "split0")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "log" / "0")
    status, page, err = report(tmp_path / "log", "--count", "1")
    assert status == 0 and f"{tmp_path}/log: 2 runs" in err
    assert "sr_reid (vdsr), split0" in page and "sr_reid (bicubic), ~/log/1/split0" in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_run_in_a_read_only_folder(report, runs, tmp_path, monkeypatch, caplog, number):
    folder = tmp_path / "kept"
    shutil.copytree(runs[0], folder, ignore=shutil.ignore_patterns("features"))
    make = Path.mkdir

    def read_only(path, *args, **kwargs):
        if folder in path.parents and not path.exists():
            raise OSError(number, os.strerror(number), str(path))
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", read_only)
    status, page, err = report(folder, "--count", "1")
    assert status == 0, err
    assert page.count('<figure class="query"><img') == 2
    for role in ("query", "gallery"):
        assert f"{folder}/features/{role}.npz cannot be kept for the next time: {os.strerror(number)}" in caplog.text


def test_records_alone_need_no_images_and_no_run(report, runs, tmp_path, monkeypatch):
    records = []
    for number, folder in enumerate(runs):
        records.append(tmp_path / f"{number}.json")
        shutil.copy(folder / "results" / "folder.json", records[-1])
    status, page, err = report(records[0], "--against", records[1], "--no-images")
    assert status == 0, err
    assert "<img" not in page and ".png" not in page and "base64" not in page
    status, page, _ = report(runs[0], "--against", records[1], "--count", "1")
    assert status == 0 and "1.json is a record, which holds no ranked lists" in page


def test_a_page_does_not_take_a_records_place(run_tool, tmp_path):
    record = tmp_path / "record.json"
    record.write_text("{}")
    status, _, err = run_tool(record, "--no-images", "--out", record)
    assert status == 2 and "pages end in .html, .htm" in err and record.read_text() == "{}"


def test_it_says_what_it_lacks(report, runs, tmp_path):
    record = runs[0] / "results" / "folder.json"
    stale = tmp_path / "stale"
    shutil.copytree(runs[0], stale)
    facts = json.loads(record.read_text())
    (stale / "results" / "folder.json").write_text(json.dumps(facts | {"weights_sha256": "0" * 64}))
    (tmp_path / "results").mkdir()
    other = tmp_path / "other.json"
    other.write_text(json.dumps(facts | {"dataset": "mlr_viper"}))
    for args, message in (
        ((tmp_path / "nowhere",), "no such run folder or record"),
        ((tmp_path / "results",), "no run was evaluated there"),
        ((record,), "is a record: pictures need the folder of its run"),
        ((runs[0], "--dataset", "caviar"), "was not evaluated on 'caviar', but on folder"),
        ((runs[0], "--against", other), "is a record of mlr_viper, not of folder"),
        ((runs[0], "--count", "99"), "1 to 10 can be shown"),
        ((stale,), "the weights of"),
    ):
        status, page, err = report(*args)
        assert (status, page) == (2, None) and message in err and "Traceback" not in err, err


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(report, runs, tmp_path, width):
    """Nothing sticks out to the right, all pictures are decoded, and light and dark differ."""
    status, page, err = report(runs[0], "--against", runs[1], "--count", "2")
    assert status == 0, err
    html = page.replace("&", "&amp;").replace('"', "&quot;")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!DOCTYPE html><title>-</title><iframe width="{width}" height="900" frameborder="0" srcdoc="{html}"></iframe>'
        "<script>onload = () => { const d = document.querySelector('iframe').contentDocument, "
        "i = [...d.images]; document.title = [d.documentElement.scrollWidth, i.length, "
        "i.filter(p => p.complete && p.naturalWidth > 0).length].join(' ') }</script>"
    )
    shown = browser(tmp_path, "--dump-dom", frame)
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", shown)
    assert found, shown[:300]
    widest, pictures, decoded = map(int, found.groups())
    assert widest <= width and pictures == decoded > 20

    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    papers = []
    for scheme in ("1", "0"):  # light, dark
        picture = tmp_path / f"{scheme}.png"
        how = f"--window-size={width},900", f"--blink-settings=preferredColorScheme={scheme}"
        browser(tmp_path, *how, f"--screenshot={picture}", tmp_path / "page.html")
        with PIL.Image.open(picture) as img:
            papers.append(img.convert("L").getpixel((2, 2)))
            assert len(img.convert("RGB").getcolors(1 << 20)) > 50  # not blank
    assert papers[0] > 230 and papers[1] < 40


def browser(folder, *args):
    flags = "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile"
    command = [BROWSER, *flags, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
