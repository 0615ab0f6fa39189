"""Drawn vehicles with keypoints: a vehicle set that needs no download."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from torchreid_xres.data.base import DATASETS, Split
from torchreid_xres.data.datasets.drawn import DrawnDataset, Shot
from torchreid_xres.synth.coachwork import Coachwork
from torchreid_xres.synth.roadside import Road, passing
from torchreid_xres.synth.vehicle import draw_vehicle


@DATASETS.register(
    "synth_vehicle",
    cite="drawn by this package",
    page="",
    terms="free, as this package",
    natural=False,
    downloadable=False,
)
class SynthVehicle(DrawnDataset):
    """Vehicles drawn from a seed as bodies in perspective, from all sides, longer side 128 to 192 pixels.

    Four vehicles at a time share kind, paint and proportions, and differ in rims, stripes, stickers, lamps, grille and
    what is on the roof. ``keypoints.txt`` annotates every picture as the public VeRi-776 files do: name, x and y of the
    20 points of ``synth.vehicle.KEYPOINTS`` (-1 -1 = not visible), orientation code.

    Folder: ``synth_vehicle/<hash of the options>``, with ``train``, ``test`` and ``keypoints.txt``; names
    ``<identity>_c<camera>_<shot>_0.jpg`` as in VeRi-776.

    Options: those of ``DrawnDataset``.

    Attributes:
        keypoints_file: path of ``keypoints.txt``; the names in it are relative to its folder.
    """

    name = "synth_vehicle"
    pattern = "{pid:04d}_c{camera:03d}_{shot:08d}_0.jpg"

    def load(self, root: Path, split_id: int, **options: int) -> Split:
        split = super().load(root, split_id, **options)
        self.keypoints_file = str(Path(split.folder) / "keypoints.txt")
        return split

    def draw(self, folder: Path, shots: list[Shot], seed: int) -> Iterator[str]:
        roads = {camera: Road.draw(seed, camera) for camera in {shot.camera for shot in shots}}
        lines = []
        for pid, own in groupby(shots, key=lambda shot: shot.pid):
            coachwork = Coachwork(draw_vehicle(seed, pid))
            for shot in own:
                key = (seed, "passing", pid, shot.camera)
                photo = passing(coachwork, roads[shot.camera], shot.number, shot.count, key)
                photo.image.save(folder / shot.name, quality=95, subsampling=0)
                lines.append(" ".join(map(str, (shot.name, *photo.keypoints.ravel(), photo.orientation))))
                yield shot.name
        (folder / "keypoints.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
