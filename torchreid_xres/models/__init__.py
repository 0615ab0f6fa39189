"""Models: importing this package fills :data:`MODELS`."""

from torchreid_xres.models import (
    asymmetric,
    dgrl,
    dgrl_restorer,
    hourglass_vehicle20,
    hrnet_reid,
    kgnet,
    msifla,
    prpr,
    prpr_restorer,
    psh_rnet,
    sr_reid,
    vpfa,
)
from torchreid_xres.models.registry import MODELS, build_model, host_builder

__all__ = [
    "MODELS",
    "asymmetric",
    "build_model",
    "dgrl",
    "dgrl_restorer",
    "host_builder",
    "hourglass_vehicle20",
    "hrnet_reid",
    "kgnet",
    "msifla",
    "prpr",
    "prpr_restorer",
    "psh_rnet",
    "sr_reid",
    "vpfa",
]
