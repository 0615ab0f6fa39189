"""A gallery in Milvus: the features of its images are one collection, what is said of it and of unusable files another.

Milvus Lite, which lives in this process, and a server (Standalone or Distributed) are spoken to by the same calls. What
filters and groups ask for is worked out when an image comes in and kept beside its feature, so that the engine answers
and nothing of the size of the archive comes here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from torch import Tensor

from torchreid_xres.search.expressions import FIELDS, within
from torchreid_xres.search.filters import groups, times
from torchreid_xres.search.storage import Row

logger = logging.getLogger(__name__)

PREFIX = "milvus:"
FORMAT = "milvus 1"
COLLECTION = "gallery"  # where none is named
INDEXES = {
    "FLAT": ({}, lambda top: {}),
    "HNSW": ({"M": 32, "efConstruction": 200}, lambda top: {"ef": max(128, 2 * top)}),
    "DISKANN": ({}, lambda top: {"search_list": max(100, 2 * top)}),
}
MOST = 16_384  # that the engine finds, or returns at once
SAMPLE = 200_000  # images whose features and facts are held here; of more that many are drawn by their names
PROBES = 100  # images whose neighbours are looked for to measure the recall of an index
_TOKEN, _CA, _CERTIFICATE, _KEY = "MILVUS_TOKEN", "MILVUS_CA", "MILVUS_CERTIFICATE", "MILVUS_KEY"
_TEXT, _LONG = 8192, 65_535  # bytes of a name, and the most that a field holds
_PIECE = 1000  # rows that come or go at once, where they have no features
_SECONDS = 10  # that one waits for a server
_INTEGERS = ("bytes", "mtime_ns", "height", "width")
_TEXTS = ("frame", "box", "time", "taken", "camera", "track", "identity")
_UNKNOWN = -1.0  # sharpness of a picture of which it is not known
_KNOWN = ("name", *_INTEGERS, *_TEXTS, "sharpness")
_FIELDS = {*_KNOWN, "feature", "draw", "moment", "moment_kind", *FIELDS.values()}


class Place(NamedTuple):
    """Where a gallery is kept: what the client connects to, the collection there, and a folder for what lies beside."""

    address: str
    collection: str
    folder: Path


def place_of(text: str) -> Place:
    """Return what ``milvus:...`` names.

    Raises:
        ValueError: if it names none, or holds a password.

    Example:
        >>> place_of("milvus:http://host:19530/cars")[:2]
        ('http://host:19530', 'cars')
        >>> place_of("milvus:log/cars.db").folder.name
        'cars.db.files'
    """
    address = text.removeprefix(PREFIX)
    if not re.match(r"https?://", address):
        file = Path(address).expanduser().absolute()
        if file.suffix != ".db" or "://" in address:
            raise ValueError(
                f"{text} names no place: it is {PREFIX}FILE.db, or {PREFIX}http://HOST:PORT with /COLLECTION or without"
            )
        return Place(str(file), COLLECTION, file.with_name(f"{file.name}.files"))
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query:
        raise ValueError(f"the address at {parts.hostname} holds more than host and port: a token is read from {_TOKEN}")
    collection = parts.path.strip("/") or COLLECTION
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", collection):
        raise ValueError(f"{collection!r} cannot be the name of a collection: letters, digits and _ alone are")
    folder = Path("log", "milvus", f"{parts.hostname}-{parts.port or 19530}-{collection}").absolute()
    return Place(f"{parts.scheme}://{parts.netloc}", collection, folder)


class Milvus:
    """A gallery in Milvus, as :class:`~torchreid_xres.search.storage.Storage` is one in a file.

    Args:
        place: ``milvus:FILE.db`` or ``milvus:http://HOST:PORT/COLLECTION``. What a server wants to be shown is read
            from the environment: MILVUS_TOKEN; for https MILVUS_CA, MILVUS_CERTIFICATE and MILVUS_KEY, files.
        index: one of :data:`INDEXES`, that a build makes; empty: as it is, FLAT for a new one.

    Attributes:
        path: the place as it was named.
        folder: on this machine, for what lies beside.
        shared: whether several processes write at once.

    Raises:
        ImportError: if pymilvus is not installed.
        ValueError: if the place cannot be, or a collection there is no gallery's; from all methods.
        OSError: if nothing answers, the token is refused, or there is no room; from all methods.
    """

    searches = True

    def __init__(self, place: str, index: str = "") -> None:
        if index and index not in INDEXES:
            raise ValueError(f"there is no index {index}; there are {', '.join(INDEXES)}")
        self.path, self.index = place, index
        address, self.images, self.folder = self._place = place_of(place)
        self.notes = f"{self.images}_notes"
        self.shared = address.startswith("http")
        self._file = None if self.shared else Path(address)
        self._ready: set[str] = set()

    # -- the engine --------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> Any:
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise ImportError(f"{self.path} takes pymilvus: pip install 'torchreid_xres[milvus]'") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what it logs it raises, too
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with _heard("milvus_lite.server_manager") as told:
                try:
                    return MilvusClient(str(self._file))
                except Exception as error:
                    raise self._in_words(told[-1] if told else error) from error
        shown = {"token": os.environ.get(_TOKEN, "")}
        ca, certificate, key = (os.environ.get(name, "") for name in (_CA, _CERTIFICATE, _KEY))
        if certificate or key:
            shown |= {"ca_pem_path": ca, "client_pem_path": certificate, "client_key_path": key}
        elif ca:
            shown |= {"server_pem_path": ca}
        for name, file in ((_CA, ca), (_CERTIFICATE, certificate), (_KEY, key)):
            if file and not Path(file).is_file():
                raise FileNotFoundError(f"{name} names {file}, which is no file")
        with self._told():
            return MilvusClient(self._place.address, timeout=_SECONDS, **shown)

    def close(self) -> None:
        """End the connection; of Milvus Lite give the file back, so that another process can open it."""
        if "_client" in self.__dict__:
            self._client.close()
            del self._client
            self._ready.clear()
            if self._file is not None:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(str(self._file))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what the engine refuses."""
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, _rpc_error()) as error:
            raise self._in_words(error) from error

    def _in_words(self, error: Exception) -> Exception:
        said = " ".join(str(getattr(error, "message", "") or error).split())
        low = said.lower()
        again = "the same command goes on from what is there"
        if type(error).__name__ == "DataDirLockedError":
            return OSError(f"{self.path} is in use by another process, and Milvus Lite serves one at a time")
        if any(word in low for word in ("unauthenticated", "auth check fail", "token", "permission deny")):
            return PermissionError(f"{self.path} refuses the token ({said}): {_TOKEN} holds it, TOKEN or USER:PASSWORD")
        if any(word in low for word in ("no space left", "file too large", "quota", "disk", "memory limit", "enospc")):
            return OSError(f"{self.path} has no room left ({said}); make room, and {again}")
        if any(word in low for word in ("fail connecting", "unavailable", "deadline", "timeout", "timed out")):
            return OSError(f"{self.path} does not answer ({said}); once it does, {again}")
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            return OSError(f"{self.path}: {said}; {again}")
        return ValueError(f"{self.path} is not a usable gallery: the engine says {said}")

    def _has(self, collection: str) -> bool:
        """Return whether there is a collection, and have it ready to be asked if so."""
        client = self._client
        with self._told():
            if collection in self._ready:
                return True
            if not client.has_collection(collection):
                return False
            if not client.list_indexes(collection):  # a build was killed just before
                client.create_index(collection, self._index_of(collection))
            client.load_collection(collection)
        self._ready.add(collection)
        return True

    def _index_of(self, collection: str, kind: str = "FLAT", metric: str = "L2") -> Any:
        made = self._client.prepare_index_params()
        made.add_index("feature", index_type=kind, metric_type=metric, params=INDEXES[kind][0])
        return made

    def _create(self, collection: str, dimension: int, fields: Mapping[str, Any], **index: str) -> None:
        from pymilvus import DataType

        client = self._client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("name", DataType.VARCHAR, is_primary=True, max_length=_TEXT)
        schema.add_field("feature", DataType.FLOAT_VECTOR, dim=dimension)
        for name, kind in fields.items():
            length = {} if kind is not DataType.VARCHAR else {"max_length": _LONG if name == "value" else _TEXT}
            schema.add_field(name, kind, **length)
        with self._told():
            how = {"index_params": self._index_of(collection, **index), "consistency_level": "Strong"}
            client.create_collection(collection, schema=schema, **how)
        self._has(collection)

    def _asked(self, collection: str, asked: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Give all entities for which an expression holds."""
        with self._told():
            pages = self._client.query_iterator(
                collection, filter=asked, output_fields=list(fields), batch_size=_PIECE, consistency_level="Strong"
            )
            try:
                while page := pages.next():
                    yield from page
            finally:
                pages.close()

    # -- what a gallery's file does, too -----------------------------------------------------------------------

    def facts(self) -> dict[str, str]:
        """Return what the gallery says of itself; empty where none was begun."""
        if self._file is not None and not self._file.exists():
            return {}
        facts = {}
        if self._has(self.notes):
            found = self._asked(self.notes, 'kind == "fact"', ["name", "value"])
            facts = {one["name"].partition(":")[2]: one["value"] for one in found}
        if not facts:
            if self._has(self.images):
                raise ValueError(
                    f"{self.path} holds a collection {self.images} that is no gallery's: name another, or drop it"
                )
            return {}
        if facts.get("format") != FORMAT or not {"about", "weights", "images"} <= facts.keys():
            raise ValueError(
                f"{self.path} has format {facts.get('format')}; this version reads {FORMAT}: name another collection"
            )
        if self._has(self.images):
            with self._told():
                there = {field["name"] for field in self._client.describe_collection(self.images)["fields"]}
            if there != _FIELDS:
                raise ValueError(f"{self.path} holds a collection {self.images} with other fields than a gallery's")
        return facts

    def begin(self, **facts: str) -> None:
        """Make the collection of what is said of the gallery; the other one waits for the first feature."""
        from pymilvus import DataType

        if not self._has(self.notes):
            self._create(self.notes, 2, {"kind": DataType.VARCHAR, "value": DataType.VARCHAR})
        # All at once: a gallery without any of them was not begun.
        self.note("fact", facts | {"format": FORMAT, "index": self.index or "FLAT"})

    def note(self, kind: str, values: Mapping[str, str]) -> None:
        """Keep facts, or what is known of unusable files."""
        made = [{"name": f"{kind}:{name}", "kind": kind, "value": value} for name, value in values.items()]
        with self._told():
            for start in range(0, len(made), _PIECE):
                some = [one | {"feature": [0.0, 1.0]} for one in made[start : start + _PIECE]]
                self._client.upsert(self.notes, some)

    def rows(self) -> list[Row]:
        """Return rows by name: all, or of more than :data:`SAMPLE` images that many, drawn by their names."""
        rows = {row.name: row for row in self._faults()}
        count = self.count()
        share = f"draw < {int(2**32 * SAMPLE / count)}" if count > SAMPLE else ""
        if count:
            found = self._asked(self.images, share, [*_KNOWN, "feature"])
            rows |= {one["name"]: _row(one) for one in found}
        return [rows[name] for name in sorted(rows)]

    def _faults(self) -> list[Row]:
        if not self._has(self.notes):
            return []
        return [Row(*json.loads(one["value"])) for one in self._asked(self.notes, 'kind == "fault"', ["value"])]

    @contextmanager
    def changing(self) -> Iterator[Changes]:
        """Give the means to change what is there."""
        facts = self.facts()
        kind = self.index or facts["index"]
        if kind != facts["index"]:
            self._index_anew(kind, facts)
        facts["index"] = kind
        held = {row.name: [row.bytes, row.mtime_ns] for row in self._faults()}
        twice = set(held)
        if self._has(self.images):
            stamps = self._asked(self.images, "", ["name", "bytes", "mtime_ns"])
            held |= {one["name"]: [one["bytes"], one["mtime_ns"]] for one in stamps}
            twice &= {one["name"] for one in self._named(twice)}
        changes = Changes(self, facts, held)
        changes.forget(self.notes, [f"fault:{name}" for name in twice])  # a build was killed between the two
        yield changes
        if self._has(self.images):
            with self._told():
                self._client.flush(self.images)

    def _named(self, names: Collection[str]) -> Iterator[dict[str, Any]]:
        wanted = sorted(names)
        for start in range(0, len(wanted), _PIECE):
            yield from self._asked(self.images, within("name", wanted[start : start + _PIECE]), ["name"])

    def _index_anew(self, kind: str, facts: Mapping[str, str]) -> None:
        client = self._client
        if self._has(self.images):
            with self._told():
                client.release_collection(self.images)
                client.drop_index(self.images, "feature")
                client.create_index(self.images, self._index_of(self.images, kind, _metric(facts)))
                client.load_collection(self.images)
        self.note("fact", {"index": kind})

    # -- search ------------------------------------------------------------------------------------------------

    def count(self, asked: str = "") -> int:
        """Return the number of images, or of those for which an expression holds."""
        if not self._has(self.images):
            return 0
        with self._told():
            told = self._client.query(
                self.images, filter=asked, output_fields=["count(*)"], consistency_level="Strong"
            )
        return told[0]["count(*)"]

    def nearest(
        self, queries: Tensor, top: int, facts: Mapping[str, str], asked: str = "", by: str = ""
    ) -> list[list[tuple[float, Row]]]:
        """Return distances and rows of the images nearest to each query, nearest first.

        Args:
            queries: (Q, D).
            top: at most so many for each, up to :data:`MOST`.
            facts: what the gallery says of itself.
            asked: an expression: these alone.
            by: of each identity, track or camera the best alone; empty: all.
        """
        if top > MOST:
            raise ValueError(f"top is {top}, and Milvus finds at most {MOST}")
        metric = _metric(facts)
        how = {"metric_type": metric, "params": INDEXES[facts["index"]][1](top)}
        group = {"group_by_field": FIELDS[by]} if by else {}
        found = []
        with self._told():
            for part in queries.float().split(_PIECE):
                found += self._client.search(
                    self.images, data=list(part.numpy()), anns_field="feature", limit=top, filter=asked,
                    search_params=how, output_fields=list(_KNOWN), consistency_level="Strong", **group,
                )  # fmt: skip
        hits = [[(_distance(hit["distance"], metric), _row(hit["entity"])) for hit in one] for one in found]
        return [sorted(one, key=lambda hit: (hit[0], hit[1].name)) for one in hits]

    def recall(self, facts: Mapping[str, str], top: int = 10) -> float | None:
        """Return the share of the nearest images of some of the gallery's own that its index finds.

        The truth is what a FLAT search gives: all features pass here once, so nothing is measured of more than
        :data:`SAMPLE` images.
        """
        count = self.count()
        if not top < count <= SAMPLE:
            return None
        rows = [row for row in self.rows() if row.feature is not None]
        features = np.stack([np.frombuffer(row.feature, np.float32) for row in rows])
        probes = features[:: max(1, count // PROBES)][:PROBES]
        if _metric(facts) == "COSINE":
            features, probes = (one / np.linalg.norm(one, axis=1, keepdims=True).clip(1e-12) for one in (features, probes))
        distances = (features**2).sum(1) - 2 * probes @ features.T
        true = np.argpartition(distances, top, axis=1)[:, :top]
        import torch

        found = self.nearest(torch.from_numpy(np.ascontiguousarray(probes)), top, facts)
        hit = sum(
            len({rows[place].name for place in right} & {row.name for _, row in own})
            for right, own in zip(true, found, strict=True)
        )
        return hit / (top * len(probes))


class Changes:
    """Changes of a gallery in Milvus, as :class:`torchreid_xres.search.storage.Changes` are of one in a file.

    Each call is made whole by the engine, and a build that is killed between two finds at its next start what it lacks.
    """

    def __init__(self, home: Milvus, facts: dict[str, str], held: dict[str, list[int]]) -> None:
        self.home, self.facts, self.held = home, facts, held
        self._there = set(held)

    def make(self, rows: Sequence[Row] = (), gone: Collection[str] = (), **facts: str) -> None:
        """Make a change.

        Args:
            rows: come in, or take the place of those of their names.
            gone: names of rows that go.
            **facts: what the gallery says of itself now.
        """
        home = self.home
        changed = {name: value for name, value in facts.items() if self.facts.get(name) != value}
        self.facts |= changed
        self.forget(home.images, gone)
        self.forget(home.notes, [f"fault:{name}" for name in gone])
        if changed.get("names") is not None and home._has(home.images):
            self._name_anew()
        usable = [row for row in rows if row.feature is not None]
        if usable:
            self._insert(usable)
        home.note("fault", {row.name: json.dumps(row) for row in rows if row.feature is None})
        known = [row for row in rows if row.name in self._there]
        self.forget(home.notes, [f"fault:{row.name}" for row in known if row.feature is not None])
        self.forget(home.images, [row.name for row in known if row.feature is None])
        if changed:
            home.note("fact", changed)
        self._there = (self._there - set(gone)) | {row.name for row in rows}

    def forget(self, collection: str, names: Collection[str]) -> None:
        """Delete what is of these names in a collection."""
        home, wanted = self.home, sorted(names)
        if wanted and home._has(collection):
            with home._told():
                for start in range(0, len(wanted), _PIECE):
                    home._client.delete(collection, filter=within("name", wanted[start : start + _PIECE]))

    def _insert(self, rows: Sequence[Row]) -> None:
        from pymilvus import DataType

        home, width = self.home, len(rows[0].feature) // 4
        if not home._has(home.images):
            fields = dict.fromkeys(("draw", *_INTEGERS), DataType.INT64)
            fields |= dict.fromkeys(("moment", "sharpness"), DataType.DOUBLE)
            fields |= dict.fromkeys(("moment_kind", *_TEXTS, *FIELDS.values()), DataType.VARCHAR)
            home._create(home.images, width, fields, kind=self.facts["index"], metric=_metric(self.facts))
        made = _entities(rows, self.facts)
        client = home._client
        with home._told():
            for act, some in (
                (client.insert, [one for one in made if one["name"] not in self._there]),
                (client.upsert, [one for one in made if one["name"] in self._there]),
            ):
                if some:
                    act(home.images, some)

    def _name_anew(self) -> None:
        """Work out again what names say, by another pattern."""
        home, some = self.home, []
        for one in [*home._asked(home.images, "", [*_KNOWN, "feature"])]:
            some.append(_row(one))
            if len(some) == _PIECE:
                self._insert(some)
                some = []
        if some:
            self._insert(some)


# -- entities and expressions ------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Some rows as what :mod:`torchreid_xres.search.filters` looks at."""

    rows: Sequence[Row]
    facts: Mapping[str, str]
    searches: bool = False


def _entities(rows: Sequence[Row], facts: Mapping[str, str]) -> list[dict[str, Any]]:
    part = _Part(rows, facts)
    moments = times(part).values
    of = {}
    for by, field in FIELDS.items():
        try:
            of[field] = groups(part, by).values
        except ValueError:  # nothing says it of any of them
            of[field] = [f"0 {row.name}" for row in rows]
    made = []
    for place, row in enumerate(rows):
        one = {key: value for key, value in row._asdict().items() if key in _INTEGERS} | {"name": row.name}
        one |= {key: getattr(row, key) or "" for key in _TEXTS}
        one |= {field: values[place] for field, values in of.items()}
        kind, seconds = moments[place]
        one |= {"moment_kind": kind, "moment": seconds, "draw": zlib.crc32(row.name.encode())}
        one["sharpness"] = _UNKNOWN if row.sharpness is None else row.sharpness
        made.append(one | {"feature": np.frombuffer(row.feature, np.float32)})
    return made


def _row(entity: Mapping[str, Any]) -> Row:
    known = {name: entity[name] or None for name in _TEXTS} | {name: entity[name] for name in ("name", *_INTEGERS)}
    feature = entity.get("feature")
    known["feature"] = None if feature is None else np.asarray(feature, np.float32).tobytes()
    sharpness = entity["sharpness"]
    return Row(**known, fault=None, sharpness=None if sharpness == _UNKNOWN else sharpness)


def _metric(facts: Mapping[str, str]) -> str:
    return "COSINE" if json.loads(facts["about"])["metric"] == "cosine" else "L2"


def _distance(told: float, metric: str) -> float:
    return 1 - told if metric == "COSINE" else told


def _rpc_error() -> type[Exception]:
    import grpc

    return grpc.RpcError


@contextmanager
def _heard(name: str) -> Iterator[list[BaseException]]:
    """Collect the errors that a logger is given in a block, in place of what it would print."""
    told: list[BaseException] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                told.append(record.exc_info[1])

    of, ear = logging.getLogger(name), Ear()
    propagates, of.propagate = of.propagate, False
    of.addHandler(ear)
    try:
        yield told
    finally:
        of.removeHandler(ear)
        of.propagate = propagates
