"""Data: reading, degrading, the protocol of who is low resolution, and the base of every data set."""

from torchreid_xres.data.base import CrossResolutionDataset, Image, Split, SummedDataset
from torchreid_xres.data.degrade import KERNELS, degrade_image, degrade_tensor, low_size, round_trip, undo_enlargement
from torchreid_xres.data.io import read_image
from torchreid_xres.data.options import COMMON_OPTIONS, DATASETS, dataset_options
from torchreid_xres.data.protocol import Manifest, draw_rate, file_sha256

__all__ = [
    "COMMON_OPTIONS",
    "DATASETS",
    "KERNELS",
    "CrossResolutionDataset",
    "Image",
    "Manifest",
    "Split",
    "SummedDataset",
    "dataset_options",
    "degrade_image",
    "degrade_tensor",
    "draw_rate",
    "file_sha256",
    "low_size",
    "read_image",
    "round_trip",
    "undo_enlargement",
]
