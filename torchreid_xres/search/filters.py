"""Which part of a gallery is searched, by camera and time, and what counts as one hit.

What is known of an image is looked for in its list of boxes, then in its name, then in EXIF and the file's date.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from torchreid_xres.archive.times import moment
from torchreid_xres.data.datasets.reading import CAMERA, plain_camera
from torchreid_xres.search.expressions import of_cameras, of_times
from torchreid_xres.search.storage import Row
from torchreid_xres.terminal import printable

if TYPE_CHECKING:
    from torchreid_xres.search.reader import Reader

GROUPS = ("identity", "track", "camera")
_LIST, _NAME, _EXIF, _FILE = "list of boxes", "name", "EXIF", "date of the file"
# Market-1501's files begin with the identity; other archives have a folder for each.
_IDENTITY = re.compile(r"(?:^|/)(-?[0-9]+)_c[0-9]+[^/]*$|(?:^|/)([^/]+)/[^/]+$")
_NAMED = 8  # cameras in a message


class Known(NamedTuple):
    """What is known of a gallery's images: a value each, None where nothing says it, and from where, in words.

    Of groups in an engine the values are what they are called there.
    """

    values: list | str
    source: str


@dataclass(frozen=True)
class Part:
    """What of a gallery is searched.

    Attributes:
        images: how many are.
        whole: how many it has.
        among: (N,) bool, which are; of a gallery in an engine its expression; None: all.
        groups: (N,) of which the best alone is found, such as identities, in an engine their name; None: every image
            counts.
        by: what says so, in words.
    """

    images: int
    whole: int
    among: np.ndarray | str | None = None
    groups: Sequence[str] | str | None = None
    by: Sequence[str] = ()

    @property
    def told(self) -> str:
        """The same in a line; empty where all is searched."""
        return f"searched: {self.images} of {self.whole} images; {', '.join(self.by)}" if self.by else ""

    @property
    def about(self) -> dict[str, Any]:
        """The same as JSON holds it; empty where all is searched."""
        return {"searched": self.images, "by": list(self.by)} if self.by else {}


@dataclass(frozen=True)
class Filters:
    """What is searched, and what counts as one hit.

    Attributes:
        cameras: of these alone; empty: of all.
        not_cameras: not of these.
        after, before: dates, or seconds in a video; these themselves are within. Empty: at any time.
        group: one of :data:`GROUPS`, of each of which the best alone is found; empty: every image is a hit.
    """

    cameras: Sequence[str] = ()
    not_cameras: Sequence[str] = ()
    after: str = ""
    before: str = ""
    group: str = ""

    def part(self, gallery: Reader) -> Part:
        """Return what of a gallery is searched.

        Raises:
            ValueError: if nothing says what is asked for, there is no such camera, or seconds are asked of dates.
        """
        among, by = self.among(gallery)
        values = None
        if self.group:
            values, source = groups(gallery, self.group)
            by.append(f"{self.group} by {source}")
        return Part(gallery.count(among), len(gallery), among, values, by)

    def among(self, gallery: Reader) -> tuple[np.ndarray | str | None, list[str]]:
        """Return which images of a gallery are searched, (N,) bool, None for all; and by what, in words.

        Of a gallery in an engine it is the engine's expression.

        Raises:
            ValueError: if nothing says what is asked for, there is no such camera, or seconds are asked of dates.
        """
        kept, told, asked_of_engine = np.ones(len(gallery.rows), bool), [], []
        if self.cameras or self.not_cameras:
            found = cameras(gallery)
            there = {one for one in found.values if one is not None}
            asked, refused = ({*map(plain_camera, which)} for which in (self.cameras, self.not_cameras))
            missing = sorted((asked | refused) - there)
            if gallery.searches:  # the rows may be a part
                missing = [one for one in missing if not gallery.count(of_cameras([one], ()))]
                asked_of_engine.append(of_cameras(asked, refused))
            if missing:
                shown = ", ".join(map(printable, sorted(there)[:_NAMED])) + ", ..." * (len(there) > _NAMED)
                raise ValueError(f"no image is of the camera {missing[0]}; cameras are: {shown}")
            kept &= np.array([(not asked or one in asked) and one not in refused for one in found.values], bool)
            told.append(f"camera by {found.source}")
        if self.after or self.before:
            found = times(gallery)
            limits = [moment(one) if one else None for one in (self.after, self.before)]
            for limit, flag in zip(limits, ("after", "before"), strict=True):
                if limit and any(kind != limit[0] for kind, _ in found.values):
                    own, others = ("in seconds", "dates") if limit[0] == "seconds" else ("a date", "seconds")
                    raise ValueError(
                        f"{flag} {getattr(self, flag)} is {own}, and times of images here are {others}"
                    )
            least, most = ((one[1] if one else end) for one, end in zip(limits, (-math.inf, math.inf), strict=True))
            kept &= np.array([least <= time <= most for _, time in found.values], bool)
            asked_of_engine.append(of_times(least, most))
            told.append(f"time by {found.source}")
        if not told:
            return None, []
        return (" and ".join(asked_of_engine) if gallery.searches else kept), told


def groups(gallery: Reader, by: str) -> Known:
    """Return of which identity, track or camera each image is; one of which nobody says it is a group of its own.

    Args:
        gallery: the gallery.
        by: one of :data:`GROUPS`.

    Raises:
        ValueError: if nothing says it of any image.
    """
    found = _required(gallery, by)
    if gallery.searches:
        return Known(by, found.source)
    of = zip(found.values, gallery.rows, strict=True)
    return Known([f"0 {row.name}" if one is None else f"1 {one}" for one, row in of], found.source)


def cameras(gallery: Reader) -> Known:
    """Return the camera of each image, numbers without the zeros in front.

    Raises:
        ValueError: if nothing says it of any image.
    """
    return _required(gallery, "camera")


def known(gallery: Reader, by: str) -> Known:
    """Return of which identity, track or camera each image is; without a source where nothing says it of any.

    Args:
        gallery: the gallery.
        by: one of :data:`GROUPS`; an identity is that of the name's beginning or of the folder where no list has it.
    """
    if by == "track":
        values = [f"{row.camera or ''}/{row.track}" if row.track else None for row in gallery.rows]
        return Known(values, _sources([_LIST if value else None for value in values]))
    if by == "identity":
        return _named(gallery, by, lambda row: row.identity, _identity_of_name)
    values, source = _named(gallery, by, lambda row: row.camera, _camera_of_name)
    return Known([None if one is None else plain_camera(one) for one in values], source)


def _required(gallery: Reader, by: str) -> Known:
    found = known(gallery, by)
    if not found.source:
        raise ValueError(f"nothing says of which {by} the images of this gallery are; {_remedy(by)}")
    return found


def times(gallery: Reader) -> Known:
    """Return kind and value of each image's time, see :func:`~torchreid_xres.archive.times.moment`."""
    values, sources = [], []
    for row in gallery.rows:
        text = row.time or row.taken
        values.append(moment(text) if text else ("date", row.mtime_ns / 1e9))
        sources.append(_LIST if row.time else _EXIF if row.taken else _FILE)
    return Known(values, _sources(sources))


