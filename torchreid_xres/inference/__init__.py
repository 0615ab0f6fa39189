"""Trained networks at work: features of any pictures, and files that other programs run."""

from torchreid_xres.inference.extractor import Extractor

__all__ = ["Extractor"]
