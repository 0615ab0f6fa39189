"""A gallery with all that answers queries to it: the network, the strangers to expect, the accepted distance."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import PIL.Image

from torchreid_xres.data.native import native_rate
from torchreid_xres.report.answers import Answer, Found
from torchreid_xres.search.filters import Part
from torchreid_xres.search.hits import Hit

if TYPE_CHECKING:
    from torchreid_xres.inference.extractor import Extractor, Prepared
    from torchreid_xres.search.acceptance import Acceptance
    from torchreid_xres.search.reader import Reader
    from torchreid_xres.search.strangers import Strangers


class Query(NamedTuple):
    """A query as it is asked.

    Attributes:
        name: its file, as the user named it.
        picture: its pixels, 8-bit RGB, of the box alone if there is one.
        box: left, top, width and height in its file; None for the whole.
        number: among those that are asked, from 1.
    """

    name: str
    picture: PIL.Image.Image
    box: Sequence[int] | None = None
    number: int = 1


@dataclass(frozen=True)
class Archive:
    """What answers queries to a gallery.

    Args:
        gallery: built before.
        extractor: the gallery's, with its query encoder or without.
        strangers: what is known of its strangers; None: hits get no number of them.
        limit: of a labelled evaluation; None: hits are not judged by one.
    """

    gallery: Reader
    extractor: Extractor
    strangers: Strangers | None = None
    limit: Acceptance | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What answers depend on, as JSON holds it."""
        gallery, encoder = self.gallery, self.extractor.query_encoder
        about = {"gallery": gallery.folder.name, "images": len(gallery), "strangers": self.strangers is not None}
        about |= {key: gallery.about[key] for key in ("model", "weights_sha256", "metric")}
        about |= {} if self.limit is None else {"accept": self.limit._asdict()}
        if encoder is not None:
            about["query_encoder"] = {key: encoder.about[key] for key in ("weights_sha256", "threshold")}
        return about

    def answers(
        self,
        queries: Sequence[Query],
        top: int,
        pictures: bool = True,
        part: Part | None = None,
    ) -> list[Answer]:
        """Return what is found for queries, all in one batch.

        Args:
            queries: any number.
            top: hits of each, at most.
            pictures: read those of the hits, and restore the queries, to be shown.
            part: what of the gallery is searched, see :meth:`torchreid_xres.search.filters.Filters.part`; None: all.
        """
        if not queries:
            return []
        read = [self.extractor.prepare(query.picture) for query in queries]
        part = part or Part(len(self.gallery), len(self.gallery))
        found = self.gallery.search(self.extractor.describe(read), top, part.among, part.groups)
        return [self._answer(*one, part.images, pictures) for one in zip(queries, read, found, strict=True)]

    def _answer(self, query: Query, prepared: Prepared, hits: Sequence[Hit], images: int, pictures: bool) -> Answer:
        extractor = self.extractor
        low, rate = extractor.is_low(prepared.size), native_rate(prepared.size, extractor.full_size)
        asked = {"file": query.name, "box": None if query.box is None else list(query.box)}
        asked |= {"size": list(prepared.size), "rate": rate, "low": low}
        kind = f"low resolution, {rate:.1f} times smaller than {{}}x{{}}" if low else "full resolution for {}x{}"
        told = "{}x{}, {}".format(*prepared.size, kind.format(*extractor.full_size))
        magnification, adapted = extractor.size[0] / prepared.size[0], False
        if extractor.query_encoder is not None:
            adapted = bool(extractor.by_query_encoder([prepared]))
            asked |= {"magnification": magnification, "encoder": "query" if adapted else "gallery"}
            told += f"; enlarged {magnification:.1f} times, answered by the {asked['encoder']} encoder"
        restored = extractor.restored(prepared) if pictures and low and not adapted else None
        found = [self._found(hit, magnification, images, pictures) for hit in hits]
        return Answer(asked, told, query.picture, restored, found, query.number)

    def _found(self, hit: Hit, magnification: float, images: int, pictures: bool) -> Found:
        picture = None
        if pictures:
            with suppress(OSError, ValueError):  # gone or changed since it was indexed: the hit stands without it
                picture = self.gallery.picture(hit, self.extractor.image)
        strangers, limit = self.strangers, self.limit
        if strangers is not None:
            strangers = strangers.expected(self.gallery.distance(hit.score), magnification, images)
        return Found(hit, picture, strangers, None if limit is None else limit.accepts(hit))
