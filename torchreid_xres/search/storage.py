"""The file of a gallery: an SQLite database of two plain tables, with a checksum for each row and for all together.

SQLite notices a broken page or pointer, but not another bit in a feature. So each row carries the CRC-32 of its
content, and the facts hold how many rows there are and the sum of their checksums, which shows what is gone or came in.
Files of format 1 have no checksums: they are read if their rows fit each other, and get them at the next change. Those
of format 2 lack what is known of a picture beside its feature; their checksums are those of rows without it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchreid_xres.files import require_regular

logger = logging.getLogger(__name__)

FORMAT = "3"
_TABLES = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE images (
        name TEXT PRIMARY KEY,     -- path below the folder of images, with forward slashes; of a box or track more
        bytes INTEGER NOT NULL,    -- size and time of the file when it was read: it is read again when they change
        mtime_ns INTEGER NOT NULL,
        height INTEGER, width INTEGER,
        feature BLOB,              -- float32; NULL for a file that cannot be used
        fault TEXT,                -- why it cannot
        checksum INTEGER,          -- CRC-32 of all these and those below
        frame TEXT,                -- image or frame of a video that it is a part of
        box TEXT,                  -- left, top, width, height
        time TEXT,                 -- date, or seconds, as a table has it
        taken TEXT,                -- date by EXIF
        camera TEXT, track TEXT, identity TEXT,
        sharpness REAL
    )""",
)
_NEEDED = {False: {"about", "weights", "images"}, True: {"about", "weights", "images", "rows", "sum"}}
_FACTS = ["name", "value"]
_ALWAYS = ["name", "bytes", "mtime_ns", "height", "width", "feature", "fault"]
_MORE = ["frame", "box", "time", "taken", "camera", "track", "identity", "sharpness"]
_COLUMNS = {"1": _ALWAYS, "2": [*_ALWAYS, "checksum"], FORMAT: [*_ALWAYS, "checksum", *_MORE]}
_KINDS = {"checksum": "INTEGER", "sharpness": "REAL"}
_PAGE = 16384  # bytes; SQLite's usual 4096 hold one feature of 512 numbers and stay half empty
_PATIENCE = 60  # seconds that one waits for another: the check of a large gallery takes a while
_FEW = 20  # there are fewer facts and tables; a file that was made up may have any number
# What SQLite says of the world around the file; all else is about the file.
_AROUND = ("locked", "full", "unable to open", "readonly", "I/O")
_REMOVE = "remove it and build the gallery again, or put a copy in its place"


class Row(NamedTuple):
    """What a gallery holds of an image; ``feature`` is None for one that cannot be used, ``fault`` says why."""

    name: str
    bytes: int
    mtime_ns: int
    height: int | None
    width: int | None
    feature: bytes | None
    fault: str | None
    frame: str | None = None
    box: str | None = None
    time: str | None = None
    taken: str | None = None
    camera: str | None = None
    track: str | None = None
    identity: str | None = None
    sharpness: float | None = None

    def checksum(self) -> int:
        """Return the CRC-32 of it all."""
        name, size, mtime_ns, height, width, feature, fault, *more = self
        facts = f"{name}\0{size}\0{mtime_ns}\0{height}\0{width}\0{fault}"
        if any(one is not None for one in more):
            facts += f"\0{more}"
        content = feature if isinstance(feature, bytes) else repr(feature).encode()
        return zlib.crc32(content, zlib.crc32(facts.encode()))


