"""A gallery's file: what is damaged or made up in it is told in one line, and what is sound comes back as it was."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from torchreid_xres.search import Gallery, storage
from torchreid_xres.search.reader import CONFIG, DATABASE
from torchreid_xres.search.storage import Row, Storage

ABOUT = {"model": "net", "weights_sha256": "a" * 64, "full_size": None, "metric": "cosine"}
FACTS = {"about": json.dumps(ABOUT), "weights": "/run/last.pth.tar", "images": "/images"}
ROWS = [
    Row(f"{i // 4:03d}/{i:03d}.jpg", 100 + i, 10**18 + i, 64, 32, feature.tobytes(), None)
    for i, feature in enumerate(np.random.default_rng(0).standard_normal((60, 128)).astype(np.float32))
]
QUERIES = torch.from_numpy(np.random.default_rng(1).standard_normal((20, 128)).astype(np.float32))
# As the first version of this package wrote it.
OLD = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE images (
        name TEXT PRIMARY KEY,     -- path below the folder of images, with forward slashes
        bytes INTEGER NOT NULL,    -- size and time of the file when it was read: it is read again when they change
        mtime_ns INTEGER NOT NULL,
        height INTEGER, width INTEGER,
        feature BLOB,              -- float32; NULL for a file that cannot be used
        fault TEXT                 -- why it cannot
    )""",
)


@pytest.fixture
def path(tmp_path):
    """A gallery's file with all rows."""
    storage = Storage(tmp_path / DATABASE)
    storage.begin(**FACTS)
    with storage.changing() as changes:
        changes.make(ROWS)
    return storage.path


@pytest.fixture
def old(tmp_path):
    """The same of the format that had no checksums."""
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / DATABASE
    sql(path, *OLD)
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany("INSERT INTO facts VALUES (?, ?)", [*FACTS.items(), ("format", 1)])
        database.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", [row[:7] for row in ROWS])
    return path


def sql(path, *statements, values=()):
    """Change a file behind the package's back."""
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement, values)


def found(path):
    return [[hit.name for hit in hits] for hits in Gallery(path.parent).search(QUERIES, top=5)]


def refused(path, message="gallery"):
    """Return what is told of a file, in one line that names it and says what to do."""
    with pytest.raises(ValueError, match=message) as caught:
        found(path)
    told = str(caught.value)
    assert told.startswith(str(path)) and "\n" not in told and "build the gallery again" in told
    return told


def test_what_is_written_comes_back(path):
    assert Storage(path).rows() == ROWS
    assert {"about", "weights", "images"} < Storage(path).facts().keys()
    change = ROWS[0]._replace(feature=None, fault="cut", height=None, width=None)
    with Storage(path).changing() as changes:
        assert changes.held == {row.name: [row.bytes, row.mtime_ns] for row in ROWS}
        changes.make([change, ROWS[1]], gone=[ROWS[2].name], images="/moved")
        changes.make(ROWS[2:3])
    assert Storage(path).rows() == [change, *ROWS[1:]] and Storage(path).facts()["images"] == "/moved"
    assert Storage(path.with_name("none")).rows() == [] and Storage(path.with_name("none")).facts() == {}


def test_a_change_is_made_whole_or_not_at_all(path):
    twice = [ROWS[0]._replace(feature=b"1234"), ROWS[1]._replace(bytes=None)]  # the second is refused
    with pytest.raises(ValueError, match="NOT NULL"), Storage(path).changing() as changes:
        changes.make(twice)
    assert Storage(path).rows() == ROWS


def test_each_flipped_bit_is_told_or_changes_no_hit(path):
    whole, right = path.read_bytes(), found(path)
    rng, told = np.random.default_rng(2), 0
    for place, bit in zip(rng.integers(0, len(whole), 100), rng.integers(0, 8, 100), strict=True):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            assert found(path) == right, (place, bit)
        except ValueError:
            refused(path)
            told += 1
    assert told > 100 * sum(len(row.feature) for row in ROWS) / len(whole) / 2  # the rest is empty


@pytest.mark.parametrize("part", [0, 1, 4, 30, 127])
def test_a_bit_of_a_feature_is_told_by_its_images_name(path, part):
    feature = bytearray(ROWS[7].feature)
    feature[4 * part] ^= 1
    sql(path, "UPDATE images SET feature = ? WHERE name = ?", values=(bytes(feature), ROWS[7].name))
    assert f"1 of 60 images are not as they were written, the first is '{ROWS[7].name}'" in refused(path)


@pytest.mark.parametrize(
    "change",
    [
        "name = 'other.jpg'", "bytes = 1", "mtime_ns = 1", "height = 63", "width = NULL", "fault = 'cut'",
        "feature = NULL", "feature = zeroblob(12)", "feature = 'text'", "feature = 3.5", "checksum = 1",
        "name = CAST(x'ff' AS TEXT)", "name = x'6162'", "checksum = NULL",
    ],
)  # fmt: skip
def test_a_changed_row_is_told(path, change):
    sql(path, f"UPDATE images SET {change} WHERE name = '{ROWS[7].name}'")
    refused(path, "1 of 60 images are not as they were written")


