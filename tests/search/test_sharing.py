"""A build by two processes: the features of one, bit for bit, and what a killed process described is not lost."""

import json
import shutil
import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import torch
from archive import Eye, mot, street
from forked import python

from torchreid_xres.archive.boxes import read_boxes
from torchreid_xres.archive.entries import find_entries
from torchreid_xres.devices import distributed
from torchreid_xres.inference import Extractor
from torchreid_xres.search import Gallery, sharing
from torchreid_xres.search.building import shares
from torchreid_xres.search.reader import DATABASE

BUILD = """
import json, os, sys
from torchreid_xres.devices.distributed import processes
from torchreid_xres.inference import Extractor
from torchreid_xres.search import Gallery
describe, left = Extractor.describe, [int(sys.argv[4])]
def counted(self, prepared):
    left[0] -= 1
    if os.environ["RANK"] == "1" and left[0] == 0:
        os._exit(9)
    return describe(self, prepared)
Extractor.describe = counted
with processes(False):
    done = Gallery(sys.argv[2], Extractor(sys.argv[1], batch_size=2)).update(sys.argv[3])
    print(json.dumps([done.added, done.changed, done.removed, done.kept, sorted(done.faults)]))
"""


def together(*arguments, stop=0):
    """Build by two processes as torchrun would start them; the second may kill itself before a batch of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def process(rank):
        return python("-c", BUILD, *arguments, stop, cwd="/", RANK=str(rank), LOCAL_RANK=str(rank), **told)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(process, range(2)))


@pytest.fixture
def images(tiny_root, tmp_path):
    """A folder with 18 images, and a file that is none."""
    folder = shutil.copytree(tiny_root / "gallery", tmp_path / "images")
    (folder / "bad.png").write_text("no picture")
    return folder


def content(place):
    with sqlite3.connect(place / DATABASE) as database:
        return database.execute("SELECT * FROM images ORDER BY name").fetchall()


@pytest.mark.slow
def test_two_processes_make_the_gallery_of_one_also_after_a_kill(run_of, images, tmp_path):
    run = run_of("osnet_x0_25")
    one = Gallery(tmp_path / "one", Extractor(run, batch_size=2))
    one.update(images)

    two = tmp_path / "two"
    first, second = together(run, two, images)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout) == [18, 0, 0, 0, ["bad.png"]]
    assert content(two) == content(one.folder)
    assert not (two / sharing.SHARES).exists()

    killed = tmp_path / "killed"
    first, second = together(run, killed, images, stop=3)
    assert second.returncode == 9 and first.returncode != 0
    assert len(content(killed)) > 0 and (killed / sharing.SHARES / "1.sqlite").is_file()
    kept = len(content(killed)) + 4  # two batches of the process that died
    done = Gallery(killed, Extractor(run, batch_size=2)).update(images)
    assert done.kept == kept and done.added == 19 - kept and content(killed) == content(one.folder)
    assert not (killed / sharing.SHARES).exists()


@pytest.mark.slow
@pytest.mark.parametrize("home", ["milvus"], indirect=True)
def test_two_processes_fill_milvus_lite_too(run_of, images, home):
    run = run_of("osnet_x0_25")
    first, second = together(run, home, images)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    one = Gallery(images.parent / "one", Extractor(run, batch_size=2))
    one.update(images)
    two = Gallery(home)
    assert two.rows == one.rows and torch.equal(two.features, one.features)


def test_shares_are_the_same_for_any_number_of_processes(tmp_path, monkeypatch):
    entries = find_entries(street(tmp_path / "frames", 24), tmp_path / "none")
    names = sorted(entries.found)
    parts = shares(entries, names, 1)
    assert len(parts) > 2 and sorted(chain.from_iterable(parts.values())) == names
    assert {share: parts[share] for share in shares(entries, names[:9], 1)}.keys() <= parts.keys()
    monkeypatch.setattr(distributed, "world", lambda: 3)
    own = []
    for number in range(3):
        monkeypatch.setattr(distributed, "process", lambda number=number: number)
        own.append(sharing.own_names(entries, names, 1))
    assert sorted(chain.from_iterable(own)) == names


def test_boxes_of_a_frame_and_a_track_stay_together(tmp_path):
    frames = street(tmp_path / "frames", 12)
    for tracks in (False, True):
        entries = find_entries(frames, tmp_path / "none", read_boxes(mot(tmp_path / "det.txt", 12, tracks)))
        parts = shares(entries, sorted(entries.found), 1)
        of = {name: share for share, names in parts.items() for name in names}
        for name in of:
            mates = [other for other in of if other.partition("#")[0] == name.partition("#")[0]]
            assert {of[mate] for mate in mates} == {of[name]}


def test_what_another_network_left_is_not_taken_in(tmp_path):
    frames = street(tmp_path / "frames", 3)
    made = Gallery(tmp_path / "gallery", Eye())
    made.update(frames)
    right = content(made.folder)
    (made.folder / sharing.SHARES).mkdir()
    for name, spoil in (("1", "UPDATE facts SET value = '{}' WHERE name = 'about'"), ("2", "DROP TABLE images")):
        path = shutil.copy(made.folder / DATABASE, made.folder / sharing.SHARES / f"{name}.sqlite")
        with sqlite3.connect(path) as database:
            database.execute(spoil)
    (made.folder / sharing.SHARES / "3.sqlite").touch()
    assert made.update(frames).kept == 3 and content(made.folder) == right
    assert not (made.folder / sharing.SHARES).exists()
