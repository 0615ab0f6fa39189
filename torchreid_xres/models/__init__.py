"""Models: importing this package fills :data:`MODELS`."""

from torchreid_xres.models import sr_reid
from torchreid_xres.models.registry import MODELS, build_model, host_builder

__all__ = ["MODELS", "build_model", "host_builder", "sr_reid"]