def test_rows_that_are_gone_or_came_in_are_told(path):
    kept = path.read_bytes()
    sql(path, f"DELETE FROM images WHERE name = '{ROWS[3].name}'")
    refused(path, "holds 59 images, which are not the 60 that were written")
    path.write_bytes(kept)
    sql(path, f"UPDATE images SET name = 'x', checksum = {ROWS[3]._replace(name='x').checksum()} WHERE bytes = 103")
    refused(path, "holds 60 images, which are not the 60 that were written")


@pytest.mark.parametrize("name", ["about", "weights", "images", "rows", "sum", "checksum", "format"])
def test_a_changed_fact_is_told(path, name):
    sql(path, f"UPDATE facts SET value = value || '1' WHERE name = '{name}'")
    refused(path, "format|what it says of itself")
    sql(path, f"DELETE FROM facts WHERE name = '{name}'")
    refused(path, "format|what it says of itself")


def test_a_file_of_a_newer_version_is_not_called_damaged(path):
    statements = "ALTER TABLE images ADD COLUMN colour TEXT", "CREATE TABLE more (name TEXT)"
    sql(path, "UPDATE facts SET value = '4' WHERE name = 'format'", *statements)
    with pytest.raises(ValueError, match=r"has format 4; this version reads 1, 2, 3: update torchreid_xres if"):
        Storage(path).facts()
    sql(path, "UPDATE facts SET value = '3' WHERE name = 'format'")
    refused(path, "other tables than a gallery's")


@pytest.mark.parametrize("about", ["[1, 2", "[1]", "{}", '"text"', "null"])
def test_facts_of_no_model_are_told(old, about):
    sql(old, "UPDATE facts SET value = ? WHERE name = 'about'", values=(about,))
    with pytest.raises(ValueError, match="is not a readable gallery: what it says of its model lacks"):
        Gallery(old.parent)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 4096, 16384, 30_000])
def test_a_cut_file_is_told(path, size):
    path.write_bytes(path.read_bytes()[:size])
    if size < 2:  # SQLite takes these for new
        with pytest.raises(FileNotFoundError, match="there is no gallery"):
            found(path)
    else:
        refused(path)


# -- files without checksums ---------------------------------------------------------------------------------------


def test_a_file_of_before_opens_and_gets_checksums_at_its_next_change(old, path):
    assert found(old) == found(path) and Storage(old).facts()["format"] == "1"
    with Storage(old).changing():
        pass
    assert Storage(old).facts()["format"] == "3" and Storage(old).rows() == ROWS
    feature = bytes([ROWS[7].feature[0] ^ 1]) + ROWS[7].feature[1:]
    sql(old, "UPDATE images SET feature = ? WHERE name = ?", values=(feature, ROWS[7].name))
    refused(old, "1 of 60 images are not as they were written")


def test_a_file_that_knew_less_of_its_images_opens(path):
    """Format 2 had no columns behind the checksum."""
    for column in ("frame", "box", "time", "taken", "camera", "track", "identity", "sharpness"):
        sql(path, f"ALTER TABLE images DROP COLUMN {column}")
    facts = Storage(path)
    with closing(sqlite3.connect(path)) as database, database:
        held = dict(database.execute("SELECT name, value FROM facts")) | {"format": "2"}
        held.pop("checksum")
        held["checksum"] = storage._facts_checksum(held)
        database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", held.items())
    assert facts.rows() == ROWS and facts.facts()["format"] == "2"
    known = ROWS[0]._replace(frame="a.jpg", box="1,2,3,4", time="1.5", track="7", sharpness=0.1)
    with facts.changing() as changes:
        changes.make([known])
    assert facts.facts()["format"] == "3" and facts.rows() == [known, *ROWS[1:]]
    sql(path, f"UPDATE images SET box = '1,2,3,5' WHERE name = '{known.name}'")
    refused(path, "1 of 60 images are not as they were written")


