"""Engines: importing this package fills :data:`ENGINES`."""

from torchreid_xres.engine import sr_reid
from torchreid_xres.engine.base import ENGINES, NotFiniteError, SoftmaxEngine, TripletEngine, XresEngine, XresMixin

__all__ = ["ENGINES", "NotFiniteError", "SoftmaxEngine", "TripletEngine", "XresEngine", "XresMixin", "sr_reid"]