class Storage:
    """The file of a gallery. All methods raise as follows.

    Args:
        path: the file; it need not be there.

    Attributes:
        path: the file.
        folder: that it is in, and what lies beside.
        searches: whether it finds what is near by itself: no, the features are read.
        shared: whether several processes write at once: no.

    Raises:
        ValueError: if the file is damaged or no gallery; the message says what to do.
        OSError: if it is in use, the disk is full, there is no right to it, or it is no regular file.
    """

    searches = shared = False

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent

    def facts(self) -> dict[str, str]:
        """Return what the gallery says of itself; empty where none was begun."""
        if not os.path.lexists(self.path):
            return {}
        with self._connected() as database:
            return self._facts(database)

    def rows(self) -> list[Row]:
        """Return all rows by name, once they are found to be what was written."""
        if not os.path.lexists(self.path):
            return []
        with self._connected() as database:
            database.execute("BEGIN")  # what is read is of one moment
            facts = self._facts(database)
            if not facts:
                return []
            self._require_sound(database, "quick_check")
            rows, _, fault = _checked(database, facts)
        if fault:
            raise self._damaged(fault, "build the gallery again: what is damaged is read anew")
        return sorted(rows, key=lambda row: row.name)

    def begin(self, **facts: str) -> None:
        """Make the file."""
        with self._connected("rwc") as database:
            database.execute(f"PRAGMA page_size = {_PAGE}")
            with database:
                database.execute("BEGIN IMMEDIATE")  # or each table would be a transaction
                for table in _TABLES:
                    database.execute(table)
                _write_facts(database, facts | {"format": FORMAT, "rows": "0", "sum": "0"})

    @contextmanager
    def changing(self) -> Iterator[Changes]:
        """Give the means to change what is there, rid of the rows that are damaged."""
        with self._connected() as database:
            with database:
                database.execute("BEGIN IMMEDIATE")
                facts = self._facts(database)
                self._require_sound(database, "integrity_check")
                rows, damaged, fault = _checked(database, facts)
                held = _COLUMNS[facts["format"]]
                for column in _COLUMNS[FORMAT][len(held) :]:
                    database.execute(f"ALTER TABLE images ADD COLUMN {column} {_KINDS.get(column, 'TEXT')}")
                if "checksum" not in held:
                    checksums = [(row.checksum(), row.name) for row in rows]
                    database.executemany("UPDATE images SET checksum = ? WHERE name = ?", checksums)
                database.executemany("DELETE FROM images WHERE rowid = ?", [(number,) for number in damaged])
                changes = Changes(database, facts | {"format": FORMAT}, rows)
                changes.make()
            if fault:
                logger.warning("%s: %s; what is damaged is read anew", self.path, fault)
            yield changes

    def _facts(self, database: sqlite3.Connection) -> dict[str, str]:
        held = database.execute(f"SELECT type, name, rootpage FROM sqlite_master LIMIT {_FEW}").fetchall()
        if not held:
            return {}
        columns = self._plain_columns(database, held)
        facts = dict(database.execute(f"SELECT name, value FROM facts LIMIT {_FEW}"))
        if facts.get("format") not in _COLUMNS:
            written = str(facts.get("format"))
            newer = written.isdecimal() and int(written) > int(FORMAT)
            remedy = f"update torchreid_xres if a newer one wrote it, else {_REMOVE}" if newer else _REMOVE
            raise ValueError(f"{self.path} has format {written}; this version reads {', '.join(_COLUMNS)}: {remedy}")
        if columns != {"facts": _FACTS, "images": _COLUMNS[facts["format"]]}:
            raise self._damaged("it has other tables than a gallery's", _REMOVE)
        stated = facts.pop("checksum", None)
        hashed = facts["format"] != "1"
        texts = all(isinstance(part, str) for pair in facts.items() for part in pair)
        if not texts or not _NEEDED[hashed] <= facts.keys() or (hashed and stated != _facts_checksum(facts)):
            raise self._damaged("what it says of itself is not what was written", _REMOVE)
        return facts

    def _plain_columns(
        self, database: sqlite3.Connection, held: Sequence[tuple[str, str, int]]
    ) -> dict[str, list[str | None]]:
        """Return the columns of each table; refuse what is none, but for indexes, and a computed column of facts.

        A view, a trigger or a computed column may take any time; those of images are not looked at here.
        """
        tables = [name for kind, name, page in held if kind == "table" and page]
        others = [name for kind, name, _ in held if kind != "index" and name not in tables]
        columns = {
            name: [
                column if not hidden else None
                for column, hidden in database.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,))
            ]
            for name in tables
        }
        if others or columns.get("facts") != _FACTS:
            raise self._damaged("it has other tables than a gallery's", _REMOVE)
        return columns

    def _require_sound(self, database: sqlite3.Connection, check: str) -> None:
        """Refuse a file in which SQLite's own check finds a fault."""
        told = [text for (text,) in database.execute(f"PRAGMA {check}(1)")]
        if told != ["ok"]:
            raise self._damaged(told[0], _REMOVE)

    def _damaged(self, fault: str, remedy: str) -> ValueError:
        return ValueError(f"{self.path} is not a readable gallery: {' '.join(fault.split())}; {remedy}")

    @contextmanager
    def _connected(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        # "rw" also to read: what a killed build left half written has to be taken back first.
        require_regular(self.path)
        try:
            address = f"{self.path.as_uri()}?mode={mode}"
            with closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE)) as database:
                database.text_factory = partial(str, encoding="utf-8", errors="replace")
                database.execute("PRAGMA trusted_schema = OFF")
                yield database
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and any(word in str(error) for word in _AROUND):
                raise OSError(f"{self.path}: {error}; the same command goes on from what is there") from error
            raise self._damaged(str(error), _REMOVE) from error


