"""Engines: importing this package fills :data:`ENGINES`."""

from torchreid_xres.engine import (
    asymmetric,
    dgrl,
    dgrl_restorer,
    keypoints,
    kgnet,
    msifla,
    prpr,
    psh_rnet,
    restorer,
    sr_reid,
)
from torchreid_xres.engine.base import ENGINES, NotFiniteError, SoftmaxEngine, TripletEngine, XresEngine, XresMixin

__all__ = [
    "ENGINES",
    "NotFiniteError",
    "SoftmaxEngine",
    "TripletEngine",
    "XresEngine",
    "XresMixin",
    "asymmetric",
    "dgrl",
    "dgrl_restorer",
    "keypoints",
    "kgnet",
    "msifla",
    "prpr",
    "psh_rnet",
    "restorer",
    "sr_reid",
]
