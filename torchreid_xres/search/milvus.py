"""A gallery in Milvus: the features of its images are one collection, what is said of it and of unusable files another.

What filters and groups ask for is worked out when an image comes in and kept beside its feature, so that the engine
answers and nothing of the size of the archive comes here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from torchreid_xres.data.split import hashed
from torchreid_xres.search.engine import INDEXES, PIECE, Engine
from torchreid_xres.search.expressions import FIELDS, within
from torchreid_xres.search.filters import groups, times
from torchreid_xres.search.nearest import Nearest
from torchreid_xres.search.storage import Row

FORMAT = "milvus 1"
MOST = 16_384  # that the engine finds at once
SAMPLE = 200_000  # images whose features and facts are read here; of more that many are drawn by their names
PROBES = 100  # images whose neighbours are looked for to measure the recall of an index
_INTEGERS = ("bytes", "mtime_ns", "height", "width")
_TEXTS = ("frame", "box", "time", "taken", "camera", "track", "identity")
_UNKNOWN = -1.0  # sharpness of a picture of which it is not known
_KNOWN = ("name", *_INTEGERS, *_TEXTS, "sharpness")
_FIELDS = {*_KNOWN, "feature", "draw", "moment", "moment_kind", *FIELDS.values()}


class Milvus:
    """A gallery in Milvus, as :class:`~torchreid_xres.search.storage.Storage` is one in a file.

    Args:
        name: ``milvus:FILE.db`` or ``milvus:http://HOST:PORT/COLLECTION``.
        index: FLAT, HNSW or DISKANN, that a build makes; empty: as it is, FLAT for a new one.

    Attributes:
        path: the place as it was named.
        folder: on this machine, for what lies beside.
        searches: whether it finds what is near by itself: yes.
        shared: whether several processes write at once: to a server.

    Raises:
        ValueError: if the place cannot be, or a collection there is no gallery's; from all methods.
        OSError, ImportError: as of :class:`~torchreid_xres.search.engine.Engine`; from all methods.
    """

    searches = True

    def __init__(self, name: str, index: str = "") -> None:
        if index and index not in INDEXES:
            raise ValueError(f"there is no index {index}; there are {', '.join(INDEXES)}")
        self.path, self.index = name, index
        self.engine = Engine(name)
        _, self.images, self.folder = self.engine.place
        self.notes, self.shared = f"{self.images}_notes", self.engine.shared
        if index == "DISKANN" and not self.shared:
            raise ValueError(f"{name} is Milvus Lite, which has no DISKANN; it has FLAT and HNSW, a server has all")

    def close(self) -> None:
        """End the connection."""
        self.engine.close()

    # -- what a gallery's file does, too -----------------------------------------------------------------------

    def facts(self) -> dict[str, str]:
        """Return what the gallery says of itself; empty where none was begun."""
        engine = self.engine
        if not engine.exists():
            return {}
        facts = {}
        if engine.has(self.notes):
            self._require_fields(self.notes, {"name", "feature", "kind", "value"})
            found = engine.entities(self.notes, 'kind == "fact"', ["name", "value"])
            facts = {one["name"].partition(":")[2]: one["value"] for one in found}
        if not facts:
            if engine.has(self.images):
                raise ValueError(f"{self.path} has a collection {self.images} that is no gallery's: name another")
            return {}
        if facts.get("format") != FORMAT or not {"about", "weights", "images", "index"} <= facts.keys():
            told = f"{self.path} has format {facts.get('format')}; this version reads {FORMAT}"
            raise ValueError(f"{told}: name another collection")
        if engine.has(self.images):
            self._require_fields(self.images, _FIELDS)
        return facts

    def _require_fields(self, collection: str, fields: Collection[str]) -> None:
        if self.engine.described(collection)[0] != fields:
            raise ValueError(f"{self.path} has a collection {collection} that is no gallery's: name another")

    def begin(self, **facts: str) -> None:
        """Make the collection of what is said of the gallery; the other one waits for the first feature."""
        from pymilvus import DataType

        self.engine.create(self.notes, 2, {"kind": DataType.VARCHAR, "value": DataType.VARCHAR})
        # All at once: a gallery without any of them was not begun.
        self.note("fact", facts | {"format": FORMAT, "index": self.index or "FLAT"})

    def note(self, kind: str, values: Mapping[str, str]) -> None:
        """Keep facts, or what is known of unusable files."""
        feature = np.array([0, 1], np.float32)
        made = [{"name": f"{kind}:{name}", "kind": kind, "value": value} for name, value in values.items()]
        self.engine.put(self.notes, [one | {"feature": feature} for one in made])

    def rows(self) -> list[Row]:
        """Return rows by name: all, or of more than :data:`SAMPLE` images about that many, drawn by their names."""
        rows = {row.name: row for row in self._faults()}
        count = self.count()
        share = f"draw < {int(2**32 * SAMPLE / count)}" if count > SAMPLE else ""
        if count:
            found = self.engine.entities(self.images, share, [*_KNOWN, "feature"])
            rows |= {one["name"]: _row(one) for one in found}
        return [rows[name] for name in sorted(rows)]

    def _faults(self) -> list[Row]:
        if not self.engine.has(self.notes):
            return []
        found = self.engine.entities(self.notes, 'kind == "fault"', ["value"])
        return [Row(*json.loads(one["value"])) for one in found]

    @contextmanager
    def changing(self) -> Iterator[Changes]:
        """Give the means to change what is there, whatever a build that was killed left undone."""
        engine, facts = self.engine, self.facts()
        there = engine.exists() and engine.has(self.images)
        kind = self.index or facts["index"]
        if kind != facts["index"]:
            if there:
                engine.index_anew(self.images, kind, metric_of(facts))
            self.note("fact", {"index": kind})
        changes = Changes(self, facts | {"index": kind})
        held = {row.name: [row.bytes, row.mtime_ns] for row in self._faults()}
        if there:
            stamps = engine.entities(self.images, "", ["name", "bytes", "mtime_ns"])
            usable = {one["name"]: [one["bytes"], one["mtime_ns"]] for one in stamps}
            engine.delete(self.notes, [f"fault:{name}" for name in held.keys() & usable.keys()])
            held |= usable
        changes.held, changes.there = held, set(held)
        yield changes
        if engine.has(self.images):
            with engine.told():
                engine.client.flush(self.images)

    # -- search ------------------------------------------------------------------------------------------------

    def count(self, asked: str = "") -> int:
        """Return the number of images, or of those for which an expression holds."""
        return self.engine.count(self.images, asked) if self.engine.has(self.images) else 0

    def nearest(
        self, queries: np.ndarray, top: int, facts: Mapping[str, str], asked: str = "", by: str = ""
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
        metric = metric_of(facts)
        how = {"metric_type": metric, "params": INDEXES[facts["index"]][1](top)}
        group = {"group_by_field": FIELDS[by]} if by else {}
        found = []
        with self.engine.told():
            for start in range(0, len(queries), PIECE):
                part = list(queries[start : start + PIECE])
                found += self.engine.client.search(
                    self.images, data=part, anns_field="feature", limit=top, filter=asked,
                    search_params=how, output_fields=list(_KNOWN), consistency_level="Strong", **group,
                )  # fmt: skip
        sign, start = (-1, 1) if metric == "COSINE" else (1, 0)  # there it tells the similarity
        hits = [[(start + sign * hit["distance"], _row(hit["entity"])) for hit in one] for one in found]
        return [sorted(one, key=lambda hit: (hit[0], hit[1].name)) for one in hits]

    def recall(self, facts: Mapping[str, str], top: int = 10) -> float | None:
        """Return the share of the nearest images of some of the gallery's own that its index finds.

        All features are read once for that, so of more than :data:`SAMPLE` images nothing is measured: None.
        """
        if not top < self.count() <= SAMPLE:
            return None
        rows = [row for row in self.rows() if row.feature is not None]
        features = np.stack([np.frombuffer(row.feature, np.float32) for row in rows])
        probes = features[:: max(1, len(rows) // PROBES)][:PROBES]
        metric = "cosine" if metric_of(facts) == "COSINE" else "euclidean"
        right = Nearest(features, metric).find(probes, top)[1]
        found = self.nearest(probes, top, facts)
        both = zip(right, found, strict=True)
        hit = sum(len({rows[place].name for place in true} & {row.name for _, row in own}) for true, own in both)
        return hit / (top * len(probes))


class Changes:
    """Changes of a gallery in Milvus, as :class:`torchreid_xres.search.storage.Changes` are of one in a file.

    The engine makes each call whole; what a build that is killed between two leaves, the next one finds.

    Args:
        home: the gallery's.
        facts: what the gallery says of itself.

    Attributes:
        held: size and time of each image file when it was read, by name.
        facts: what the gallery says of itself.
        there: names that the gallery holds.
    """

    def __init__(self, home: Milvus, facts: dict[str, str]) -> None:
        self.home, self.facts = home, facts
        self.held: dict[str, list[int]] = {}
        self.there: set[str] = set()

    def make(self, rows: Sequence[Row] = (), gone: Collection[str] = (), **facts: str) -> None:
        """Make a change.

        Args:
            rows: come in, or take the place of those of their names.
            gone: names of rows that go.
            **facts: what the gallery says of itself now.
        """
        home, engine = self.home, self.home.engine
        changed = {name: value for name, value in facts.items() if self.facts.get(name) != value}
        self.facts = self.facts | changed
        usable = [row for row in rows if row.feature is not None]
        faulty = [row for row in rows if row.feature is None]
        if "names" in changed and engine.has(home.images):
            self._name_anew()
        if usable:
            self.make_collection(len(usable[0].feature) // 4)
            self._put(usable)
        home.note("fault", {row.name: json.dumps(row) for row in faulty})
        # A row that was of the other kind leaves it, last.
        engine.delete(home.notes, [f"fault:{name}" for name in self._known(usable) | set(gone)])
        engine.delete(home.images, self._known(faulty) | set(gone))
        if changed:
            home.note("fact", changed)
        self.there = (self.there - set(gone)) | {row.name for row in rows}

    def _known(self, rows: Sequence[Row]) -> set[str]:
        return self.there & {row.name for row in rows}

    def make_collection(self, dimension: int) -> None:
        """Make the collection of the images, where it or its index is not there.

        Raises:
            ValueError: if it is of another dimension.
        """
        from pymilvus import DataType

        home = self.home
        fields = dict.fromkeys(("draw", *_INTEGERS), DataType.INT64)
        fields |= dict.fromkeys(("moment", "sharpness"), DataType.DOUBLE)
        fields |= dict.fromkeys(("moment_kind", *_TEXTS, *FIELDS.values()), DataType.VARCHAR)
        if not self.__dict__.get("dimension"):
            how = {"kind": self.facts["index"], "metric": metric_of(self.facts)}
            home.engine.create(home.images, dimension, fields, **how)
            self.dimension = home.engine.described(home.images)[1]
        if self.dimension != dimension:
            raise ValueError(
                f"{home.path} holds features of {self.dimension} dimensions, and the network's have {dimension}: name "
                "another collection"
            )

    def _put(self, rows: Sequence[Row]) -> None:
        made = entities(rows, self.facts)
        self.home.engine.put(self.home.images, [one for one in made if one["name"] not in self.there], new=True)
        self.home.engine.put(self.home.images, [one for one in made if one["name"] in self.there])

    def _name_anew(self) -> None:
        """Work out again what names say, by another pattern."""
        held = [*self.home.engine.entities(self.home.images, "", ["name"])]
        for start in range(0, len(held), PIECE):
            asked = within("name", [one["name"] for one in held[start : start + PIECE]])
            self._put([_row(one) for one in self.home.engine.entities(self.home.images, asked, [*_KNOWN, "feature"])])


def metric_of(facts: Mapping[str, str]) -> str:
    """Return the engine's name of a gallery's metric."""
    return "COSINE" if json.loads(facts["about"])["metric"] == "cosine" else "L2"


# -- rows as the engine has them ---------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Some rows as what :mod:`torchreid_xres.search.filters` looks at."""

    rows: Sequence[Row]
    facts: Mapping[str, str]
    searches: bool = False


