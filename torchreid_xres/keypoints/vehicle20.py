"""The 20 keypoints of VeRi-776: their names, the faces of the vehicle they lie on, and their mirror images.

Points: Z. Wang et al., "Orientation Invariant Feature Embedding and Spatial Temporal Regularization for Vehicle
Re-identification" (OIFE), ICCV 2017. KGNet (A. Zheng et al., Engineering Applications of Artificial Intelligence
2025) takes OIFE's four faces to guide its recovery and three to guide its alignment. Indices here are from 0, in the
order of :data:`KEYPOINTS`; OIFE counts from 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torchreid_xres.synth.vehicle import KEYPOINTS, ORIENTATIONS
from torchreid_xres.tensors import constant

__all__ = ["FACES3", "FACES3_DISJOINT", "FACES4", "FLIPPED", "KEYPOINTS", "ORIENTATIONS", "face_maps", "flip_points"]

Faces = Mapping[str, tuple[int, ...]]

#: The faces of OIFE; a point at a corner lies on two.
FACES4: Faces = {
    "front": (4, 5, 6, 7, 8, 9, 12, 13),
    "back": (14, 15, 16, 17, 18, 19),
    "left": (0, 1, 5, 7, 10, 13, 14, 16),
    "right": (2, 3, 4, 6, 11, 12, 15, 17),
}
#: Left and right as one side.
FACES3: Faces = {
    "front": FACES4["front"],
    "back": FACES4["back"],
    "side": tuple(sorted({*FACES4["left"], *FACES4["right"]})),
}
#: The same with each point on one face only: the side keeps what neither front nor back has.
FACES3_DISJOINT: Faces = {**FACES3, "side": (0, 1, 2, 3, 10, 11)}

_OTHER_SIDE = {"left": "right", "right": "left"}
#: For each point, the one that takes its place in a mirrored picture.
FLIPPED = tuple(
    KEYPOINTS.index(" ".join(_OTHER_SIDE.get(word, word) for word in name.split())) for name in KEYPOINTS
)


def flip_points(points: Tensor) -> Tensor:
    """Return the keypoints of mirrored pictures: x from the other side, and left and right points exchanged.

    Args:
        points: (..., 20, 2), x and y as fractions of width and height, -1 -1 where a point is not visible.

    Returns:
        Points of the same shape; flipping twice gives back what went in.

    Example:
        >>> import torch
        >>> points = torch.full((20, 2), -1.0)
        >>> points[KEYPOINTS.index("left mirror")] = torch.tensor([0.25, 0.5])
        >>> flip_points(points)[KEYPOINTS.index("right mirror")]
        tensor([0.7500, 0.5000])
    """
    mirrored = points.index_select(-2, constant(FLIPPED, torch.int64, points.device))
    visible = mirrored[..., 0] >= 0
    mirrored[..., 0] = (1 - mirrored[..., 0]).where(visible, mirrored[..., 0])
    return mirrored


def face_maps(maps: Tensor, faces: Faces = FACES4) -> Tensor:
    """Return one map per face, the sum of its points' heat maps (KGNet, Section 3.2: D_k).

    Args:
        maps: (N, 20, H, W), one heat map per point.
        faces: name to indices of points, K of them.

    Returns:
        (N, K, H, W).

    Raises:
        ValueError: if there are not 20 maps.

    Example:
        >>> import torch
        >>> face_maps(torch.ones(1, 20, 2, 2))[0, :, 0, 0]
        tensor([8., 6., 8., 8.])
    """
    if maps.dim() != 4 or maps.shape[1] != len(KEYPOINTS):
        raise ValueError(f"expected heat maps (N, {len(KEYPOINTS)}, H, W), got {tuple(maps.shape)}")
    rows = tuple(tuple(point in members for point in range(len(KEYPOINTS))) for members in faces.values())
    belongs = constant(rows, maps.dtype, maps.device)
    # (K, 20), (N, 20, H, W) -> (N, K, H, W)
    return torch.einsum("kp,nphw->nkhw", belongs, maps)
