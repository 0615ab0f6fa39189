"""What the page does, without the page: search, search on from a hit, mark hits, hand them over."""

from __future__ import annotations

import csv
import functools
import io
import tempfile
import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import PIL.Image

from torchreid_xres.archive.frames import cropped
from torchreid_xres.files import require_regular, write_text
from torchreid_xres.lock import locked
from torchreid_xres.report.answers import Answer, Found, cell, write_answers
from torchreid_xres.report.asking import Archive, Query
from torchreid_xres.search.filters import Filters
from torchreid_xres.search.hits import Hit
from torchreid_xres.search.strangers import in_words

MARKS = "marks.csv"  # in the gallery's folder
_COLUMNS = ("time", "query", "query_box", "hit", "rank", "score", "strangers", "right")
HANDED = ("hits.html", "hits.csv")
EVERYTHING = Filters()
SMALLEST = 4  # pixels of a box's side; less is a slip of the hand

Corner = Sequence[int]  # x, y


class Desk:
    """A gallery on which one picture after another is searched; the network stays loaded.

    Args:
        archive: what answers.

    Attributes:
        part: returns what of the gallery some filters leave, see :meth:`Filters.part`; asked again, it knows.
        scratch: a folder that this user alone can read, gone with the desk: what is handed over lies there.

    Raises:
        OSError: if the gallery's folder of pictures is gone.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        if not archive.gallery.images.is_dir():
            raise FileNotFoundError(
                f"the pictures of the gallery in {archive.gallery.folder} are no longer in {archive.gallery.images}: "
                "build it with the folder where they are now, which reads none anew"
            )
        self._pictures = archive.gallery.images.resolve()
        self.scratch = tempfile.TemporaryDirectory(prefix="xres-")
        self._one = threading.Lock()  # one network, one file of marks
        self.part = functools.lru_cache(maxsize=8)(lambda filters: filters.part(archive.gallery))

    def picture(self, file: str | Path, corners: Sequence[Corner] = ()) -> tuple[PIL.Image.Image, list[int] | None]:
        """Return what of a file is searched for, and its box.

        Args:
            file: a picture that the user gave.
            corners: two opposite ones of a box, or fewer: the whole picture.

        Raises:
            OSError: if it is no picture.
            ValueError: for a box without area.
        """
        img = self.archive.extractor.image(file)
        if len(corners) < 2:
            return img, None
        (left, right), (top, bottom) = (sorted(int(corner[axis]) for corner in corners[:2]) for axis in (0, 1))
        if min(right - left, bottom - top) < SMALLEST:
            raise ValueError(f"a box of {right - left} x {bottom - top} pixels shows nobody: click opposite corners")
        box = [left, top, right - left, bottom - top]
        return cropped(img, box), box

    def search(
        self, file: str | Path, corners: Sequence[Corner] = (), top: int = 20, filters: Filters = EVERYTHING
    ) -> Answer:
        """Return what the gallery has for a picture, or for a box of it.

        The errors are those of :meth:`picture` and of the filters.
        """
        img, box = self.picture(file, corners)
        return self._search(Query(Path(file).name, img, box), top, filters)

    def search_on(self, hit: Hit, top: int = 20, filters: Filters = EVERYTHING) -> Answer:
        """Return what the gallery has for one of its own pictures.

        Raises:
            ValueError: if the picture is no longer there, or not in the gallery's folder; the filters' errors, too.
        """
        img = self.shown(hit)
        if img is None:
            raise ValueError(f"{hit.name} cannot be shown, and so not searched for")
        return self._search(Query(hit.name, img), top, filters)

    def shown(self, hit: Hit) -> PIL.Image.Image | None:
        """Return a hit's picture; None if it is gone, no picture, or a link leads out of the gallery's folder."""
        try:
            path = hit.path.resolve(strict=True)
            if not path.is_relative_to(self._pictures):
                return None
            require_regular(path)
            return self.archive.gallery.picture(hit, self.archive.extractor.image)
        except (OSError, RuntimeError, ValueError):
            return None

    def _search(self, query: Query, top: int, filters: Filters) -> Answer:
        with self._one:
            (answer,) = self.archive.answers([query], top, pictures=False, part=self.part(filters))
        return answer._replace(found=[one._replace(picture=self.shown(one.hit)) for one in answer.found])

    def mark(self, answer: Answer, one: Found, right: bool) -> Path:
        """Keep in a CSV beside the gallery that a hit is right or wrong; the last mark of a pair is the one that holds.

        Raises:
            OSError: if it cannot be written, or another process is at it.
        """
        path = self.archive.gallery.folder / MARKS
        require_regular(path)
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "query": answer.asked["file"],
            "query_box": " ".join(map(str, answer.asked["box"] or ())),
            "hit": one.hit.name,
            "rank": one.hit.rank,
            "score": one.hit.score,
            "strangers": "" if one.strangers is None else one.strangers,
            "right": int(right),
        }
        lock = path.with_suffix(".lock")  # others may serve the same gallery
        with self._one, locked(lock, f"{path.name} is written to", "mark the hit again"):
            out = io.StringIO()
            writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
            if path.is_file():
                out.write(path.read_text(encoding="utf-8"))
            else:
                writer.writeheader()
            writer.writerow({key: cell(value) for key, value in line.items()})
            write_text(out.getvalue(), path)
        return path

    def hand_over(self, answer: Answer, filters: Filters = EVERYTHING) -> list[str]:
        """Write an answer as a page and as a table, to be fetched while the page is served."""
        place = Path(tempfile.mkdtemp(dir=self.scratch.name))
        about = self.archive.about | self.part(filters).about
        return [str(path) for name in HANDED for path in write_answers(place / name, about, [answer])]


def caption(one: Found) -> str:
    """Return what stands below a hit's picture."""
    parts = [f"{one.hit.rank}", f"score {one.hit.score:.3f}"]
    if one.strangers is not None:
        parts.append(f"strangers {in_words(one.strangers)}")
    parts += [str(value) for key in ("camera", "time") if (value := getattr(one.hit, key, None))]
    return " · ".join([*parts, one.hit.name])