def time_of(row: Row) -> str:
    """Return the time of an image as it is shown.

    Example:
        >>> time_of(Row("a.jpg", 1, 0, 2, 2, b"", None, time="12.480"))
        '12.480'
    """
    return row.time or row.taken or datetime.fromtimestamp(row.mtime_ns / 1e9).isoformat(timespec="seconds")


def require_names(names: str) -> None:
    """Refuse what is no regular expression with the groups ``camera`` or ``identity``.

    Raises:
        ValueError: saying why.
    """
    try:
        found = re.compile(names).groupindex
    except re.error as error:
        raise ValueError(f"the pattern of names {names!r} is no regular expression: {error}") from error
    if not found or found.keys() - {"camera", "identity"}:
        raise ValueError(f"the pattern of names {names!r} needs a (?P<camera>...) or an (?P<identity>...), and no more")


def _named(
    gallery: Reader, group: str, of_list: Callable[[Row], str | None], of_name: Callable[[str], str | None]
) -> Known:
    pattern = re.compile(gallery.facts.get("names") or "")
    values, sources = [], []
    for row in gallery.rows:
        value, source = of_list(row), _LIST
        if value is None:
            place, source = row.frame or row.name, _NAME
            if group in pattern.groupindex:
                found = pattern.search(place)
                value = found[group] if found else None
            else:
                value = of_name(place)
        values.append(value)
        sources.append(None if value is None else source)
    return Known(values, _sources(sources))


def _camera_of_name(name: str) -> str | None:
    numbers = CAMERA.findall(name.rpartition("/")[2].rpartition(".")[0])
    return numbers[0] if len({*map(plain_camera, numbers)}) == 1 else None


def _identity_of_name(name: str) -> str | None:
    found = _IDENTITY.search(name)
    return (found[1] or found[2]) if found else None


def _sources(sources: Sequence[str | None]) -> str:
    """Return in words where something is from; empty if it is from nowhere."""
    counts = Counter(sources)
    unknown = counts.pop(None, 0)
    if not counts:
        return ""
    if len(counts) == 1 and not unknown:
        return f"the {next(iter(counts))}"
    return ", ".join(f"the {source} of {count:,}" for source, count in counts.items()) + (
        f", of {unknown:,} unknown" if unknown else ""
    )


def _remedy(what: str) -> str:
    if what == "track":
        return "a list of boxes with tracks does (build --boxes)"
    return f"a list of boxes does (build --boxes), or their names do: build --names '(?P<{what}>...)'"
