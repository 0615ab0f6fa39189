"""How many strangers an archive has as near as a hit: learned from its own images at each resolution, without labels.

Some of the archive's images, the probes, are degraded to several effective magnifications (the height of the network's
input over their own) and compared with all others. The nearest share of these may show the probe's own identity; it is
left out, and what strangers do there is read off the rest, probe by probe. A distance is a sum of squares over many
directions, so its root is nearly normal (Fisher), and the distances from that share to the median tell which normal
distribution it is; the mean over the probes has the longer tail that archives have. Where the network's batch
statistics are those of the archive, its features share little, and the cosine itself is nearer to normal: then it is
taken in the root's place (where 0.1 strangers were expected, 0.1 to 0.7 were counted by the root, 0.1 to 0.3 by that).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from torchreid_xres.data.split import shuffled
from torchreid_xres.files import require_regular, write_json
from torchreid_xres.search.nearest import Nearest
from torchreid_xres.terminal import progress

if TYPE_CHECKING:
    from torchreid_xres.inference.extractor import Extractor, Prepared
    from torchreid_xres.search.gallery import Gallery

FILE = "strangers.json"  # in the gallery's folder, or of a query encoder in its own
PROBES = 512  # as they are, which costs no network: some have many near strangers, others none, and few would mislead
DEGRADED = 128  # of them, at each magnification
MAGNIFICATIONS = (2.0, 4.0, 8.0)  # beside the one that the archive's images have
STEP = 1.2  # that a magnification lies above the archive's own, at least
LEAST_PROBES = 16
LEAST_IMAGES = 100  # below which nothing is said
MATES = 0.05  # share of the archive, nearest to a probe, that may be of its identity
SHARES = (MATES, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5)  # where a probe's distances are read
MANY_OTHERS = 0.2  # share of images more or less, above which it is to be measured again
FLOOR = 0.01  # strangers; fewer are not told from none
ROOT, PLAIN = 0.5, 1.0  # exponents
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Level:
    """What strangers do at one effective magnification.

    Attributes:
        magnification: of the probes.
        centres: (P,) of each probe's strangers, median of their distances to the power of ``exponent``.
        spreads: (P,) standard deviation of these in the nearer half.
        exponent: to which distances are taken to be normal.
    """

    magnification: float
    centres: np.ndarray
    spreads: np.ndarray
    exponent: float = ROOT

    def share(self, distance: float) -> float:
        """Return which share of all strangers, 0 to 1, is as near as a distance, mean over the probes."""
        z = (max(distance, 0.0) ** self.exponent - self.centres) / self.spreads
        # Not by NormalDist.cdf, in whose tail nothing is left.
        return 0.5 * sum(map(math.erfc, (-z / math.sqrt(2)).tolist())) / len(z)

    def nearest(self, share: float) -> np.ndarray:
        """Return (P,) of each probe the distance, to that power, that a share of its strangers is as near as."""
        return self.centres + self.spreads * _NORMAL.inv_cdf(share)


@dataclass(frozen=True)
class Strangers:
    """How near the strangers of an archive come, by effective magnification.

    Args:
        levels: by rising magnification, at least one.
        about: what it was measured with and on, as JSON holds it.

    Example:
        A probe whose strangers are 0.64 away (0.8 squared), half of 1,000 images nearer; at 0.36 are 23 of them.

        >>> level = Level(2.0, np.array([0.8]), np.array([0.1]))
        >>> round(Strangers([level], {"images": 1000}).expected(0.36, magnification=3.0), 1)
        22.8
    """

    levels: Sequence[Level]
    about: dict[str, Any]

    def expected(self, distance: float, magnification: float, images: int | None = None) -> float:
        """Return how many images of strangers are expected to be as near as a distance.

        Args:
            distance: in the gallery's metric.
            magnification: of the query; between two that were measured the logarithm is interpolated, beyond them the
                last holds.
            images: that were searched; None: those of the archive when it was measured.
        """
        at = np.log([level.magnification for level in self.levels])
        shares = np.log([max(level.share(distance), 1e-300) for level in self.levels])
        share = math.exp(np.interp(math.log(magnification), at, shares))
        return share * (self.about["images"] if images is None else images)

    @classmethod
    def read(cls, gallery: Gallery, extractor: Extractor) -> Strangers | None:
        """Return what was measured for a gallery; None where nothing was.

        Args:
            gallery: the gallery.
            extractor: the one that queries pass, with the gallery's query encoder or without.

        Raises:
            ValueError: if the file is damaged, or of other networks.
            OSError: if it cannot be read.
        """
        path = _file(gallery, extractor)
        require_regular(path)
        if not path.is_file():
            return None
        again = "build the gallery again" if extractor.query_encoder is None else "adapt the gallery again"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            columns = [
                (
                    float(one["magnification"]),
                    *(np.array(one[key], dtype=np.float64) for key in ("centres", "spreads")),
                    float(one.get("exponent", ROOT)),
                )
                for one in told["levels"]
            ]
            about = {key: value for key, value in told.items() if key != "levels"}
            sound = bool(columns) and about["images"] > 0 and all(map(_sound, columns))
            of = {key: about.get(key) for key in ("weights_sha256", "query_encoder_sha256")}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): {again}") from error
        if not sound:
            raise ValueError(f"{path} is damaged, its numbers cannot be: {again}")
        if of != {"query_encoder_sha256": None} | _networks(gallery, extractor):
            raise ValueError(f"{path} is of another network than the one that answers: {again}")
        return cls([Level(*one) for one in columns], about)

    def write(self, gallery: Gallery, extractor: Extractor) -> None:
        """Write it beside the gallery, or of a query encoder beside that, whole."""
        levels = [
            {
                "magnification": round(level.magnification, 4),
                "centres": [round(value, 6) for value in level.centres.tolist()],
                "spreads": [round(value, 6) for value in level.spreads.tolist()],
                "exponent": level.exponent,
            }
            for level in self.levels
        ]
        write_json(self.about | {"levels": levels}, _file(gallery, extractor))


def measure(gallery: Gallery, extractor: Extractor) -> Strangers | None:
    """Compare an archive's own images, degraded, with the others, and keep what came out beside the gallery.

    Too small an archive says nothing: then nothing is kept, and None returned.

    Args:
        gallery: built before.
        extractor: the one that queries will pass.

    Raises:
        OSError: if an image cannot be read.
    """
    if len(gallery) < LEAST_IMAGES:
        _file(gallery, extractor).unlink(missing_ok=True)
        return None
    heights = np.array([height for height, _ in gallery.sizes])
    own = extractor.size[0] / heights
    place = {name: number for number, name in enumerate(gallery.names)}
    probes = np.array([place[name] for name in shuffled(gallery.names, "strangers")[:PROBES]])
    base = float(np.median(own[probes]))
    found = [_level(gallery, base, probes, np.asarray(gallery.features)[probes])]
    ranked = probes[found[0].nearest(1 / len(gallery)).argsort(kind="stable")]
    wanted = [(m, spread_out(ranked[own[ranked] <= m], DEGRADED)) for m in MAGNIFICATIONS if m >= STEP * base]
    wanted = [(m, rows) for m, rows in wanted if len(rows) >= LEAST_PROBES]
    with progress(total=sum(len(rows) for _, rows in wanted), unit="image", desc="strangers") as bar:
        for magnification, rows in wanted:
            parts = []
            for start in range(0, len(rows), extractor.batch_size):
                batch = rows[start : start + extractor.batch_size]
                seen = [_seen(gallery, extractor, row, magnification) for row in batch]
                parts.append(np.asarray(extractor.describe(seen)))
                bar.update(len(batch))
            found.append(_level(gallery, magnification, rows, np.concatenate(parts)))
    measured = Strangers(found, _networks(gallery, extractor) | {"images": len(gallery)})
    measured.write(gallery, extractor)
    return measured


def spread_out(ranked: np.ndarray, count: int) -> np.ndarray:
    """Return as many of a ranked array, evenly from its first to its last, so that they stand for all.

    Example:
        >>> spread_out(np.arange(10), 4).tolist(), spread_out(np.arange(3), 4).tolist()
        ([1, 3, 6, 8], [0, 1, 2])
    """
    if len(ranked) <= count:
        return ranked
    return ranked[((np.arange(count) + 0.5) * len(ranked) / count).astype(int)]


def is_measured(gallery: Gallery, extractor: Extractor) -> bool:
    """Return whether what lies beside a gallery can be read and is of these networks."""
    try:
        return Strangers.read(gallery, extractor) is not None
    except (OSError, ValueError):
        return False


def in_words(expected: float) -> str:
    """Return a number of expected strangers as it is shown.

    Example:
        >>> [in_words(value) for value in (0.0004, 0.0234, 3.4, 152.3)]
        ['under 0.01', '0.02', '3', '152']
    """
    if expected < FLOOR:
        return f"under {FLOOR:g}"
    return f"{expected:.1g}" if expected < 1 else f"{expected:.0f}"


def notes(strangers: Strangers | None, images: int) -> list[str]:
    """Return what a reader of expected strangers has to know, as lines; also why there are none.

    Args:
        strangers: what was measured.
        images: of the gallery now.
    """
    if strangers is None:
        few = f"that takes {LEAST_IMAGES} images" if images < LEAST_IMAGES else "build (or adapt) it again"
        return [f"Of no hit it is known how many strangers of this archive are as near: {few}."]
    told = "strangers: images of others that this archive is expected to have as near to a query of this size; from 1 "
    lines = [f"{told}on a hit alone says little."]
    measured = strangers.about["images"]
    if abs(images - measured) > MANY_OTHERS * measured:
        lines.append(f"They were measured when it had {measured} images, and it has {images}: build it again.")
    return lines


def lower_half(distances: np.ndarray, exponent: float = ROOT) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and spread of the normal distribution of strangers' distances to a power, row by row.

    Args:
        distances: (P, N) of probes to other images; up to the share ``MATES`` of each row may be mates, wherever they
            are among the nearest.
        exponent: the power.

    Returns:
        (P,) and (P,), float64.

    Example:
        >>> roots = [NormalDist(0.5, 0.1).inv_cdf((place + 0.5) / 1000) for place in range(1000)]
        >>> centre, spread = lower_half(np.array([roots]) ** 2)
        >>> centre.round(2).tolist(), spread.round(2).tolist()
        ([0.5], [0.1])
    """
    at = np.quantile(distances, SHARES, axis=1).astype(np.float64).clip(min=0) ** exponent
    z = np.array([*map(_NORMAL.inv_cdf, SHARES)])[:, None]
    spread = ((z - z.mean()) * at).sum(0) / ((z - z.mean()) ** 2).sum()
    return at.mean(0) - spread * z.mean(), spread.clip(min=1e-6)


