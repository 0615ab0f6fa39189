"""Golden values: numbers of networks filled from their parameters' names, kept in ``golden/<name>.json``."""

import json
import os
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
# Relative, in fp32 and one thread. A unit that rounding switches on or off changes a gradient more than a loss.
TOLERANCE = defaultdict(lambda: 1e-4, parameters=0, gradient=1e-2)


def noise(key, *shape):
    """Return standard normal numbers that depend on a text alone; NumPy guarantees this generator's numbers."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)).float()


def fill(model):
    """Fill a model from its parameters' names: what torch draws at the start is another matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = noise(name, *parameter.shape)
            if parameter.ndim > 1:
                values *= parameter[0].numel() ** -0.5
            else:
                values = 0.05 * values + (0.0 if name.endswith("bias") else 1.0)
            parameter.copy_(values)


def probed(said):
    """Return four numbers on each of which all that was said acts, and its norm."""
    return [*(noise("probes", 4, len(said)) @ said / said.norm()).tolist(), said.norm().item()]


def agree_with_kept(name, found):
    """Compare numbers with those kept under a name; where XRES_WRITE_GOLDEN is set, keep them first."""
    path = GOLDEN / f"{name}.json"
    if os.environ.get("XRES_WRITE_GOLDEN"):
        path.write_text(json.dumps(_rounded(found), indent=1) + "\n", encoding="utf-8")
    _agree(found, json.loads(path.read_text(encoding="utf-8")), name)


def _agree(found, kept, *where):
    if isinstance(kept, dict):
        assert found.keys() == kept.keys(), " ".join(where)
        for key, value in kept.items():
            _agree(found[key], value, *where, key)
    else:
        assert found == pytest.approx(kept, rel=TOLERANCE[where[-1]], abs=1e-5), " ".join(where)


def _rounded(found):
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_rounded(value) for value in found]
    return found if isinstance(found, int) else float(f"{found:.7g}")
