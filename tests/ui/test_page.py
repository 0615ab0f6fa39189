"""The page in a server of its own: what it serves and what not, who may enter; and, slow, in a real browser."""

import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from torchreid_xres.ui.page import is_local, start

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def served(desk, tmp_path, monkeypatch):
    """Return a function: a host to the address and the token of a page there."""
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'torchreid_xres[ui]'")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    pages = []

    def begin(host="127.0.0.1"):
        page, address, token = start(desk, host)
        pages.append(page)
        return address.replace("0.0.0.0", "127.0.0.1"), token

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
    address, token = served()
    assert not token and status(address)[0] == 200
    gallery, images = desk.archive.gallery.folder, desk.archive.gallery.images
    (images / "link.png").symlink_to("/etc/hostname")
    for path in (
        gallery / "gallery.sqlite", images / "red.png", images / "link.png", "/etc/hostname", Path(__file__),
        "../../../etc/hostname", f"{images}/../gallery/gallery.sqlite", f"{tmp_path}/cache/../gallery/gallery.sqlite",
    ):  # fmt: skip
        for kind in ("file=", "file/", "static/"):
            for text in (str(path), urllib.parse.quote(str(path), safe="")):
                code, body = status(f"{address.rstrip('/')}/gradio_api/{kind}{text}")
                assert code >= 400 and b"secret" not in body, (kind, text)


@pytest.mark.slow
def test_others_need_the_token(served):
    address, token = served("0.0.0.0")
    assert len(token) >= 20 and not is_local("0.0.0.0")
    login = f"{address.rstrip('/')}/login"
    for word, code in (("", 422), ("wrong", 400), (token, 200)):
        data = urllib.parse.urlencode({"username": "a", "password": word}).encode()
        found = status(login, data=data)[0]
        assert found == code or (not word and found >= 400)
    assert status(f"{address.rstrip('/')}/gradio_api/info")[0] == 401


@pytest.mark.slow
def test_in_a_browser(served, desk, scene):
    """Drop a frame, draw a box, search, search on, mark, fetch; XRES_SCREENSHOTS names a folder for pictures of it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    address, _ = served()
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
        assert "scene.png" in page.locator("#said").inner_text()
        shot("2_hits")
        assert "green.png" in page.locator("#hits .caption-label, #hits [class*=caption]").first.inner_text()
        page.locator("#hits button:has(img)").nth(1).click()
        page.locator("#which", has_text="Chosen").wait_for()
        name = page.locator("#which").inner_text().rpartition(" · ")[2].strip()
        page.locator("#wrong").click()
        page.locator("#which", has_text="is kept as wrong in marks.csv").wait_for()
        assert name in (desk.archive.gallery.folder / "marks.csv").read_text()
        page.locator("#on").click()
        page.locator("#said", has_text=name).wait_for()
        shot("3_on")
        with page.expect_download() as fetched:
            page.locator("#out a").first.click()
        assert Path(fetched.value.path()).stat().st_size
        browser.close()
    assert all(urllib.parse.urlsplit(url).hostname in ("127.0.0.1", None, "") for url in asked if "://" in url), asked