def entities(rows: Sequence[Row], facts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what the engine keeps of usable images: what filters and groups ask for is among it."""
    part, made = _Part(rows, facts), []
    moments, of = times(part).values, {}
    for by, field in FIELDS.items():
        try:
            of[field] = groups(part, by).values
        except ValueError:  # nothing says it of any of them
            of[field] = [f"0 {row.name}" for row in rows]
    for place, row in enumerate(rows):
        one: dict[str, Any] = {key: getattr(row, key) for key in ("name", *_INTEGERS)}
        one |= {key: getattr(row, key) or "" for key in _TEXTS}
        one |= {field: values[place] for field, values in of.items()}
        kind, seconds = moments[place]
        one |= {"moment_kind": kind, "moment": seconds, "draw": hashed(row.name)}
        one["sharpness"] = _UNKNOWN if row.sharpness is None else row.sharpness
        made.append(one | {"feature": np.frombuffer(row.feature, np.float32)})
    return made


def _row(entity: Mapping[str, Any]) -> Row:
    known = {key: entity[key] for key in ("name", *_INTEGERS)} | {key: entity[key] or None for key in _TEXTS}
    feature = None if "feature" not in entity else np.asarray(entity["feature"], np.float32).tobytes()
    sharpness = None if entity["sharpness"] == _UNKNOWN else entity["sharpness"]
    return Row(**known, feature=feature, fault=None, sharpness=sharpness)
