"""The page in a server of its own: what it serves and what not, who may enter; and, slow, in a real browser."""

import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import PIL.Image
import pytest

from torchreid_xres.search.filters import Filters
from torchreid_xres.ui.page import _of_fields, is_local, start

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def served(desk, tmp_path, monkeypatch):
    """Return a function: a host to the page there, its address, and its token."""
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'torchreid_xres[ui]'")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    pages = []

    def begin(host="127.0.0.1"):
        page, address, token = start(desk, host)
        pages.append(page)
        return page, address.replace("0.0.0.0", "127.0.0.1").rstrip("/"), token

    yield begin
    for page in pages:
        page.close()


def status(address, **how):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, **how), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
def test_only_what_was_found_is_served(served, desk, tmp_path):
    _, address, token = served()
    assert not token and status(address)[0] == 200
    gallery, images = desk.archive.gallery.folder, desk.archive.gallery.images
    (images / "link.png").symlink_to("/etc/hostname")
    for path in (
        gallery / "gallery.sqlite", images / "red.png", images / "link.png", "/etc/hostname", Path(__file__),
        "../../../etc/hostname", f"{images}/../gallery/gallery.sqlite", f"{tmp_path}/cache/../gallery/gallery.sqlite",
    ):  # fmt: skip
        for kind in ("file=", "file/", "static/"):
            for text in (str(path), urllib.parse.quote(str(path), safe="")):
                code, body = status(f"{address}/gradio_api/{kind}{text}")
                assert code >= 400 and b"secret" not in body, (kind, text)


@pytest.mark.slow
def test_others_need_the_token(served, desk):
    _, address, token = served("0.0.0.0")
    assert len(token) >= 20 and not is_local("0.0.0.0")
    login = f"{address}/login"
    for path, data in (
        ("info", None), ("upload", b"x"), ("queue/join", b"{}"), ("queue/data?session_hash=a", None),
        (f"file={desk.scratch.name}/cache", None),
    ):  # fmt: skip
        head = {"Content-Type": "application/json"}
        assert status(f"{address}/gradio_api/{path}", data=data, headers=head)[0] == 401, path
    for word, code in (("", 422), ("wrong", 400), (token, 200)):
        data = urllib.parse.urlencode({"username": "a", "password": word}).encode()
        found = status(login, data=data)[0]
        assert found == code or (not word and found >= 400)


def test_fields_that_nobody_has_touched_filter_nothing():
    assert _of_fields(None, None, None, None, None) == _of_fields([], [], "", " ", "") == Filters()
    assert _of_fields(["1"], None, " 3 ", None, "camera") == Filters(("1",), (), "3", "", "camera")


def called(page, address, name, *data):
    """Return what the server answers where somebody calls what a button does, with data of his own."""
    number = next(number for number, one in page.fns.items() if one.name == name)
    body = json.dumps({"data": data, "fn_index": number, "session_hash": "s"}).encode()
    head = {"Content-Type": "application/json"}
    assert status(f"{address}/gradio_api/queue/join", data=body, headers=head)[0] == 200
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=s", timeout=20) as lines:
        for line in lines:
            event = json.loads(line.partition(b":")[2] or b"{}")
            if event.get("msg") == "process_completed":
                return event
    raise AssertionError("no answer")


@pytest.mark.slow
def test_no_file_of_the_machine_is_searched_for(served, desk, tmp_path):
    page, address, _ = served()
    PIL.Image.new("RGB", (32, 64)).save(tmp_path / "outside.png")
    none = [[], 5, [], [], "", "", ""]
    for path in (tmp_path / "outside.png", desk.archive.gallery.images / "red.png", "../outside.png"):
        told = called(page, address, "searched", {"path": str(path), "meta": {"_type": "gradio.FileData"}}, *none)
        assert not told["success"] and "outside" not in json.dumps(told["output"].get("data", "")), told
    told = called(page, address, "searched", None, *none)
    assert not told["success"] and told["output"]["error"] == "drop a picture first"


@pytest.mark.slow
def test_in_a_browser(served, desk, scene):
    """Drop a frame, draw a box, search, search on, mark, fetch; XRES_SCREENSHOTS names a folder for pictures of it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    _, address, _ = served()
    shots = os.environ.get("XRES_SCREENSHOTS")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(120_000)
        asked = []
        page.on("request", lambda request: asked.append(request.url))

        def shot(name):
            if shots:
                page.screenshot(path=f"{shots}/{name}.png", full_page=True)

        page.goto(address)
        page.locator("#picture input[type=file]").set_input_files(str(scene))
        frame = page.locator("#picture img").last
        frame.wait_for()
        box = frame.bounding_box()
        scale = min(box["width"] / 400, box["height"] / 240)
        left, top = box["x"] + (box["width"] - 400 * scale) / 2, box["y"] + (box["height"] - 240 * scale) / 2
        for (x, y), told in (((100, 40), "One corner"), ((160, 160), "the box")):
            page.mouse.click(left + x * scale, top + y * scale)
            page.locator("#corner", has_text=told).wait_for()
        page.locator("#asked img").wait_for()
        shot("1_box")
        page.locator("#search").click()
        page.locator("#hits img").first.wait_for()
        assert page.locator("#hits button:has(img)").count() == 4
        assert "scene.png" in page.locator("#said").inner_text()
        shot("2_hits")
        assert "green.png" in page.locator("#hits .caption-label, #hits [class*=caption]").first.inner_text()
        page.locator("#hits button:has(img)").nth(1).click()
        page.locator("#which", has_text="Chosen").wait_for()
        page.locator("#hits button.selected").wait_for()
        name = page.locator("#which").inner_text().rpartition(" · ")[2].strip()
        page.locator("#wrong").click()
        page.locator("#which", has_text="is kept as wrong in marks.csv").wait_for()
        assert name in (desk.archive.gallery.folder / "marks.csv").read_text()
        page.locator("#on").click()
        page.locator("#said", has_text=name).wait_for()
        assert page.locator("#hits button.selected").count() == 0  # what was chosen is no longer among these
        shot("3_on")
        with page.expect_download() as fetched:
            page.locator("#out a").first.click()
        assert Path(fetched.value.path()).stat().st_size
        page.locator("#filters button").first.click()
        page.locator("#camera input").click()
        page.get_by_role("option", name="1", exact=True).click()
        page.keyboard.press("Escape")
        page.locator("#search").click()
        page.locator("#said", has_text="searched: 2 of 4 images").wait_for()
        assert page.locator("#hits button:has(img)").count() == 2
        shot("4_filters")
        page.locator("#after textarea, #after input").fill("noon")
        page.locator("#search").click()
        page.get_by_text("neither seconds nor a date").first.wait_for()
        shot("5_refused")
        assert page.locator("#hits button:has(img)").count() == 2
        with page.expect_download() as fetched:  # what the last search has found
            page.locator("#out a").last.click()
        assert fetched.value.suggested_filename == "hits.csv"
        browser.close()
    assert all(urllib.parse.urlsplit(url).hostname in ("127.0.0.1", None, "") for url in asked if "://" in url), asked
