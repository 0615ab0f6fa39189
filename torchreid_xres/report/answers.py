"""What a search found, to be handed over: a page that prints, a table, JSON, or a contact sheet, by the file's name."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image

from torchreid_xres.data.io import save_image
from torchreid_xres.files import write_json, write_text
from torchreid_xres.pictures.sheet import Cell, contact_sheet
from torchreid_xres.pictures.thumbnail import thumbnail
from torchreid_xres.search.hits import Hit
from torchreid_xres.search.strangers import in_words
from torchreid_xres.terminal import printable

TABLES = (".html", ".csv", ".json")
COLUMNS, HEIGHT = 6, 192  # of a contact sheet
# A spreadsheet takes a text that begins so for a formula, or skips it to find one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
# What a hit may know beside its file, in the order of the columns; shown where any hit knows it.
MORE = ("frame", "box", "time", "camera", "track", "identity")


class Found(NamedTuple):
    """A hit and what is said of it.

    Attributes:
        hit: as a gallery found it.
        picture: its pixels, 8-bit RGB; None if its file is gone.
        strangers: images of strangers expected to be as near; None where nothing was measured.
        accepted: whether a labelled evaluation calls it near enough; None where none was asked.
    """

    hit: Hit
    picture: PIL.Image.Image | None = None
    strangers: float | None = None
    accepted: bool | None = None

    def record(self) -> dict[str, Any]:
        """Return the hit as JSON holds it."""
        hit = self.hit
        record = {"rank": hit.rank, "score": hit.score, "file": str(hit.path), "size": list(hit.size)}
        record |= {key: value for key in MORE if (value := getattr(hit, key, None))}
        for key in ("strangers", "accepted"):
            if getattr(self, key) is not None:
                record[key] = getattr(self, key)
        return record


class Answer(NamedTuple):
    """A query and what was found for it.

    Attributes:
        asked: of the query, as JSON holds it: ``file``, ``box``, ``size`` and more.
        told: the same in words, one line.
        picture: the query, 8-bit RGB.
        restored: what the network's front end made of it; None without.
        found: nearest first.
        number: of the query among those that were asked, from 1.
    """

    asked: Mapping[str, Any]
    told: str
    picture: PIL.Image.Image
    restored: PIL.Image.Image | None
    found: Sequence[Found]
    number: int = 1


def write_answers(path: Path, about: Mapping[str, Any], answers: Sequence[Answer], several: int = 0) -> list[Path]:
    """Write what was found into a file, whole or not at all, as the ending of its name says.

    Args:
        path: ``.html``, ``.csv``, ``.json``, or a picture. Of several queries each has a picture of its own, numbered.
        about: of the search, as JSON holds it: gallery, model and more.
        answers: one for each query.
        several: how many queries were asked, though fewer may have an answer; 0 for a single one.

    Returns:
        The files that were written.

    Raises:
        OSError: if it cannot be written.
    """
    kind = path.suffix.lower()
    if kind == ".json":
        write_json(content(about, answers, several), path)
    elif kind in TABLES:
        write_text({".html": page, ".csv": table}[kind](about, answers), path)
    else:
        paths = [numbered(path, one.number, several) if several else path for one in answers]
        for place, answer in zip(paths, answers, strict=True):
            save_image(sheet(answer), place)
        return paths
    return [path]


def numbered(path: Path, number: int, count: int) -> Path:
    """Return a file's name with the number of one of several.

    Example:
        >>> numbered(Path("hits.jpg"), 2, 12).name
        'hits_02.jpg'
    """
    return path.with_stem(f"{path.stem}_{number:0{len(str(count))}}")


def content(about: Mapping[str, Any], answers: Sequence[Answer], several: int = 0) -> dict[str, Any]:
    """Return what was found as JSON holds it: ``query`` and ``hits``; of several, ``queries`` is a list of those."""
    parts = [{"query": dict(one.asked), "hits": [found.record() for found in one.found]} for one in answers]
    return {**about, **({"queries": parts} if several else parts[0])}


def table(about: Mapping[str, Any], answers: Sequence[Answer]) -> str:
    """Return what was found as CSV, a hit in each line; a quote goes before what a spreadsheet would compute."""
    records = [
        {"query": answer.asked["file"], "query_box": answer.asked.get("box"), **found.record()}
        for answer in answers
        for found in answer.found
    ]
    head = ["query", "query_box", "rank", "score", "strangers", "accepted", "file", "height", "width", *MORE]
    known = {key for record in records for key, value in record.items() if value is not None}
    head = [key for key in head if key in known or key in ("query", "rank", "score", "file", "height", "width")]
    out = io.StringIO()
    writer = csv.DictWriter(out, head, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        height, width = record["size"]
        row = record | {"height": height, "width": width}
        for key in ("box", "query_box"):
            row[key] = " ".join(map(str, row.get(key) or ()))
        writer.writerow({key: cell(value) for key, value in row.items()})
    return out.getvalue()


def cell(value: Any) -> Any:
    """Return a value as a spreadsheet may have it.

    Example:
        >>> cell("=HYPERLINK(1)"), cell("a.jpg"), cell(-0.5)
        ("'=HYPERLINK(1)", 'a.jpg', -0.5)
    """
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value


def page(about: Mapping[str, Any], answers: Sequence[Answer]) -> str:
    """Return one HTML page that needs nothing else; whatever comes from names is escaped."""
    from torchreid_xres.files import shown_path
    from torchreid_xres.report.templates import rendered

    filters = {"thumbnail": thumbnail, "in_words": in_words, "printable": printable}
    filters["shown"] = lambda path: printable(shown_path(path))
    return rendered("answers.html", filters, about=about, answers=answers, more=MORE)


def sheet(answer: Answer) -> PIL.Image.Image:
    """Draw the query as seen, restored if it was, then what was found, what is accepted in a green frame.

    A file that is gone since leaves its place.
    """
    img, restored = answer.picture, answer.restored
    cells = [Cell(img, f"query, {img.height}x{img.width}", "blue")]
    if restored is not None:
        width = max(1, round(restored.height * img.width / img.height))  # the network's input has another shape
        cells.append(Cell(restored.resize((width, restored.height)), "restored", "blue"))
    for one in answer.found:
        strangers = "" if one.strangers is None else f", strangers {in_words(one.strangers)}"
        caption = f"{one.hit.rank}: {one.hit.score:.3f}{strangers}\n{printable(one.hit.name)}"
        cells.append(Cell(one.picture, caption, "green" if one.accepted else ""))
    return contact_sheet(cells, COLUMNS, HEIGHT)
