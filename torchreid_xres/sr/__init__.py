"""Super-resolution front ends: any image in, the asked size out.

``build_front_end(name, ...)`` builds one, ``list(FRONT_ENDS)`` names them all.
"""

from torchreid_xres.sr import (  # noqa: F401 (registers)
    edsr,
    fsrcnn,
    interpolate,
    rcan,
    spandrel,
    srcnn,
    vdsr,
    vdsr_ca,
)
from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd, FrontEndInfo
from torchreid_xres.sr.build import build_front_end, load_weights, read_state

__all__ = ["FRONT_ENDS", "FrontEnd", "FrontEndInfo", "build_front_end", "load_weights", "read_state"]
