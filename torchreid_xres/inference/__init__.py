"""Trained networks at work: features of any pictures."""

from torchreid_xres.inference.extractor import Extractor

__all__ = ["Extractor"]
