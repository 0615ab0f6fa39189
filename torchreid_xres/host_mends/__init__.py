"""Mends of the host: what breaks in torchreid on today's stack, put right from outside.

Each entry of :data:`MENDS` names one fault, where it sits and what is replaced. ``import torchreid_xres``
puts all in, once; plain torchreid calls are then mended too. :func:`bare_host` takes them out for a block.

Deliberately left as they are:

- ``build_optimizer`` and ``build_lr_scheduler`` know a closed list of names (no ``adamw``): engines take any
  optimizer or scheduler object.
- ``FeatureExtractor`` puts a whole list of images into one batch.
- "euclidean" is squared Euclidean, and ``re_ranking`` squares it once more: published figures rest on both.
- ``Engine.test`` returns the last target's rank-1 only, and prints the others.
- Ranks above 50 in ``Engine.run``: the host never asks its evaluator for a longer curve.
- ``RandomIdentitySampler`` announces more batches than it gives and splits identities over batches when
  ``num_instances`` does not divide the batch; ``RandomDomainSampler`` changes its length.
- Under DistributedDataParallel samplers are not distributed and every process tests (but only the first saves).
- ``load_pretrained_weights`` only warns when nothing in the file fits the model.
- Random splits of VIPeR and others depend on the global NumPy seed when they are first made, and
  the order of images on that of the file system.
- ``visualize_ranked_results`` shows the files as they are, not what a transform made of them.
- Generators' states are not in the host's checkpoints; our engines keep them.
"""

# Importing these fills MENDS.
from torchreid_xres.host_mends import checkpoints, data, evaluation, splits, training, zoo  # noqa: F401
from torchreid_xres.host_mends.evaluation import use_host_evaluator
from torchreid_xres.host_mends.table import MENDS, Mend, apply, bare_host
from torchreid_xres.host_mends.training import unwrap

__all__ = ["MENDS", "Mend", "apply", "bare_host", "unwrap", "use_host_evaluator"]