class Changes:
    """Changes of a gallery's file.

    Args:
        database: connection to it.
        facts: what the gallery says of itself.
        rows: what is in it.

    Attributes:
        held: size and time of each image file when it was read, by name.
        facts: what the gallery says of itself.
    """

    def __init__(self, database: sqlite3.Connection, facts: dict[str, str], rows: Sequence[Row]) -> None:
        self._database, self.facts = database, facts
        self.held = {row.name: [row.bytes, row.mtime_ns] for row in rows}
        self._checksums = {row.name: row.checksum() for row in rows}
        self._sum = sum(self._checksums.values())

    def make(self, rows: Sequence[Row] = (), gone: Collection[str] = (), **facts: str) -> None:
        """Make a change, all of it or nothing.

        Args:
            rows: come in, or take the place of those of their names.
            gone: names of rows that go.
            **facts: what the gallery says of itself now.
        """
        new = {row.name: row.checksum() for row in rows}
        old = {name: self._checksums[name] for name in (*gone, *new) if name in self._checksums}
        total, count = self._sum + sum(new.values()) - sum(old.values()), len(self._checksums) + len(new) - len(old)
        changed = self.facts | facts | {"rows": str(count), "sum": str(total)}
        with self._database as database:
            database.executemany("DELETE FROM images WHERE name = ?", [(name,) for name in gone])
            columns = [*Row._fields, "checksum"]
            database.executemany(
                f"INSERT OR REPLACE INTO images ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                [(*row, new[row.name]) for row in rows],
            )
            _write_facts(database, changed)
        for name in old:
            del self._checksums[name]
        self._checksums |= new
        self._sum, self.facts = total, changed


def _write_facts(database: sqlite3.Connection, facts: Mapping[str, str]) -> None:
    whole = facts | {"checksum": _facts_checksum(facts)}
    database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", whole.items())


def _facts_checksum(facts: Mapping[str, str]) -> str:
    return str(zlib.crc32(repr(sorted(facts.items())).encode()))


def _checked(database: sqlite3.Connection, facts: Mapping[str, str]) -> tuple[list[Row], list[int], str]:
    """Return the rows that are sound, the numbers of the others, and in words what is wrong, empty if nothing is."""
    held = _COLUMNS[facts["format"]]
    hashed = "checksum" in held
    checksum = "checksum" if hashed else "NULL"
    columns = [column for column in Row._fields if column in held]
    # Not by the index of names, on which so nothing depends.
    asked = f"SELECT rowid, {checksum}, {', '.join(columns)} FROM images NOT INDEXED"
    found = database.execute(asked).fetchall()
    rows = [Row(*one[2:]) for one in found]
    if hashed:
        sound = [row.checksum() == one[1] for row, one in zip(rows, found, strict=True)]
    else:
        length = Counter(len(row.feature) for row in rows if isinstance(row.feature, bytes)).most_common(1)
        sound = [_plausible(row, length[0][0] if length else 0) for row in rows]
    damaged = [one for one, good in zip(found, sound, strict=True) if not good]
    rows = [row for row, good in zip(rows, sound, strict=True) if good]
    fault = ""
    if damaged:
        fault = f"{len(damaged)} of {len(found)} images are not as they were written, the first is {damaged[0][2]!r}"
    elif hashed and [facts["rows"], facts["sum"]] != [str(len(rows)), str(sum(one[1] for one in found))]:
        fault = f"it holds {len(rows)} images, which are not the {facts['rows']} that were written"
    return rows, [number for number, *_ in damaged], fault


def _plausible(row: Row, length: int) -> bool:
    """Return whether a row without checksum can be one: most have features of this length, in bytes."""
    kinds = (str, int, int, (int, type(None)), (int, type(None)), (bytes, type(None)), (str, type(None)))
    if not all(map(isinstance, row[: len(kinds)], kinds)) or (row.feature is None) == (row.fault is None):
        return False
    if row.feature is None:
        return True
    whole = len(row.feature) == length > 0 == length % 4 and row.height is not None and row.width is not None
    return whole and bool(np.isfinite(np.frombuffer(row.feature, np.float32)).all())
