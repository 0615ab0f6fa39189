"""PRPR as one network under the host's loop (the paper and the parts: ``models/prpr.py``)."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from torchreid_xres.engine.base import ENGINES, SoftmaxEngine


@ENGINES.register("prpr")
class PRPREngine(SoftmaxEngine):
    """The host's softmax engine over the four branches at once; the restorer stays as it is."""

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`PRPR` takes from a configuration besides ``model.options``."""
        return {
            "reid": cfg.model.reid,
            "weights": cfg.fusion.weights,
            "size": (cfg.data.height, cfg.data.width),
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
            "interpolation": cfg.data.interpolation,
        }
