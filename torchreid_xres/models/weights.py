"""Checkpoints into re-ID networks: ours, the host's, or bare state dictionaries."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from torchreid_xres.sr.base import FRONT_ENDS
from torchreid_xres.sr.build import read_state, require_scale
from torchreid_xres.tensors import require_finite

logger = logging.getLogger(__name__)


def without_starts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's options without the files of weights that its training started from, which may be gone.

    For a model whose weights are all in a checkpoint. A front end whose architecture is in a file keeps that.

    Example:
        >>> without_starts({"reid_weights": "a.pth", "scale_weights": [3.0, 1.0], "sr": "vdsr", "sr_weights": "b.pth"})
        {'scale_weights': [3.0, 1.0], 'sr': 'vdsr'}
    """
    sr = options.get("sr")
    needed = ["sr_weights"] if sr in FRONT_ENDS and FRONT_ENDS[sr].meta["info"].reads_weights else []
    # What MSIFLA has for scale_weights are numbers.
    files = [key for key, value in options.items() if key.endswith("_weights") and isinstance(value, str)]
    return {key: value for key, value in options.items() if key not in files or key in needed}


def load_weights(model: nn.Module, path: str | Path, strict: bool = False) -> list[str]:
    """Load what fits of a checkpoint, and refuse a file of which nothing fits.

    The host's ``load_pretrained_weights`` only warns in that case and goes on with random weights.

    Args:
        model: changed in place.
        path: checkpoint of ours or of the host, or a bare state dictionary.
        strict: every layer but the classifier must fit (evaluation); otherwise layers of another name or size
            are left as they are (fine-tuning for other identities).

    Returns:
        The names in the model that were not loaded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file does not fit, what fits is not finite, or a front end is of another scale.
    """
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in read_state(path).items()}
    own = model.state_dict()
    fits = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    missing = [name for name in own if name not in fits]
    needed = [name for name in missing if "classifier" not in name]
    if not fits or (strict and needed):
        lacking = needed if strict else missing
        raise ValueError(
            f"{path} does not fit {type(model).__name__}: {len(lacking)} of {len(own)} tensors are missing or of "
            f"another shape, the first: {', '.join(lacking[:3])}; the file has {', '.join(list(state)[:3])}, ..."
        )
    require_finite(fits, path)
    model.load_state_dict(fits, strict=False)
    require_scale(model, path)
    logger.info("loaded %d of %d tensors from %s", len(fits), len(own), path)
    return missing
