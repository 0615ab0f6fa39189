"""The page: a picture or frame is dropped, a box drawn, and hits come as cards to search on with, or to mark.

Gradio reads the annotations of what it calls, so that they are none of the future's here.
"""

import ipaddress
import os
import secrets
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import PIL.Image

from torchreid_xres.report.answers import Answer
from torchreid_xres.search.filters import GROUPS, Filters, known
from torchreid_xres.search.strangers import notes
from torchreid_xres.ui.desk import Corner, Desk, caption

if TYPE_CHECKING:
    import gradio

    from torchreid_xres.search.gallery import Gallery

TOP = 20
CHOOSE = "Click on a hit to search on with it, or to mark it."
MOMENT = "a date (2024-05-01T12:30), or seconds in a video"
WHOLE = "Search looks for the whole picture; click two opposite corners of a box to look for that."
_CARDS = "#hits .caption-label { white-space: normal; overflow-wrap: anywhere; max-width: 100%; }"  # names in full
GONE = PIL.Image.new("RGB", (64, 128), "lightgrey")
_FONT = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # no font is fetched from anywhere


def is_local(host: str) -> bool:
    """Return whether a host is this machine alone.

    Example:
        >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0"), is_local("camera-room")
        (True, True, False, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_page(desk: Desk) -> "gradio.Blocks":
    """Return the page.

    Raises:
        ImportError: without Gradio.
    """
    gr = _gradio()
    archive = desk.archive
    with gr.Blocks(title="Search", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        corners, answer, chosen = gr.State([]), gr.State(None), gr.State(None)
        gr.Markdown(f"## {len(archive.gallery)} images in {archive.gallery.folder.name}")
        with gr.Row():
            with gr.Column(scale=1):
                file = gr.Image(
                    label="Drop a picture or a frame", type="filepath", image_mode=None,
                    sources=["upload", "clipboard"], height=380, buttons=[], elem_id="picture",
                )  # fmt: skip
                corner = gr.Markdown(WHOLE, elem_id="corner")
                asked = gr.Image(
                    label="What is searched for", interactive=False, height=200, buttons=[], elem_id="asked"
                )
                top = gr.Slider(5, 100, TOP, step=5, label="Hits")
                narrowing = _filters(gr, archive.gallery)
                with gr.Row():
                    whole = gr.Button("Whole picture", elem_id="whole")
                    search = gr.Button("Search", variant="primary", elem_id="search")
            with gr.Column(scale=3):
                said = gr.Markdown("Nothing has been searched for yet.", elem_id="said")
                hits = gr.Gallery(
                    label="Hits", show_label=False, columns=5, height=620, object_fit="contain", allow_preview=False,
                    interactive=False, buttons=["fullscreen"], elem_id="hits",
                )  # fmt: skip
                which = gr.Markdown(CHOOSE, elem_id="which")
                with gr.Row():
                    on = gr.Button("Search on with it", elem_id="on")
                    right = gr.Button("Right", elem_id="right")
                    wrong = gr.Button("Wrong", elem_id="wrong")
                out = gr.Files(label="To hand over", interactive=False, elem_id="out")

        def shown(found: Answer, filters: Filters) -> list[Any]:
            cards = [(one.picture or GONE, caption(one)) for one in found.found]
            words = [f"**{_plain(found.asked['file'])}**: {found.told}"]
            words += [_plain(told)] if (told := desk.part(filters).told) else []
            words += notes(archive.strangers, len(archive.gallery))
            hits = gr.Gallery(cards, selected_index=None)  # the card that was chosen is not framed any more
            return [found, hits, "\n\n".join(words), None, CHOOSE, found.picture, desk.hand_over(found, filters)]

        def clicked(path: str | None, at: Sequence[Corner], event: gr.SelectData) -> list[Any]:
            at = [*at[-1:], event.index] if len(at) < 2 else [event.index]
            if len(at) < 2:
                return [at, None, "One corner at {} {}; click the opposite one.".format(*event.index)]
            img, box = _of_user(gr, desk.picture, path, at)
            return [at, img, "Search looks for the box {} {} {} {} (left, top, width, height).".format(*box)]

        def searched(path: str | None, at: Sequence[Corner], count: int, *given: Any) -> list[Any]:
            if not path:
                raise gr.Error("drop a picture first")
            filters = _of_fields(*given)
            return shown(_of_user(gr, desk.search, path, at, int(count), filters), filters)

        def picked(found: Answer, event: gr.SelectData) -> list[Any]:
            return [event.index, f"Chosen: {_plain(caption(found.found[event.index]))}"]

        def searched_on(found: Answer | None, place: int | None, count: int, *given: Any) -> list[Any]:
            hit, filters = _chosen(gr, found, place).hit, _of_fields(*given)
            return shown(_of_user(gr, desk.search_on, hit, int(count), filters), filters)

        def marked(is_right: bool) -> Any:
            def mark(found: Answer | None, place: int | None) -> str:
                one = _chosen(gr, found, place)
                path = _of_user(gr, desk.mark, found, one, is_right)
                return f"{_plain(one.hit.name)} is kept as {'right' if is_right else 'wrong'} in {path.name}"

            return mark

        results = [answer, hits, said, chosen, which, asked, out]
        box = [corners, asked, corner]
        private = {"api_visibility": "private"}
        searching = private | {"show_progress_on": said}  # a refusal does not cover what the last search has found
        quick = private | {"show_progress": "hidden"}
        for anew in (file.change, whole.click):
            anew(lambda: [[], None, WHOLE], None, box, **quick)
        file.select(clicked, [file, corners], box, **quick)
        search.click(searched, [file, corners, top, *narrowing], results, **searching)
        hits.select(picked, [answer], [chosen, which], **quick)
        on.click(searched_on, [answer, chosen, top, *narrowing], results, **searching)
        right.click(marked(True), [answer, chosen], which, **quick)
        wrong.click(marked(False), [answer, chosen], which, **quick)
    return page


def _filters(gr: ModuleType, gallery: "Gallery") -> list[Any]:
    """Return fields for what ``xres search query`` calls --camera, --not-camera, --after, --before and --group."""
    there = {by: known(gallery, by) for by in GROUPS}
    named = sorted({one for one in there["camera"].values if one is not None}, key=lambda one: (len(one), one))
    grouping = [by for by, found in there.items() if found.source]
    with gr.Accordion("Filters", open=False, elem_id="filters"):
        return [
            gr.Dropdown(named, multiselect=True, label="Cameras, these alone", visible=bool(named), elem_id="camera"),
            gr.Dropdown(named, multiselect=True, label="Not these cameras", visible=bool(named), elem_id="not_camera"),
            gr.Textbox(label="After", placeholder=MOMENT, elem_id="after"),
            gr.Textbox(label="Before", placeholder=MOMENT, elem_id="before"),
            gr.Dropdown(["", *grouping], value="", label="Best hit of each", visible=bool(grouping), elem_id="group"),
        ]


def _of_fields(*given: Sequence[str] | str | None) -> Filters:
    """Return what the fields of :func:`_filters` say; Gradio gives None for those that nobody has touched."""
    cameras, not_cameras, after, before, group = (one or "" for one in given)
    return Filters(tuple(cameras), tuple(not_cameras), after.strip(), before.strip(), group)


def start(desk: Desk, host: str = "127.0.0.1", port: int = 0) -> tuple["gradio.Blocks", str, str]:
    """Begin to serve the page.

    Args:
        desk: what the page does.
        host: this machine alone (``127.0.0.1``), or an address that others reach: then a token is asked of them.
        port: 0 for any that is free.

    Returns:
        The page, which goes on in threads of its own (``block_thread`` waits for it, ``close`` ends it); its address;
        and the token that it asks for, empty for this machine alone.

    Raises:
        OSError: if the port is in use.
        ImportError: without Gradio.
    """
    gr = _gradio()
    token = "" if is_local(host) else secrets.token_urlsafe(18)
    os.environ.setdefault("GRADIO_TEMP_DIR", f"{desk.scratch.name}/cache")  # not where all users' pages keep theirs
    page = make_page(desk)

    def may_enter(_: str, word: str) -> bool:
        return secrets.compare_digest(word.encode(), token.encode())

    access = {"auth": may_enter, "auth_message": "Any name, and the token that the terminal shows."} if token else {}
    _, address, _ = page.launch(
        server_name=host, server_port=port or None, share=False, inbrowser=False, quiet=True, ssr_mode=False,
        show_error=True, allowed_paths=[], max_file_size="64mb", prevent_thread_lock=True, footer_links=[],
        theme=gr.themes.Default(**_FONT), css=_CARDS, **access,
    )  # fmt: skip
    return page, address, token


def _gradio() -> ModuleType:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError("the page needs Gradio: pip install 'torchreid_xres[ui]'") from error
    return gradio


def _chosen(gr: ModuleType, found: Answer | None, place: int | None) -> Any:
    if found is None or place is None or not 0 <= place < len(found.found):
        raise gr.Error("click on a hit first")
    return found.found[place]


def _of_user(gr: ModuleType, call: Any, *args: Any) -> Any:
    """Return what a call does, its refusal as a message on the page."""
    try:
        return call(*args)
    except (OSError, ValueError) as error:
        raise gr.Error(str(error)) from error


def _plain(text: str) -> str:
    """Return a name as Markdown shows it, whatever it holds."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()<>#+-.!|~&$" else letter for letter in text)