def _file(gallery: Gallery, extractor: Extractor) -> Path:
    encoder = extractor.query_encoder
    return (gallery.folder if encoder is None else encoder.folder) / FILE


def _networks(gallery: Gallery, extractor: Extractor) -> dict[str, str]:
    encoder = extractor.query_encoder
    own = {} if encoder is None else {"query_encoder_sha256": encoder.about["weights_sha256"]}
    return {"weights_sha256": gallery.about["weights_sha256"], **own}


def _level(gallery: Gallery, magnification: float, rows: np.ndarray, features: np.ndarray) -> Level:
    centres, spreads, exponent = [], [], PLAIN if gallery.measured_of else ROOT
    for band in Nearest(np.asarray(gallery.features), gallery.about["metric"]).distances(features):
        start = sum(map(len, centres))
        other = np.ones(band.shape, bool)
        other[np.arange(len(band)), rows[start : start + len(band)]] = False
        centre, spread = lower_half(band[other].reshape(len(band), -1), exponent)
        centres.append(centre)
        spreads.append(spread)
    return Level(magnification, np.concatenate(centres), np.concatenate(spreads), exponent)


def _seen(gallery: Gallery, extractor: Extractor, row: int, magnification: float) -> Prepared:
    from torchreid_xres.data.degrade import degrade_image  # with torch, which whoever only reads does without

    img = gallery.picture(gallery.rows[row], extractor.image)
    return extractor.prepare(degrade_image(img, max(1.0, magnification * img.height / extractor.size[0])))


def _sound(level: tuple[float, np.ndarray, np.ndarray, float]) -> bool:
    magnification, centres, spreads, exponent = level
    whole = centres.ndim == 1 and len(centres) > 0 and centres.shape == spreads.shape
    known = 0 < magnification < math.inf and exponent in (ROOT, PLAIN)
    return whole and known and bool(np.isfinite(centres).all() and (spreads > 0).all())