@pytest.mark.parametrize(
    "change",
    [
        "feature = zeroblob(508)", "feature = zeroblob(516)", "feature = x''", "feature = NULL", "fault = 'cut'",
        f"feature = x'{'0000c07f' * 128}'", "feature = 'text'", "height = NULL", "width = 'w'", "bytes = 'b'",
        "name = x'6162'",
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_the_others_are_told_and_leave(old, change):
    sql(old, f"UPDATE images SET {change} WHERE name = '{ROWS[7].name}'")
    refused(old, "1 of 60 images are not as they were written")
    with Storage(old).changing() as changes:
        assert ROWS[7].name not in changes.held and len(changes.held) == 59
    assert Storage(old).rows() == [*ROWS[:7], *ROWS[8:]]


def test_two_features_of_other_lengths_do_not_shift_those_between(old):
    """Together they are as long as two of the right length."""
    for row, size in ((ROWS[3], 508), (ROWS[50], 516)):
        sql(old, f"UPDATE images SET feature = zeroblob({size}) WHERE name = '{row.name}'")
    refused(old, "2 of 60 images are not as they were written")


# -- files that were made up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE images RENAME TO other", "CREATE VIEW images AS SELECT * FROM other"],
        ["ALTER TABLE facts RENAME TO other", "CREATE VIEW facts AS SELECT * FROM other"],
        ["CREATE VIEW more AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"],
        ["CREATE TRIGGER more AFTER INSERT ON images BEGIN DELETE FROM facts; END"],
        ["CREATE TABLE more (a)"],
        ["CREATE VIRTUAL TABLE more USING fts3(a)"],
        ["ALTER TABLE images ADD COLUMN more GENERATED ALWAYS AS (zeroblob(1000000000))"],
        ["ALTER TABLE images DROP COLUMN feature",
         "ALTER TABLE images ADD COLUMN feature GENERATED ALWAYS AS (zeroblob(512))"],
        ["ALTER TABLE images RENAME COLUMN feature TO features"],
        ["DROP TABLE images"],
        ["DROP TABLE facts"],
    ],
)  # fmt: skip
def test_only_the_two_tables_are_read(path, statements):
    try:
        sql(path, *statements)
    except sqlite3.OperationalError as error:  # what this SQLite lacks
        pytest.skip(str(error))
    refused(path, "other tables than a gallery's")
    with pytest.raises(ValueError, match="other tables"), Storage(path).changing():
        pass


def test_any_number_of_facts_is_not_read(path):
    sql(path, "INSERT INTO facts WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) "
              "SELECT 'a' || i, 'b' FROM n")  # fmt: skip
    refused(path, "what it says of itself")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to nothing"])
def test_what_is_no_file_is_named(tmp_path, kind):
    path = tmp_path / DATABASE
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    for use in (Gallery, lambda folder: Storage(folder / DATABASE).begin(**FACTS)):
        with pytest.raises(OSError, match=f"{DATABASE} is a {kind}, not a file"):
            use(tmp_path)


# -- galleries that use it -----------------------------------------------------------------------------------------


@pytest.fixture
def extractor():
    """One that gives each picture the row of its name."""
    features = {row.name: torch.from_numpy(np.frombuffer(row.feature, np.float32).copy()) for row in ROWS}
    return SimpleNamespace(
        query_encoder=None, backend=SimpleNamespace(name="torch", expect=lambda count: None),
        about=ABOUT, weights=Path("/run/last.pth.tar"), batch_size=7, cfg=CfgNode({"a": 1}),
        image=lambda path: path,
        prepare=lambda path: SimpleNamespace(
            size=(64, 32), name=f"{path.parent.name}/{path.name}", pixels=torch.zeros(3, 4, 4)
        ),
        describe=lambda read: torch.stack([features[one.name] for one in read]),
    )  # fmt: skip


@pytest.fixture
def built(tmp_path, extractor):
    for row in ROWS:
        (tmp_path / "images" / row.name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / row.name).write_text(row.name)
    made = Gallery(tmp_path / "gallery", extractor)
    made.update(tmp_path / "images")
    return made


def test_an_update_reads_what_is_damaged_anew(built, tmp_path, extractor, caplog):
    path, right = built.folder / DATABASE, found(built.folder / DATABASE)
    sql(path, f"UPDATE images SET feature = zeroblob(512) WHERE name = '{ROWS[3].name}'",
        f"DELETE FROM images WHERE name = '{ROWS[5].name}'",
        f"UPDATE images SET name = 'gone.jpg' WHERE name = '{ROWS[9].name}'")  # fmt: skip
    refused(path, "2 of 59 images are not as they were written")
    done = Gallery(built.folder, extractor).update(tmp_path / "images")
    assert (done.added, done.changed, done.removed, done.kept) == (3, 0, 0, 57)
    assert "2 of 59 images are not as they were written" in caplog.text
    assert found(path) == right


def test_a_configuration_that_changed_is_told_and_written_anew(built, tmp_path, extractor):
    config = built.folder / CONFIG
    for spoil in (lambda: config.write_text("a: 2\n"), config.unlink):
        spoil()
        with pytest.raises(ValueError, match=f"the {CONFIG} in {built.folder} is not what the gallery was built with"):
            Gallery(built.folder).make_extractor()
        Gallery(built.folder, extractor).update(tmp_path / "images")
        assert config.read_text() == "a: 1\n"


def test_a_file_of_before_keeps_its_configuration(old, tmp_path, extractor, built):
    (old.parent / CONFIG).write_text("of: before\n")
    Gallery(old.parent, extractor).update(tmp_path / "images")
    assert (old.parent / CONFIG).read_text() == "of: before\n" and "config" in Storage(old).facts()


def test_bytes_of_any_kind_are_no_gallery(path):
    rng = np.random.default_rng(3)
    head = path.read_bytes()[:100]
    for size in (100, 5000, 40_000):
        for start in (b"", head, head[:16]):
            path.write_bytes(start + rng.bytes(size))
            refused(path)
