"""Drawn people: a person set that needs no download."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from torchreid_xres.data.base import DATASETS
from torchreid_xres.data.datasets.drawn import DrawnDataset, Shot
from torchreid_xres.synth.figure import Figure
from torchreid_xres.synth.person import draw_person
from torchreid_xres.synth.sidewalk import Place, portrait


@DATASETS.register(
    "synth_person",
    cite="drawn by this package",
    page="",
    terms="free, as this package",
    natural=False,
    downloadable=False,
)
class SynthPerson(DrawnDataset):
    """People drawn from a seed: body shape, clothes, patterns, bags and hair under several cameras.

    Each camera has its scene, light, colours and size of picture, 192 to 256 pixels high and half as wide. Four people
    at a time share build, hair and main colours, and differ in the pitch of a pattern, an emblem, shoes, belt, glasses
    or a bag: the finer the detail, the sooner it is lost as the resolution falls.

    Folder: ``synth_person/<hash of the options>``, with ``train`` and ``test``; names
    ``<identity>_c<camera>s1_<shot>_00.jpg`` as in Market-1501.

    Options: those of ``DrawnDataset``.
    """

    name = "synth_person"
    pattern = "{pid:04d}_c{camera}s1_{shot:06d}_00.jpg"

    def draw(self, folder: Path, shots: list[Shot], seed: int) -> Iterator[str]:
        places = {camera: Place.draw(seed, camera) for camera in {shot.camera for shot in shots}}
        for pid, own in groupby(shots, key=lambda shot: shot.pid):
            figure = Figure(draw_person(seed, pid), seed, pid)
            for shot in own:
                key = (seed, "portrait", pid, shot.camera)
                image = portrait(figure, places[shot.camera], shot.number, shot.count, key)
                image.save(folder / shot.name, quality=95, subsampling=0)
                yield shot.name
