"""Engines: importing this package fills :data:`ENGINES`."""

from torchreid_xres.engine import keypoints, psh_rnet, restore, restorer, sr_reid
from torchreid_xres.engine.base import ENGINES, NotFiniteError, SoftmaxEngine, TripletEngine, XresEngine, XresMixin

__all__ = [
    "ENGINES",
    "NotFiniteError",
    "SoftmaxEngine",
    "TripletEngine",
    "XresEngine",
    "XresMixin",
    "keypoints",
    "psh_rnet",
    "restore",
    "restorer",
    "sr_reid",
]
