"""Trained networks at work: features of any pictures, and the search in a folder of them."""

from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.inference.gallery import Gallery, Hit, Update

__all__ = ["Extractor", "Gallery", "Hit", "Update"]
