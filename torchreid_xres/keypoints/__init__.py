"""Vehicle keypoints: the 20 points of VeRi-776, their annotations, heat maps, a network that finds them, scores."""

from torchreid_xres.keypoints.annotations import Annotations, KeypointTable, read_annotations
from torchreid_xres.keypoints.heatmaps import (
    TARGETS,
    binary_maps,
    filter_hidden,
    gaussian_maps,
    heatmap_loss,
    hidden,
    peaks,
    to_points,
)
from torchreid_xres.keypoints.hourglass import StackedHourglass
from torchreid_xres.keypoints.scores import pck, pck_by_point, visibility_accuracy
from torchreid_xres.keypoints.vehicle20 import (
    FACES3,
    FACES3_DISJOINT,
    FACES4,
    FLIPPED,
    KEYPOINTS,
    ORIENTATIONS,
    face_maps,
    flip_points,
)

__all__ = [
    "FACES3",
    "FACES3_DISJOINT",
    "FACES4",
    "FLIPPED",
    "KEYPOINTS",
    "ORIENTATIONS",
    "TARGETS",
    "Annotations",
    "KeypointTable",
    "StackedHourglass",
    "binary_maps",
    "face_maps",
    "filter_hidden",
    "flip_points",
    "gaussian_maps",
    "heatmap_loss",
    "hidden",
    "pck",
    "pck_by_point",
    "peaks",
    "read_annotations",
    "to_points",
    "visibility_accuracy",
]
