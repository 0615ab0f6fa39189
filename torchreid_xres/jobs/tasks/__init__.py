"""The work of a stage that is no training loop: importing this package fills :data:`~torchreid_xres.jobs.run.TASKS`."""

from torchreid_xres.jobs.tasks import fuse, own_statistics, restore, restore_pairs, vpfa

__all__ = ["fuse", "own_statistics", "restore", "restore_pairs", "vpfa"]
