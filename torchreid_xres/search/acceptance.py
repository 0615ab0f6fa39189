"""Which hits of a search are near enough: a distance measured when the gallery's run was evaluated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from torchreid_xres.features.record import weights_hash
from torchreid_xres.features.records import read_record
from torchreid_xres.inference.network import run_folder
from torchreid_xres.search.gallery import Gallery
from torchreid_xres.search.hits import Hit
from torchreid_xres.sr.build import read_state

AGAIN = "evaluate the run again (tools/train.py --config-file <its data.save_dir>/config.yaml test.evaluate True)"


class Acceptance(NamedTuple):
    """What makes a hit near enough, and on what that was measured.

    Attributes:
        fpr: share of the pairs of different identities that were accepted, at most.
        tpr: share of the pairs of one identity that were, in per cent.
        distance: the largest that was accepted, in the gallery's metric.
        score: of a hit at that distance; a hit of at least this score is accepted.
        dataset: whose test images these were.
    """

    fpr: float
    tpr: float
    distance: float
    score: float
    dataset: str

    def accepts(self, hit: Hit) -> bool:
        """Return whether a hit is near enough."""
        return hit.score >= self.score


def acceptance(gallery: Gallery, fpr: float, weights: str | Path = "", dataset: str = "") -> Acceptance:
    """Return from which score on a hit is accepted, by the evaluation of the run that the gallery was made with.

    Args:
        gallery: the gallery.
        fpr: false positive rate, one of those in the run's record (0.01 and 0.001).
        weights: where run or checkpoint are now; empty: where they were.
        dataset: the evaluated set, for a run with several.

    Raises:
        FileNotFoundError: if the checkpoint lies in no run's folder, or the run was not evaluated.
        ValueError: if the record has no distance for this rate, or was made with other weights or other distances
            than the gallery, or there are several records; if no more pairs of one identity than of others pass, or
            there were fewer than 1 / ``fpr`` of others.

    Example:
        Hits that a stranger gets in one of a thousand comparisons, as measured on the run's test set::

            gallery = Gallery("log/gallery")
            limit = acceptance(gallery, 0.001)
            hits = gallery.search(gallery.make_extractor()("query.jpg"))[0]
            near = [hit for hit in hits if limit.accepts(hit)]
    """
    checkpoint = gallery.checkpoint(weights)
    folder = run_folder(checkpoint)
    if folder is None:
        raise FileNotFoundError(
            f"{checkpoint} lies in no folder of a run (it has no run.json), so there is no evaluation that says which "
            "distances to accept"
        )
    record = read_record(folder, dataset)
    measured = f"the record of {record['dataset']} in {folder / 'results'}"
    if "tpr" not in record:
        raise ValueError(f"{measured} tells nothing of verification, so no distance to accept hits by; {AGAIN}")
    if "accept" not in record:
        raise ValueError(f"{measured} was written before records held distances to accept hits by; {AGAIN}")
    _require_same_distances(gallery.about, record["protocol"], measured)
    if record.get("weights_sha256") != weights_hash(read_state(checkpoint)):
        raise ValueError(
            f"{measured} (epoch {record.get('epoch')}) was made with other weights than {checkpoint} holds; {AGAIN}, "
            f"for other weights than the last with model.load_weights {checkpoint}"
        )
    key = f"fpr{fpr:g}"
    if key not in record["accept"]:
        there = ", ".join(name.removeprefix("fpr") for name in record["accept"])
        raise ValueError(f"{measured} holds the distance at the false positive rates {there}, not at {fpr:g}")
    distance = record["accept"][key]
    if distance is None:
        raise ValueError(f"{measured} has no pair that is accepted at the false positive rate {fpr:g}: take a higher")
    tpr = record["tpr"].get(key)
    if tpr is None:
        raise ValueError(f"{measured} is damaged: {key} is {distance} in accept and not in tpr; {AGAIN}")
    _require_evidence(fpr, tpr, record, measured)
    return Acceptance(fpr, tpr, distance, gallery.score(distance), record["dataset"])


def _require_evidence(fpr: float, tpr: float, record: dict[str, Any], measured: str) -> None:
    if tpr <= 100 * fpr:
        raise ValueError(
            f"{measured} accepts {tpr:.3g} % of the pairs of one identity at the false positive rate {fpr:g}, no more "
            "than of the others: such a distance tells nobody apart"
        )
    # Records of before hold the images alone: of these there are at most so many pairs.
    images = record.get("query_images"), record.get("gallery_images")
    pairs = record.get("wrong_pairs", None if None in images else images[0] * images[1])
    if pairs is not None and pairs * fpr < 1 - 1e-9:
        raise ValueError(
            f"{measured} is of {pairs} pairs of different identities, and a false positive rate of {fpr:g} is measured "
            f"on {math.ceil(1 / fpr)} at least: take a higher"
        )


def _require_same_distances(about: dict[str, Any], protocol: dict[str, Any], measured: str) -> None:
    missing = {"rerank", "distance", "flip", "normalize"} - protocol.keys()
    if missing:
        raise ValueError(f"{measured} is damaged: its protocol has no {', no '.join(sorted(missing))}; {AGAIN}")
    if protocol["rerank"]:
        raise ValueError(
            f"{measured} is of re-ranked distances, and a search does not re-rank; {AGAIN}, with test.rerank False"
        )
    keys = {"distance": "metric", "flip": "flip"}
    if protocol["distance"] == "euclidean":  # cosines do not depend on it
        keys["normalize"] = "normalize"
    for theirs, ours in keys.items():
        if protocol[theirs] != about[ours]:
            raise ValueError(
                f"{measured} is of other distances than the gallery's: {theirs} is {protocol[theirs]} there and "
                f"{about[ours]} here; {AGAIN} with the gallery's"
            )
