"""A gallery in Milvus: what the place is called, what the engine refuses in words, indexes, and what a kill leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from archive import Eye
from full_disk import small_files

from torchreid_xres.search import Gallery, engine, milvus
from torchreid_xres.search.engine import Engine, place_of
from torchreid_xres.search.filters import Filters, groups
from torchreid_xres.search.reader import CONFIG
from torchreid_xres.search.storage import Row

only_milvus = pytest.mark.parametrize("home", ["milvus"], indirect=True)


@pytest.fixture
def images(tmp_path):
    """A folder of twelve small pictures of three people by two cameras."""
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (4, 2, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(pixels).resize((32, 64), PIL.Image.Resampling.NEAREST)
        picture.save(folder / f"000{number % 3}_c{number % 2}_{number:02d}.png")
    return folder


@pytest.fixture
def built(images, home):
    made = Gallery(home, Eye())
    made.update(images)
    return made


# -- without an engine ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place, message",
    [
        ("milvus:g", "is no place for a gallery: milvus:FILE.db and milvus:http://HOST:PORT are"),
        ("milvus:ftp://host/g.db", "is no place for a gallery"),
        ("milvus:http://me:secret@host:1", "the address of host holds more than host and port; a token is read from"),
        ("milvus:http://host:1/a-b", "'a-b' cannot be the name of a collection"),
    ],
)
def test_places_that_cannot_be_are_refused(place, message):
    with pytest.raises(ValueError, match=message) as caught:
        Gallery(place)
    assert "secret" not in str(caught.value)


def test_places_mean_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of("milvus:./g.db") == (str(tmp_path / "g.db"), "gallery", tmp_path / "g.db.files")
    folder = tmp_path / "log" / "milvus" / "host-19530-cars"
    assert place_of("milvus:https://host/cars") == ("https://host", "cars", folder)
    with pytest.raises(ValueError, match="there is no index IVF; there are FLAT, HNSW, DISKANN"):
        Gallery("milvus:g.db", index="IVF")
    with pytest.raises(ValueError, match="is Milvus Lite, which has no DISKANN"):
        Gallery("milvus:g.db", index="DISKANN")
    with pytest.raises(ValueError, match="is a folder, whose search is exact: an index such as HNSW is for milvus"):
        Gallery(tmp_path, index="HNSW")


@pytest.mark.parametrize(
    "said, kind, message",
    [
        ("Fail connecting to server on h:1, illegal connection params or server unavailable", OSError,
         "does not answer .*: once it does, the same command goes on"),
        ("<_InactiveRpcError of RPC: StatusCode.UNAUTHENTICATED auth check failure, please check username and password",
         PermissionError, "refuses the token .*: MILVUS_TOKEN holds it"),
        ("[Errno 28] No space left on device", OSError, "has no room left .*: make room, and the same command goes on"),
        ("quota exceeded[reason=disk quota exceeded]", OSError, "has no room left"),
        ("index type DISKANN is not known", ValueError, "does not take what it is asked: index type DISKANN"),
    ],
)  # fmt: skip
def test_what_an_engine_says_is_put_into_words(said, kind, message):
    found = Engine("milvus:http://host:19530")._in_words(RuntimeError(said))
    assert type(found) is kind
    with pytest.raises(kind, match=f"^milvus:http://host:19530 {message}"):
        raise found


def test_token_and_files_are_read_from_the_environment(tmp_path, monkeypatch):
    for name in (engine.TOKEN, engine.CA, engine.CERTIFICATE, engine.KEY):
        monkeypatch.delenv(name, raising=False)
    assert engine._credentials() == {"token": ""}
    for name in ("ca", "pem", "key"):
        (tmp_path / name).touch()
    monkeypatch.setenv(engine.TOKEN, "me:secret")
    monkeypatch.setenv(engine.CA, str(tmp_path / "ca"))
    assert engine._credentials() == {"token": "me:secret", "server_pem_path": str(tmp_path / "ca")}
    monkeypatch.setenv(engine.CERTIFICATE, str(tmp_path / "pem"))
    monkeypatch.setenv(engine.KEY, str(tmp_path / "key"))
    assert set(engine._credentials()) == {"token", "ca_pem_path", "client_pem_path", "client_key_path"}
    monkeypatch.setenv(engine.KEY, str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"MILVUS_KEY names .*none, which is no file"):
        engine._credentials()


# -- Milvus Lite ---------------------------------------------------------------------------------------------------


@only_milvus
def test_a_server_that_is_away_is_said(home, monkeypatch):
    monkeypatch.setattr(engine, "_SECONDS", 0.2)
    with pytest.raises(OSError, match=r"milvus:http://127\.0\.0\.1:1 does not answer"):
        Gallery("milvus:http://127.0.0.1:1")


@only_milvus
def test_the_hits_are_those_of_files_in_their_order(built, images, tmp_path):
    files = Gallery(tmp_path / "files", Eye())
    files.update(images)
    assert built.names == files.names and torch.equal(built.features, files.features)
    assert [row._replace(feature=None) for row in built.rows] == files.rows and len(built) == len(files) == 12
    queries = torch.rand(5, built.features.shape[1])
    for asked in (Filters(), Filters(cameras=["1"]), Filters(not_cameras=["1"], after="1990-01-01")):
        for by in ("", "identity", "camera"):
            found = []
            for one in (built, files):
                among, told = asked.among(one)
                of = groups(one, by).values if by else None
                found.append((one.search(queries, 5, among, of), told, one.count(among)))
            for mine, right in zip(found[0][0], found[1][0], strict=True):
                assert [hit.name for hit in mine] == [hit.name for hit in right]
                assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in right], abs=1e-5)
            assert found[0][1:] == found[1][1:]
    with pytest.raises(ValueError, match="no image is of the camera 9"):
        Filters(cameras=["9"]).among(built)
    with pytest.raises(ValueError, match="Milvus finds at most 16384"):
        built.search(queries, 20_000)


@only_milvus
def test_of_a_large_gallery_a_part_is_read_and_all_is_searched(built, monkeypatch):
    monkeypatch.setattr(milvus, "SAMPLE", 6)
    again = Gallery(built.place)
    assert len(again) == 12 and 0 < len(again.rows) == len(again.features) < 12
    among, _ = Filters(cameras=["1"]).among(again)
    assert again.count(among) == 6 and len(again.search(torch.rand(1, 12), 10, among)[0]) == 6
    assert again.recall() is None


@only_milvus
def test_another_index_is_made_by_the_next_build(built, images):
    assert built.facts["index"] == "FLAT" and built.recall() == 1
    again = Gallery(built.place, Eye(), index="HNSW")
    assert again.update(images).kept == 12 and again.facts["index"] == "HNSW"
    assert Gallery(built.place).facts["index"] == "HNSW" and 0.5 < again.recall() <= 1


@only_milvus
def test_another_machine_finds_the_configuration(built):
    shutil.rmtree(built.folder)
    with pytest.raises(FileNotFoundError, match="no run or checkpoint at"):
        Gallery(built.place).make_extractor()
    assert (built.folder / CONFIG).read_text() == "a: 1\n"


@only_milvus
def test_what_is_kept_holds_no_token(images, home, monkeypatch):
    monkeypatch.setenv(engine.TOKEN, "me:secret")
    made = Gallery(home, Eye())
    made.update(images)
    assert "secret" not in json.dumps(made.facts) + (made.folder / CONFIG).read_text()


@only_milvus
def test_a_collection_of_others_is_left_alone(home, images):
    its = Engine(home)
    its.create("gallery", 4, {})
    with pytest.raises(ValueError, match="has a collection gallery that is no gallery's: name another"):
        Gallery(home, Eye())
    assert its.has("gallery")


@only_milvus
def test_features_of_another_length_are_refused(built):
    row = Row("x.png", 1, 1, 2, 2, bytes(16), None)
    message = "holds features of 12 dimensions, and the network's have 4: name another"
    with pytest.raises(ValueError, match=message), built._storage.changing() as changes:
        changes.make([row])
    assert len(Gallery(built.place)) == 12


@pytest.mark.slow
@only_milvus
def test_what_was_begun_and_not_finished_goes_on(home, images, monkeypatch):
    """A build is killed behind each call that changes the engine, in turn; the next one ends as if it had not been."""
    from pymilvus import MilvusClient

    class Killed(BaseException):
        pass

    right = None
    calls = ("create_collection", "create_index", "insert", "upsert", "delete")
    real = {name: getattr(MilvusClient, name) for name in calls}
    for stop in range(1, 99):
        left = [stop]

        def dying(name, left=left):
            def act(self, *args, **kwargs):
                result = real[name](self, *args, **kwargs)
                left[0] -= 1
                if not left[0]:
                    raise Killed
                return result

            return act

        for name in calls:
            monkeypatch.setattr(MilvusClient, name, dying(name))
        made, ended = Gallery(home, Eye()), True
        try:
            made.update(images)
        except Killed:
            ended = False
        for name in calls:
            monkeypatch.setattr(MilvusClient, name, real[name])
        made.update(images)
        found = Gallery(home)
        right = right or [row._replace(feature=None) for row in found.rows]
        assert found.rows == right and len(found) == 12 and found.faults == {}
        for name in ("gallery", "gallery_notes"):
            made._storage.engine.client.drop_collection(name)
        made._storage.engine._ready.clear()
        if ended:
            break
    assert 5 < stop < 30


@only_milvus
def test_an_image_that_breaks_and_mends_is_in_one_of_the_two(built, images):
    first = sorted(images.iterdir())[0]
    whole, notes = first.read_bytes(), built._storage.notes
    for content, count in ((b"no picture", 11), (whole, 12)):
        first.write_bytes(content)
        built.update(images)
        assert len(built) == count and len(built.faults) == 12 - count
        assert built._storage.engine.count(notes, 'kind == "fault"') == 12 - count
    built._storage.note("fault", {first.name: json.dumps(Row(first.name, 1, 1, None, None, None, "cut"))})
    assert built.update(images).kept == 12 and Gallery(built.place).faults == {}


@only_milvus
def test_a_file_in_use_is_said(built):
    fcntl = pytest.importorskip("fcntl", reason="this system locks files in another way")
    built._storage.close()
    with open(Path(built._storage.engine.place.address) / "LOCK", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"g\.db is in use by another process, and Milvus Lite serves one at a time"):
            Gallery(built.place)
    assert len(Gallery(built.place)) == 12


@pytest.mark.slow
@only_milvus
def test_a_full_disk_is_said_and_the_next_build_goes_on(home):
    storage = Gallery(home, Eye())._storage
    storage.begin(about=json.dumps(Eye.about), weights="w", images="i")
    rows = [Row(f"{i}.jpg", 1, 1, 8, 4, np.full(500, i, np.float32).tobytes(), None) for i in range(300)]
    with storage.changing() as changes:
        changes.make(rows[:20])
    told = r"has no room left .*: make room"
    with small_files(200_000), pytest.raises(OSError, match=told), storage.changing() as changes:
        changes.make(rows[20:])
    storage.close()
    again = Gallery(home)._storage
    with again.changing() as changes:
        assert {row.name for row in rows[:20]} <= changes.held.keys()
        changes.make([row for row in rows if row.name not in changes.held])
    assert again.count() == 300 and sorted(again.rows()) == sorted(rows)
