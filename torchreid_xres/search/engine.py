"""The engine that a gallery in Milvus is in: how it is reached, what it refuses in words, its collections.

Milvus Lite, which lives in this process, and a server (Standalone or Distributed) are spoken to by the same calls.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from torchreid_xres.search.expressions import within

PREFIX = "milvus:"
COLLECTION = "gallery"  # where none is named
TEXT, LONG = 8192, 65_535  # bytes of a name, and the most that a field holds
PIECE = 1000  # entities that come or go at once
# What an index is made with, and what it is asked with for so many hits.
INDEXES: dict[str, tuple[dict[str, int], Any]] = {
    "FLAT": ({}, lambda top: {}),
    "HNSW": ({"M": 32, "efConstruction": 200}, lambda top: {"ef": max(128, 2 * top)}),
    "DISKANN": ({}, lambda top: {"search_list": max(100, 2 * top)}),
}
TOKEN, CA, CERTIFICATE, KEY = "MILVUS_TOKEN", "MILVUS_CA", "MILVUS_CERTIFICATE", "MILVUS_KEY"
_SECONDS = 10  # that one waits for a server
# What the engine's own words say of the world around it; all else is about what it was asked.
_REFUSED = ("unauthenticated", "auth check fail", "invalid token", "permission deny", "permission_denied")
_FULL = ("no space left", "file too large", "quota exceeded", "disk full", "deny to write")
_AWAY = ("fail connecting", "failed to connect", "unavailable", "deadline", "timeout", "timed out")


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
            raise ValueError(f"{text} is no place for a gallery: {PREFIX}FILE.db and {PREFIX}http://HOST:PORT are")
        return Place(str(file), COLLECTION, file.with_name(f"{file.name}.files"))
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query:
        raise ValueError(f"the address of {parts.hostname} holds more than host and port; a token is read from {TOKEN}")
    collection = parts.path.strip("/") or COLLECTION
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", collection):
        raise ValueError(f"{collection!r} cannot be the name of a collection: letters, digits and _ alone are")
    folder = Path("log", "milvus", f"{parts.hostname}-{parts.port or 19530}-{collection}").absolute()
    return Place(f"{parts.scheme}://{parts.netloc}", collection, folder)


class Engine:
    """What answers at a place.

    What a server wants to be shown is read from the environment: MILVUS_TOKEN (a token, or USER:PASSWORD), and for
    https the files MILVUS_CA, MILVUS_CERTIFICATE and MILVUS_KEY.

    Args:
        name: the place as the user names it.

    Attributes:
        place: what it means.
        shared: whether several processes write at once: a server.

    Raises:
        ImportError: if pymilvus is not installed; from all methods.
        ValueError: if the place cannot be, or the engine does not take what it is asked.
        OSError: if nothing answers, the token is refused, or there is no room; from all methods.
    """

    def __init__(self, name: str) -> None:
        self.name, self.place = name, place_of(name)
        self.shared = self.place.address.startswith("http")
        self._file = None if self.shared else Path(self.place.address)
        self._ready: set[str] = set()

    def exists(self) -> bool:
        """Return whether there is something that can be asked."""
        return self._file is None or self._file.exists()

    @cached_property
    def client(self) -> Any:
        """The connection, made when it is first needed."""
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise ImportError(f"{self.name} takes pymilvus: pip install 'torchreid_xres[milvus]'") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what it logs it raises, too
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with _heard("milvus_lite.server_manager") as heard:
                try:
                    return MilvusClient(str(self._file))
                except Exception as error:
                    raise self._in_words(heard[-1] if heard else error) from error
        with self.told():
            return MilvusClient(self.place.address, timeout=_SECONDS, **_credentials())

    def close(self) -> None:
        """End the connection; of Milvus Lite give the file back, so that another process can open it."""
        if "client" in self.__dict__:
            self.client.close()
            del self.client
            self._ready.clear()
            if self._file is not None:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(str(self._file))

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say in words what the engine refuses in a block."""
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            raise self._in_words(error) from error

    def _in_words(self, error: BaseException) -> Exception:
        said = " ".join(str(getattr(error, "message", "") or error).split())
        low, again = said.lower(), "the same command goes on from what is there"
        if type(error).__name__ == "DataDirLockedError":
            return OSError(f"{self.name} is in use by another process, and Milvus Lite serves one at a time")
        if any(word in low for word in _REFUSED):
            return PermissionError(f"{self.name} refuses the token ({said}): {TOKEN} holds it, or USER:PASSWORD")
        if any(word in low for word in _FULL):
            return OSError(f"{self.name} has no room left ({said}): make room, and {again}")
        if any(word in low for word in _AWAY):
            return OSError(f"{self.name} does not answer ({said}): once it does, {again}")
        if isinstance(error, OSError):
            return OSError(f"{self.name}: {said}; {again}")
        return ValueError(f"{self.name} does not take what it is asked: {said}")

    # -- collections -------------------------------------------------------------------------------------------

    def has(self, collection: str) -> bool:
        """Return whether there is a collection, whose making was not cut short, and have it ready to be asked."""
        if collection in self._ready:
            return True
        client = self.client
        with self.told():
            if not client.has_collection(collection) or not client.list_indexes(collection):
                return False
            client.load_collection(collection)
        self._ready.add(collection)
        return True

    def create(self, collection: str, dimension: int, fields: Mapping[str, Any], **index: str) -> None:
        """Make a collection with a name and a feature for each entity, or what it lacks.

        Args:
            collection: its name.
            dimension: of the features.
            fields: more of them, and what is in them.
            **index: kind and metric.
        """
        from pymilvus import DataType
        from pymilvus.exceptions import MilvusException

        client = self.client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("name", DataType.VARCHAR, is_primary=True, max_length=TEXT)
        schema.add_field("feature", DataType.FLOAT_VECTOR, dim=dimension)
        for name, kind in fields.items():
            length = {"max_length": LONG if name == "value" else TEXT} if kind is DataType.VARCHAR else {}
            schema.add_field(name, kind, **length)
        with self.told():
            try:
                if not client.has_collection(collection):
                    client.create_collection(collection, schema=schema, consistency_level="Strong")
            except MilvusException:
                if not client.has_collection(collection):  # else another process was faster
                    raise
            if not client.list_indexes(collection):
                client.create_index(collection, self._index(**index))
        self.has(collection)

    def index_anew(self, collection: str, kind: str, metric: str) -> None:
        """Index the features of a collection in another way."""
        with self.told():
            self.client.release_collection(collection)
            self.client.drop_index(collection, "feature")
            self.client.create_index(collection, self._index(kind, metric))
            self.client.load_collection(collection)

    def _index(self, kind: str = "FLAT", metric: str = "L2") -> Any:
        made = self.client.prepare_index_params()
        made.add_index("feature", index_type=kind, metric_type=metric, params=INDEXES[kind][0])
        return made

    def described(self, collection: str) -> tuple[set[str], int]:
        """Return the fields of a collection, and the dimension of its features, 0 if it has none."""
        with self.told():
            fields = {field["name"]: field for field in self.client.describe_collection(collection)["fields"]}
        return {*fields}, fields.get("feature", {}).get("params", {}).get("dim", 0)

    def entities(self, collection: str, asked: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Give all entities for which an expression holds."""
        with self.told():
            pages = self.client.query_iterator(
                collection, filter=asked, output_fields=list(fields), batch_size=PIECE, consistency_level="Strong"
            )
            try:
                while page := pages.next():
                    yield from page
            finally:
                pages.close()

    def count(self, collection: str, asked: str = "") -> int:
        """Return the number of entities, or of those for which an expression holds."""
        with self.told():
            found = self.client.query(collection, filter=asked, output_fields=["count(*)"], consistency_level="Strong")
        return found[0]["count(*)"]

    def put(self, collection: str, entities: Sequence[dict[str, Any]], new: bool = False) -> None:
        """Take entities in, in the place of those of their names; where there are none, say that they are new."""
        with self.told():
            for start in range(0, len(entities), PIECE):
                act = self.client.insert if new else self.client.upsert
                act(collection, list(entities[start : start + PIECE]))

    def delete(self, collection: str, names: Collection[str]) -> None:
        """Delete what is of these names."""
        wanted = sorted(names)
        if wanted and self.has(collection):
            with self.told():
                for start in range(0, len(wanted), PIECE):
                    self.client.delete(collection, filter=within("name", wanted[start : start + PIECE]))


def _credentials() -> dict[str, str]:
    files = {name: os.environ.get(name, "") for name in (CA, CERTIFICATE, KEY)}
    for name, file in files.items():
        if file and not Path(file).is_file():
            raise FileNotFoundError(f"{name} names {file}, which is no file")
    shown = {"token": os.environ.get(TOKEN, "")}
    if files[CERTIFICATE] or files[KEY]:
        named = zip(("ca_pem_path", "client_pem_path", "client_key_path"), files.values(), strict=True)
        return shown | dict(named)
    return shown | ({"server_pem_path": files[CA]} if files[CA] else {})


@contextmanager
def _heard(name: str) -> Iterator[list[BaseException]]:
    """Collect the errors that a logger is given in a block, in place of what it would print."""
    heard: list[BaseException] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                heard.append(record.exc_info[1])

    of, ear = logging.getLogger(name), Ear()
    propagates, of.propagate = of.propagate, False
    of.addHandler(ear)
    try:
        yield heard
    finally:
        of.removeHandler(ear)
        of.propagate = propagates
