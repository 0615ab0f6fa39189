"""What a command does from start to end: runs, their stages, checks, locks and logs."""

from torchreid_xres.jobs import tasks

__all__ = ["tasks"]
