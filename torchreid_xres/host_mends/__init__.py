"""Mends of the host: what breaks in torchreid on today's stack, put right from outside.

Each entry of :data:`MENDS` names one fault, where it sits and what is replaced. ``import torchreid_xres``
puts all in, once; plain torchreid calls are then mended too. :func:`bare_host` takes them out for a block.

What is deliberately left as it is stands in ``docs/host.md``.
"""

# Importing these fills MENDS.
from torchreid_xres.host_mends import checkpoints, data, evaluation, splits, training, zoo  # noqa: F401
from torchreid_xres.host_mends.evaluation import use_host_evaluator
from torchreid_xres.host_mends.table import MENDS, Mend, apply, bare_host
from torchreid_xres.host_mends.training import unwrap

__all__ = ["MENDS", "Mend", "apply", "bare_host", "unwrap", "use_host_evaluator"]
