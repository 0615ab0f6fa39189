"""Re-ranking: distances that also say who is near whom among the nearest."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from torchreid_xres import host
from torchreid_xres.metrics.distance import distance_matrix


def reranked_distances(qf: Tensor, gf: Tensor, metric: str = "euclidean") -> np.ndarray:
    """Return the host's k-reciprocal distances (Zhong et al., CVPR 2017; k1 20, k2 6, lambda 0.3).

    Args:
        qf: query features (Q, D).
        gf: gallery features (G, D).
        metric: what they are compared by, see :func:`torchreid_xres.metrics.distance_matrix`.

    Returns:
        float32 (Q, G). Takes the memory of about ten matrices (Q + G, Q + G).

    Raises:
        ValueError: as :func:`torchreid_xres.metrics.distance_matrix`.
    """
    return host.re_ranking(*(distance_matrix(a, b, metric).numpy() for a, b in ((qf, gf), (qf, qf), (gf, gf))))
